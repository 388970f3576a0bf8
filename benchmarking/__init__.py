"""Measurements beside the peers. They import the package; nothing imports them."""
