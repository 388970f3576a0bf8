import pytest
import torch

from transformerlm.config import ModelConfig


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def config() -> ModelConfig:
    """Small, and no two sizes alike, so that a mistaken dimension shows."""
    return ModelConfig(
        vocab_size=97, context_length=24, d_model=48, num_layers=3, num_heads=4, d_ff=80, rope_theta=500.0
    )
