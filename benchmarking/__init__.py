"""Benchmarks of the package beside its peers. They import the package; nothing imports them."""
