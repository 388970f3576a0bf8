"""Generation: from a model and a prompt to text.

In reading order: `sampling` (logits to a token), `batch` (each text's window of context, with a key-value
cache), `decoder` (one step of a batch), `static_decoder` (a step as a CUDA graph), `generate` (ids to ids),
`running_batch` and `continuous` (texts that join and leave a batch), `stopping` (ends of texts), `completion`
(text to text), `chat_template` and `chat` (conversations to text and ids).
"""

from transformerlm.infer.batch import window_start
from transformerlm.infer.completion import (
    Completion,
    Continuation,
    OnText,
    check_prompts,
    complete,
    completion_values,
    completions,
    cut_prompts_warning,
    extend,
    start,
)
from transformerlm.infer.continuous import ContinuousBatch
from transformerlm.infer.generate import DecodingSettings, NewToken, generate, steps, stream
from transformerlm.infer.sampling import (
    Sampling,
    log_probabilities,
    min_p_filter,
    repetition_penalty,
    sample,
    top_k_filter,
    top_p_filter,
)
from transformerlm.infer.stopping import FinishReason

__all__ = [
    "Completion",
    "Continuation",
    "ContinuousBatch",
    "DecodingSettings",
    "FinishReason",
    "NewToken",
    "OnText",
    "Sampling",
    "check_prompts",
    "complete",
    "completion_values",
    "completions",
    "cut_prompts_warning",
    "extend",
    "generate",
    "log_probabilities",
    "min_p_filter",
    "repetition_penalty",
    "sample",
    "start",
    "steps",
    "stream",
    "top_k_filter",
    "top_p_filter",
    "window_start",
]
