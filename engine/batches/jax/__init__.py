"""Many replications side by side in JAX: the same numbers as the other backends, on CPUs and GPUs."""
