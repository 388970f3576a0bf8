"""Several processes that train one model.

`world.py` says which of how many this one is, `ranks.py` and `collectives.py` how they communicate, and
`sharding.py` how a model is divided among them.
"""
