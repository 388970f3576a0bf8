import pytest
import torch

from tests.model_options import with_biases
from transformerlm.config import ModelConfig
from transformerlm.nn import TransformerLM


@pytest.fixture
def make_model():
    def make(dtype=torch.float64, **changes) -> TransformerLM:
        shape = {"vocab_size": 61, "context_length": 16, "d_model": 16, "num_layers": 2, "num_heads": 4}
        config = ModelConfig(**{**shape, "num_kv_heads": 2, "d_ff": 24, **changes})
        torch.manual_seed(0)
        return with_biases(TransformerLM(config, dtype=dtype))

    return make
