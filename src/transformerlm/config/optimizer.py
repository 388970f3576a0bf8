"""[optimizer] and [schedule]: how weights are updated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from transformerlm.errors import Key, Problem
from transformerlm.schema import (
    AutoNonNegativeFloat,
    AutoNonNegativeInt,
    AutoPositiveFloat,
    Fraction,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Probability,
    Section,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig(Section):
    """[optimizer]: AdamW or Muon, and gradient clipping."""

    name: Literal["adamw", "muon"] = "adamw"
    """"adamw": AdamW for all parameters. "muon": Muon for the matrices inside the blocks, AdamW for the
    rest."""
    lr: AutoPositiveFloat = 1e-3
    """Peak learning rate of AdamW. "auto": chosen for the text, the machine and [training].max_time, here and
    below."""
    muon_lr: AutoPositiveFloat = 0.02
    """Peak learning rate of Muon, on the same schedule."""
    muon_momentum: Fraction = 0.95
    """Decay of Muon's running sum of gradients."""
    muon_steps: PositiveInt = 5
    """Iterations that make Muon's updates orthogonal: fewer are faster and less exact."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    """Decay of the running means of the gradients and of their squares."""
    eps: PositiveFloat = 1e-8
    """Added to the square root of the second moment."""
    weight_decay: AutoNonNegativeFloat = 0.1
    """Decoupled weight decay, on matrices only (never on the gains of norms)."""
    max_grad_norm: NonNegativeFloat = 1.0
    """Clip the global L2 norm of the gradients to this. 0: never clip."""

    def conflicts(self) -> Iterator[Problem]:
        """Yield a decay of 1, with which a running mean would never change."""
        if 1.0 in self.betas:
            yield Problem(Key("betas"), f"expected two numbers from 0 to below 1, got {list(self.betas)}")
        if self.muon_momentum == 1.0:
            yield Problem(Key("muon_momentum"), "expected a number from 0 to below 1, got 1.0")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig(Section):
    """[schedule]: the learning rate: linear warm-up, then down to a fraction of the peak."""

    name: Literal["cosine", "wsd"] = "cosine"
    """After the warm-up: "cosine" decays along a half cosine; "wsd" (warm-up, stable, decay) stays at the
    peak and decays linearly at the end."""
    warmup_steps: AutoNonNegativeInt = 100
    """Steps of linear warm-up from 0. "auto": chosen for the number of steps."""
    cosine_steps: PositiveInt | None = None
    """Step at which the learning rate reaches its final value. None: the end of [training]'s budget."""
    decay_fraction: Probability = 0.2
    """Fraction of the steps in which "wsd" decays."""
    final_lr_fraction: Fraction = 0.1
    """Final learning rate, as a fraction of the peak."""
