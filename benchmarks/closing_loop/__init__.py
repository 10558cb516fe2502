"""An engine is calibrated by micro-benchmarks alone, serves requests for real, and is predicted."""
