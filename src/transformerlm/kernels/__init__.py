"""CPU kernels: inner loops in Python that numba compiles; their compilation, cache, loading and calls."""
