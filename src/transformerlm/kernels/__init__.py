"""The inner loops as Python that numba compiles, and what compiles, keeps, loads and calls them."""
