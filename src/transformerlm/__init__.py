"""From a folder of raw text to a language model that writes: every part from scratch, and readable.

    config      every knob
    nn          the model                  optim       AdamW, schedule, clipping
    tokenizer   byte-level BPE             data        text -> token files -> batches
    trainer     the training loop          checkpoint  saving, loading
    infer       sampling, generation       evaluate    loss, perplexity, bits per byte
    logging     console, wandb             cli         the commands

Importing this package imports none of them: take names from the packages themselves, as in
`from transformerlm.nn import TransformerLM`.
"""

__version__ = "0.1.0"
