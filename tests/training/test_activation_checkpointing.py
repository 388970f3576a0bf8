import contextlib
import dataclasses

import pytest
import torch

from transformerlm.config import ModelConfig
from transformerlm.logging import ActivationNorms
from transformerlm.nn import KVCache, NextTokenLoss, TransformerLM
from transformerlm.nn.fused import use_kernels_
from transformerlm.training.activation_checkpointing import checkpoint_activations

CONFIG = ModelConfig(vocab_size=97, context_length=32, d_model=48, num_layers=4, num_heads=4, d_ff=80)
GROUPED = dataclasses.replace(CONFIG, qk_norm=True, num_kv_heads=2)
PRECISIONS = [torch.float32, torch.bfloat16]


def pair(config=CONFIG) -> tuple[TransformerLM, TransformerLM]:
    """A model, and its copy with activation checkpointing."""
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(TransformerLM(config))
    checkpoint_activations(models[1])
    return models[0], models[1]


def autocast(dtype):
    return contextlib.nullcontext() if dtype == torch.float32 else torch.autocast("cpu", dtype)


def kept_bytes(loss, *batch) -> int:
    """Bytes of the tensors that a forward pass keeps for the backward pass, the model's own left out."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*loss.parameters(), *loss.buffers())}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss(*batch)
    return sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in own)


@pytest.mark.parametrize(
    ("config", "dtype", "kernels"),
    [
        (CONFIG, torch.float32, True),
        (GROUPED, torch.float32, False),
        (CONFIG, torch.bfloat16, False),
        (GROUPED, torch.bfloat16, True),
    ],
)
def test_not_a_bit_of_losses_and_gradients_changes(config, dtype, kernels):
    plain, checkpointed = pair(config)
    ids, targets = torch.randint(97, (2, 3, 32))
    losses = []
    for model in (plain, checkpointed):
        loss_of = NextTokenLoss(model)
        if kernels:
            use_kernels_(loss_of)
        with autocast(dtype):
            loss = loss_of(ids, targets)
        loss.backward()
        losses.append(loss)
    assert torch.equal(*losses)
    for (name, left), right in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        assert torch.equal(left.grad, right.grad), name


def test_names_stay_and_the_state_loads_either_way():
    plain, checkpointed = pair()
    assert list(plain.state_dict()) == list(checkpointed.state_dict())
    assert [n for n, _ in plain.named_parameters()] == [n for n, _ in checkpointed.named_parameters()]
    plain.load_state_dict(checkpointed.state_dict())


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_of_a_block_only_its_input_is_kept(dtype):
    ids = torch.randint(97, (4, 32))
    kept = {}
    for num_layers in (4, 8):
        for name, model in zip(
            ("plain", "checkpointed"), pair(dataclasses.replace(CONFIG, num_layers=num_layers)), strict=True
        ):
            with autocast(dtype):
                kept[name, num_layers] = kept_bytes(NextTokenLoss(model), ids, ids)
    stream = 4 * 4 * 32 * 48  # bytes, sequences, tokens, width
    assert kept["checkpointed", 8] - kept["checkpointed", 4] == 4 * stream
    assert kept["plain", 8] - kept["plain", 4] > 4 * 5 * stream


def test_hooks_see_every_block_once():
    _, checkpointed = pair()
    ids = torch.randint(97, (2, 32))
    with ActivationNorms(checkpointed) as norms:
        NextTokenLoss(checkpointed)(ids, ids).backward()
    plain, _ = pair()
    with ActivationNorms(plain) as expected:
        NextTokenLoss(plain)(ids, ids)
    assert norms.values() == expected.values()
    assert len(norms.values()) == 4


def test_it_still_writes_with_a_cache():
    plain, checkpointed = pair()
    ids = torch.randint(97, (1, 10))
    logits = []
    with torch.no_grad():
        for model in (plain, checkpointed):
            cache = KVCache.for_model(CONFIG, batch_size=1)
            model(ids[:, :6], cache)
            logits.append(model(ids[:, 6:], cache))
    assert torch.equal(*logits)
