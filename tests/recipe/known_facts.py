"""Facts about a text and a machine, as if measured, and configs that leave the choice to others."""

from transformerlm.config import TrainConfig
from transformerlm.config.automatic import with_automatic
from transformerlm.recipe import Budget, TextFacts, TrainingSpeed
from transformerlm.recipe.pilot import Pilot
from transformerlm.schema import from_dict

SPEED = TrainingSpeed({64: 1e11, 128: 2e11, 256: 4e11})


def facts(train_bytes: int = 1_000_000, bits: float = 2.5) -> TextFacts:
    tokens = {257: 1.0, 512: 2.0, 1024: 2.5, 2048: 2.9, 4096: 3.3}
    return TextFacts(train_bytes, train_bytes // 20, bits, Pilot(bits * 1.2, 10**6, 1024), tokens)


def automatic(**tables: dict[str, object]) -> TrainConfig:
    """All that the choice leaves to others is set: the tokenizer and the folders."""
    known = {"tokenizer": {"vocab_size": 257, "tokenizer_dir": "t"}, "data": {"token_dir": "t"}}
    given = {**known, "training": {"max_time": "2m", **tables.pop("training", {})}, **tables}
    return from_dict(TrainConfig, with_automatic(given))


def budget(seconds: float = 110.0) -> Budget:
    return Budget(seconds, tokens_at_a_time=1024)
