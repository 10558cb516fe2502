"""Numba kernels: the reference, with as many identical steps at once as the closed form allows."""
