"""Several processes that train one model.

`world.py` holds the numbers of this process, `ranks.py` and `collectives.py` the communication,
`sharding.py` the division of a model among the processes, and `exchange.py` the way back to whole tensors.
"""
