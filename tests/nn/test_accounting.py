import contextlib
import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.model_options import YARN
from transformerlm.config import ModelConfig
from transformerlm.nn import (
    KVCache,
    NextTokenLoss,
    TransformerLM,
    cross_entropy,
    flops_per_token,
    kv_cache_bytes_per_token,
    num_non_embedding_parameters,
    num_parameters,
    training_flops_per_token,
)
from transformerlm.nn.accounting import activation_bytes_per_token, num_hidden_matrix_parameters
from transformerlm.nn.fused import use_kernels_

BASE = ModelConfig(vocab_size=97, context_length=24, d_model=48, num_layers=3, num_heads=4, d_ff=80)
VARIANTS = [
    BASE,
    dataclasses.replace(BASE, num_kv_heads=2),
    dataclasses.replace(BASE, num_kv_heads=1, qk_norm=True, tie_embeddings=True),
    dataclasses.replace(BASE, num_kv_heads=2, d_head=20, qkv_bias=True, **YARN),
    dataclasses.replace(BASE, num_kv_heads=2, d_head=20, qkv_bias=True, sliding_window=5),
    dataclasses.replace(BASE, num_kv_heads=2, qk_norm=True, sliding_window=5),
]
every_variant = pytest.mark.parametrize(
    "config", VARIANTS, ids=["plain", "grouped", "tied", "wide heads", "window", "window, qk-norm"]
)


@every_variant
def test_parameters_equal_the_built_model(config):
    model = TransformerLM(config, device="meta")
    assert num_parameters(config) == sum(parameter.numel() for parameter in model.parameters())
    tables = {id(model.embedding.weight), id(model.head.weight)}
    others = sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in tables)
    assert num_non_embedding_parameters(config) == others
    matrices = sum(parameter.numel() for parameter in model.blocks.parameters() if parameter.dim() == 2)
    assert num_hidden_matrix_parameters(config) == matrices


@every_variant
@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_flops_equal_those_that_torch_counts(config, backend):
    # A window's masked keys count as work there, though they are none.
    config = dataclasses.replace(config, sliding_window=None)
    model, ids = TransformerLM(config, backend=backend), torch.randint(97, (2, 24))
    with FlopCounterMode(display=False) as forward:
        loss = cross_entropy(model(ids), ids)
    assert forward.get_total_flops() == ids.numel() * flops_per_token(config, num_keys=24)
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    if backend == "reference":  # a fused kernel computes the scores once more on its way back
        training = forward.get_total_flops() + backward.get_total_flops()
        assert training == ids.numel() * training_flops_per_token(config, num_keys=24)


def test_a_window_limits_the_keys_that_count():
    windowed = dataclasses.replace(BASE, sliding_window=5, full_attention_layers=(1,))
    whole, short = (flops_per_token(BASE, num_keys=keys) for keys in (24, 5))
    assert flops_per_token(windowed, num_keys=24) == (whole + 2 * short) // 3
    assert flops_per_token(windowed, num_keys=4) == flops_per_token(BASE, num_keys=4)


def test_flops_of_gpt2_small_are_the_published_rule():
    """Six per matrix parameter and 12 * layers * width * context (PaLM, appendix B)."""
    config = ModelConfig(
        vocab_size=50257,
        context_length=1024,
        d_model=768,
        num_layers=12,
        num_heads=12,
        d_ff=2048,
        tie_embeddings=True,
    )
    matrices = sum(p.numel() for p in TransformerLM(config, device="meta").parameters() if p.dim() == 2)
    assert training_flops_per_token(config, num_keys=1024) == 6 * matrices + 12 * 12 * 768 * 1024


@every_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cache_bytes_equal_the_cache(config, dtype):
    layers = KVCache.for_model(config, batch_size=3, dtype=dtype, capacity=7).layers(0)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
    assert held == 3 * 7 * kv_cache_bytes_per_token(config, dtype.itemsize)


def kept_bytes(loss, dtype, ids) -> int:
    """Bytes of the tensors that a forward pass keeps for the backward pass, the model's own left out."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*loss.parameters(), *loss.buffers())}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    half = contextlib.nullcontext() if dtype == torch.float32 else torch.autocast("cpu", dtype)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), half:
        loss(ids, ids)
    return sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in own)


@every_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("backend", "fused"), [("torch", False), ("reference", False), ("auto", True)])
def test_activation_bytes_equal_what_autograd_keeps(config, dtype, backend, fused):
    config = dataclasses.replace(config, d_model=64)
    loss = NextTokenLoss(TransformerLM(config, backend=backend))
    few, many = torch.randint(97, (4, 24)), torch.randint(97, (12, 24))
    if fused:
        use_kernels_(loss)
    # What does not grow with the batch, such as copies of the weights, falls out.
    per_token = (kept_bytes(loss, dtype, many) - kept_bytes(loss, dtype, few)) / (8 * 24)
    num_scores = 24 if backend == "reference" else 0
    formula = activation_bytes_per_token(config, dtype.itemsize, fused=fused, num_scores=num_scores)
    # Where all heads share one key, its values need no copy, and keep all projections that they are part of.
    tolerance = 0 if config.kv_heads > 1 or not fused else 0.1
    assert formula == pytest.approx(per_token, rel=tolerance, abs=1e-6)
