"""Optimizers, gradient clipping and learning-rate schedules, from scratch."""

from transformerlm.optim.adamw import AdamW
from transformerlm.optim.clip import clip_grad_norm_, gradient_norms, scale_gradients_
from transformerlm.optim.groups import make_optimizer, parameter_groups
from transformerlm.optim.muon import Muon, orthogonalized
from transformerlm.optim.schedule import (
    Anneal,
    anneal_steps,
    cosine_schedule,
    fitted_warmup,
    lr_factor,
    wsd_schedule,
)

__all__ = [
    "AdamW",
    "Anneal",
    "Muon",
    "anneal_steps",
    "clip_grad_norm_",
    "cosine_schedule",
    "fitted_warmup",
    "gradient_norms",
    "lr_factor",
    "make_optimizer",
    "orthogonalized",
    "parameter_groups",
    "scale_gradients_",
    "wsd_schedule",
]
