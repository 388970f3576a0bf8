"""The optimizer and what goes with it, from scratch."""

from transformerlm.optim.adamw import AdamW
from transformerlm.optim.clip import clip_grad_norm_
from transformerlm.optim.groups import parameter_groups
from transformerlm.optim.schedule import cosine_schedule

__all__ = ["AdamW", "clip_grad_norm_", "cosine_schedule", "parameter_groups"]
