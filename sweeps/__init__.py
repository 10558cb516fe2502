"""What to run: specifications, workloads, plans and runs, calibration, the papers, theory, the command line."""
