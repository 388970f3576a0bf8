"""From a folder of raw text to a language model that writes: every part from scratch, and readable.

    config      every knob
    nn          the model                  optim       AdamW, schedule, clipping
    tokenizer   byte-level BPE             data        text -> token files -> batches
    trainer     the training loop          checkpoint  saving, loading
    infer       sampling, generation       evaluate    loss, perplexity, bits per byte
    logging     console, wandb             cli         the commands

Importing this package imports none of them: take names from the packages themselves, as in
`from transformerlm.nn import TransformerLM`. One name is here too, and imports what it needs when it is
first asked for:

    from transformerlm import LanguageModel
    LanguageModel.load("runs/python-stdlib").generate("Once upon a time")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformerlm.language_model import LanguageModel

__version__ = "0.1.0"
__all__ = ["LanguageModel", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "LanguageModel":
        from transformerlm.language_model import LanguageModel

        return LanguageModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
