"""Many replications side by side, one to a lane, in JAX: the same numbers as the other backends, on CPUs and GPUs."""
