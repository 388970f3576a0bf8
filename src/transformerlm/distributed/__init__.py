"""Several processes that train one model: who they are, how they communicate, how a model is divided."""
