"""Options of [model] that the plain model does without, by themselves and together."""

import torch
from torch import nn

YARN = {"rope_scaling": "yarn", "rope_factor": 4.0, "rope_original_length": 8, "rope_beta_fast": 4.0}
LLAMA3 = {"rope_scaling": "llama3", "rope_factor": 8.0, "rope_original_length": 32}
OPTIONS = {
    "wide heads": {"d_head": 12},
    "biases": {"qkv_bias": True},
    "linear": {"rope_scaling": "linear", "rope_factor": 4.0},
    "llama3": LLAMA3,
    "yarn": YARN,
    "window": {"sliding_window": 5},
    "window in a layer": {"sliding_window": 5, "full_attention_layers": (0,)},
    "no rotation in a layer": {"nope_layers": (1,)},
}
TOGETHER = {
    **{"d_head": 12, "qkv_bias": True, "qk_norm": True, "sliding_window": 5, "full_attention_layers": (0,)},
    **YARN,
    "nope_layers": (0,),
}
"""The window in layer 1, the rotation everywhere but in layer 0."""


def with_biases(model: nn.Module) -> nn.Module:
    """Draw the biases of a model, which are zeros at first."""
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            with torch.no_grad():
                parameter.uniform_(-0.5, 0.5)
    return model
