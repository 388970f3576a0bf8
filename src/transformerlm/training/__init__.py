"""Training: the loop, its step, its budget, and what a run is made of."""
