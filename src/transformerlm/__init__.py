"""From a folder of raw text to a language model: every part written from scratch, to be read.

    config      every key                  logging     console, wandb
    nn          the model                  optim       AdamW, Muon, schedules, clipping
    tokenizer   byte-level BPE             data        text -> token files -> batches
    training    a whole run, the loop      checkpoint  saving, loading
    infer       sampling, generation       evaluation  loss, perplexity, bits per byte
    conversion  Hugging Face, GGUF         cli         the commands

Importing this package imports none of them: import names from the packages themselves, as in
`from transformerlm.nn import TransformerLM`. One name is available here too, and is imported when it is first
used:

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
