"""Every key under which this package logs something, spelled once.

A key is `group.name`: `metrics` are measured, `params` are given, `text` is written or read, `norms`
come one per module or parameter. Numbers carry their unit in the name or are counts and ratios.
"""

from __future__ import annotations

LOSS = "metrics.loss"
"""Mean cross-entropy of the training batch, nats per token."""
LR = "metrics.lr"
"""Learning rate of the step that this record is about."""
GRAD_L2_NORM = "metrics.grad_l2_norm"
"""Global L2 norm of the gradients before clipping."""
VAL_LOSS = "metrics.val_loss"
"""Mean cross-entropy over the validation split, nats per token."""
VAL_PERPLEXITY = "metrics.val_perplexity"
"""exp(validation loss)."""
VAL_BITS_PER_BYTE = "metrics.val_bits_per_byte"
"""Validation loss in bits, per byte of the text that the tokens stand for."""
TOKENS = "metrics.tokens"
"""Tokens trained on so far."""
TOKENS_PER_SECOND = "metrics.tokens_per_second"
"""Throughput since the record before."""
MFU = "metrics.mfu"
"""Model FLOPs utilisation: the model's own arithmetic over the device's measured ceiling, 0 to 1."""
DATA_WAIT_FRACTION = "metrics.data_wait_fraction"
"""Part of the steps' time since the record before that was spent waiting for their data, 0 to 1."""
SECONDS_REMAINING = "metrics.seconds_remaining"
"""What the remaining steps take at the present throughput; validating and saving are not counted."""
SPIKES = "metrics.spikes"
"""Steps so far whose loss or gradient norm was far above those before."""
SKIPPED_STEPS = "metrics.skipped_steps"
"""Steps so far that were not taken: not finite, or spikes that are to be skipped."""

LATENCY_MS = "metrics.latency_ms"
"""Milliseconds from a prompt to the end of its text."""
FIRST_TOKEN_MS = "metrics.first_token_ms"
"""Milliseconds from a prompt to the first token of its text."""

TEMPERATURE = "params.temperature"
"""Divisor of the logits; 0 is greedy."""
TOP_P = "params.p"
"""Nucleus probability."""
EOS_TOKEN_ID = "params.eos_token_id"
"""Id of the token that ends a text; -1 where none does."""

PROMPT = "text.prompt"
"""The text to continue."""
OUTPUT = "text.output"
"""The continuation."""

ACTIVATION_NORM = "norms.activation"
"""Prefix: `norms.activation.<module>`."""
WEIGHT_NORM = "norms.weight"
"""Prefix: `norms.weight.<parameter>`."""
