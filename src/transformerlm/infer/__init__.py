"""From a model and a prompt to text.

Read `sampling.py` first (which token), then `texts.py` (what the model sees of a text), `generate.py`
(token by token), `stopping.py` and `continuation.py` (what a text's tokens come to, and where it ends),
`complete.py` (text to text).
"""

from transformerlm.infer.batch import window_start
from transformerlm.infer.completion import (
    OnText,
    begin,
    check_prompts,
    complete,
    completion_values,
    eos_token_id,
    finished,
    grow,
)
from transformerlm.infer.continuation import Completion, Continuation, FinishReason
from transformerlm.infer.generate import NewToken, generate, steps, stream
from transformerlm.infer.sampling import (
    Sampling,
    log_probabilities,
    min_p_filter,
    repetition_penalty,
    sample,
    top_k_filter,
    top_p_filter,
)

__all__ = [
    "Completion",
    "Continuation",
    "FinishReason",
    "NewToken",
    "OnText",
    "Sampling",
    "begin",
    "check_prompts",
    "complete",
    "completion_values",
    "eos_token_id",
    "finished",
    "generate",
    "grow",
    "log_probabilities",
    "min_p_filter",
    "repetition_penalty",
    "sample",
    "steps",
    "stream",
    "top_k_filter",
    "top_p_filter",
    "window_start",
]
