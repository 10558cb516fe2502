"""The engine as machine code: one kernel for batches that bins release, one for batches that free servers take."""
