"""The kernels of batches that run as a whole: one loop for static batches, one for dynamic ones."""
