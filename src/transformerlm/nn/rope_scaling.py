"""Slower rotations for contexts longer than those of the first training: linear, Llama 3.1's, YaRN.

A pair whose angle grows by `w` per position turns once in 2 pi / w positions. Pairs that turn often within
the first context have shown all their angles in training and may stay as they are; pairs that turn seldom
would reach angles that the model has never seen, and are slowed down. The rules differ in where they draw the
line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from transformerlm.config import ModelConfig


def base_frequencies(theta: float, d_k: int) -> Tensor:
    """Return the angles per position of all pairs, theta^(-2i / d_k): [d_k / 2] in float64, on the CPU."""
    steps = torch.arange(0, d_k, 2, dtype=torch.float64, device="cpu")
    frequencies: Tensor = theta ** (-steps / d_k)
    return frequencies


class RopeScaling(Protocol):
    """A rule that slows rotations down."""

    @property
    def attention_factor(self) -> float:
        """Factor of rotated queries and keys."""

    def frequencies(self, theta: float, d_k: int) -> Tensor:
        """Return the angles per position of all pairs, [d_k / 2] in float64."""


@dataclass(frozen=True)
class LinearScaling:
    """All pairs slower by one factor: position p is where position p / factor was.

    Source: Chen et al., "Extending Context Window of Large Language Models via Positional Interpolation",
    2023, equation 4.
    """

    factor: float
    attention_factor: float = 1.0

    def frequencies(self, theta: float, d_k: int) -> Tensor:
        """Return the angles per position, [d_k / 2]."""
        return base_frequencies(theta, d_k) / self.factor


@dataclass(frozen=True)
class Llama3Scaling:
    """Pairs that turn at most `low_freq_factor` times within `original_length` positions are slower by
    `factor`, those that turn `high_freq_factor` times or more stay; between them the share changes linearly
    with the number of turns.

    Source: Meta, llama-models, models/llama3/model.py, `apply_scaling`, 2024.
    """

    factor: float
    original_length: int
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    attention_factor: float = 1.0

    def frequencies(self, theta: float, d_k: int) -> Tensor:
        """Return the angles per position, [d_k / 2]."""
        base = base_frequencies(theta, d_k)
        turns = self.original_length * base / (2 * math.pi)
        kept = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        return _blended(base, self.factor, kept.clamp(0, 1))


@dataclass(frozen=True)
class YarnScaling:
    """Pairs with at most `beta_slow` turns within `original_length` positions are slower by `factor`, those
    with `beta_fast` or more stay; between them the share changes linearly with the number of the pair.

    The bounds are whole numbers of pairs, as in the authors' code. `attention_factor` makes up for the softer
    attention over more positions.

    Source: Peng et al., "YaRN: Efficient Context Window Extension of Large Language Models", 2023, section
    3.2 and equation 22; the authors' code at github.com/jquesnelle/yarn.
    """

    factor: float
    original_length: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    given_attention_factor: float | None = None

    @property
    def attention_factor(self) -> float:
        """The given one, or 0.1 ln(factor) + 1 (1 for a factor up to 1)."""
        return self.given_attention_factor or 0.1 * math.log(max(self.factor, 1.0)) + 1

    def frequencies(self, theta: float, d_k: int) -> Tensor:
        """Return the angles per position, [d_k / 2]."""
        first = max(math.floor(self._pair_with(self.beta_fast, theta, d_k)), 0)
        last = min(math.ceil(self._pair_with(self.beta_slow, theta, d_k)), d_k - 1)
        pairs = torch.arange(d_k // 2, dtype=torch.float64, device="cpu")
        # Where both bounds are one pair, the authors' code divides by a thousandth.
        slowed = ((pairs - first) / (last - first or 0.001)).clamp(0, 1)
        return _blended(base_frequencies(theta, d_k), self.factor, 1 - slowed)

    def _pair_with(self, turns: float, theta: float, d_k: int) -> float:
        """Return the number i of the pair that turns so often: L theta^(-2i / d_k) = 2 pi turns."""
        return d_k * math.log(self.original_length / (turns * 2 * math.pi)) / (2 * math.log(theta))


def scaling_of(config: ModelConfig) -> RopeScaling | None:
    """Return the scaling that [model] describes, or None."""
    factor, length = config.rope_factor or 1.0, config.rope_original_length or config.context_length
    match config.rope_scaling:
        case "linear":
            return LinearScaling(factor)
        case "llama3":
            bounds = config.rope_low_freq_factor or 1.0, config.rope_high_freq_factor or 4.0
            return Llama3Scaling(factor, length, *bounds)
        case "yarn":
            betas = config.rope_beta_fast or 32.0, config.rope_beta_slow or 1.0
            return YarnScaling(factor, length, *betas, config.rope_attention_factor)
    return None


def _blended(base: Tensor, factor: float, kept: Tensor) -> Tensor:
    """Return frequencies of which the share `kept` is as it was and the rest slower by `factor`."""
    return kept * base + (1 - kept) * base / factor
