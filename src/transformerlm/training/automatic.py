"""Resolution of "auto" in the config of a run: from the run's own config, or chosen by `recipe`.

What can be chosen before there is a tokenizer, its vocabulary, is; the rest is chosen when the tokens are
counted. Of several ranks rank 0 chooses.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformerlm.checkpoint.own_settings import config_of_run
from transformerlm.config import TrainConfig
from transformerlm.config.automatic import with_values
from transformerlm.errors import Key
from transformerlm.schema import to_dict

VOCAB_SIZE, TOKENIZER_DIR, TOKEN_DIR = (
    Key("tokenizer", "vocab_size"),
    Key("tokenizer", "tokenizer_dir"),
    Key("data", "token_dir"),
)


def as_begun(config: TrainConfig, run_dir: Path) -> TrainConfig:
    """Return the config with "auto" replaced by the numbers of the run that is in `run_dir`, if there is one."""
    begun = config_of_run(run_dir)
    if not begun or config.training.resume == "never":
        return config
    defaults = to_dict(TrainConfig())

    def value_of(key: Key) -> Any:
        table, name = key
        return begun.get(table, {}).get(name, defaults[table].get(name))

    return with_values(config, {key: value_of(key) for key in config.automatic()})


def with_folders(config: TrainConfig, vocab_size: int | None) -> TrainConfig:
    """Return the config with known folders of tokenizer and tokens, and with this vocabulary.

    Args:
        vocab_size: the size that was chosen; None: that of the tokenizer that is there.
    """
    automatic = config.automatic()
    folder = "data/{corpus}" if vocab_size is None else f"data/{{corpus}}/{vocab_size}-ids"
    values = {VOCAB_SIZE: vocab_size, TOKENIZER_DIR: f"{folder}/tokenizer", TOKEN_DIR: folder}
    return with_values(config, {key: value for key, value in values.items() if key in automatic})
