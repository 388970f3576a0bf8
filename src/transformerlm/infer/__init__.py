"""From a model and a prompt to text.

Read `sampling.py` first (which token), then `texts.py` (what the model sees of a text), `generate.py`
(token by token), `complete.py` (text to text).
"""

from transformerlm.infer.complete import (
    Completion,
    OnText,
    check_prompts,
    complete,
    completion_values,
    eos_token_id,
)
from transformerlm.infer.generate import generate, steps, stream
from transformerlm.infer.sampling import sample, top_k_filter, top_p_filter
from transformerlm.infer.texts import window_start

__all__ = [
    "Completion",
    "OnText",
    "check_prompts",
    "complete",
    "completion_values",
    "eos_token_id",
    "generate",
    "sample",
    "steps",
    "stream",
    "top_k_filter",
    "top_p_filter",
    "window_start",
]
