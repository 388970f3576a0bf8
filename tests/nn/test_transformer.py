import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from tests.model_options import TOGETHER
from transformerlm.config import ModelConfig
from transformerlm.errors import ConfigError
from transformerlm.nn import Linear, TransformerBlock, TransformerLM, cross_entropy

every_backend = pytest.mark.parametrize("backend", ["reference", "torch"])


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(97, (2, 24))


def rich(config: ModelConfig) -> ModelConfig:
    return dataclasses.replace(config, num_kv_heads=2, qk_norm=True, tie_embeddings=True)


def with_options(config: ModelConfig) -> ModelConfig:
    return dataclasses.replace(config, num_kv_heads=2, **TOGETHER)


def test_a_block_adds_two_branches_to_the_stream(config):
    block, x = TransformerBlock(config), torch.randn(2, 5, 48)
    with torch.no_grad():
        block.attention.output_proj.weight.zero_()
        assert_close(block(x), x + block.feedforward(block.feedforward_norm(x)))
        block.feedforward.w2.weight.zero_()
        assert_close(block(x), x, rtol=0, atol=0)


@every_backend
@pytest.mark.parametrize("shape", [rich, with_options])
def test_a_later_token_never_changes_an_earlier_logit(config, ids, backend, shape):
    model = TransformerLM(shape(config), backend=backend)
    before = model(ids)
    for position in (1, 12, 23):
        changed = ids.clone()
        changed[:, position] = (ids[:, position] + 1) % 97
        after = model(changed)
        assert_close(after[:, :position], before[:, :position], rtol=0, atol=0)
        reached = after[:, position : position + 13]  # three layers, two of which see four positions back
        assert ((reached - before[:, position : position + 13]).abs().amax(-1) > 0).all()


def test_a_window_hides_what_is_further_back(config, ids):
    """Through each layer, what a token says travels at most window - 1 positions."""
    model = TransformerLM(dataclasses.replace(config, sliding_window=4))
    before, changed = model(ids), ids.clone()
    changed[:, 2] = (ids[:, 2] + 1) % 97
    moved = (model(changed) - before).abs().amax(-1) > 0
    assert moved.tolist() == [[2 <= position <= 2 + 3 * 3 for position in range(24)]] * 2


def test_options_that_do_nothing_leave_the_bits(config, ids):
    nothing = {"d_head": 12, "sliding_window": 24, "full_attention_layers": (), "nope_layers": ()}
    nothing |= {"rope_scaling": "linear", "rope_factor": 1.0}
    found = []
    for options in ({}, nothing, {"qkv_bias": True}):
        torch.manual_seed(0)
        found.append(TransformerLM(dataclasses.replace(config, **options))(ids))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_a_model_to_be_loaded_draws_nothing_and_computes_the_same(config, ids):
    model = TransformerLM(rich(config))
    before = torch.get_rng_state()
    empty = TransformerLM.uninitialized(rich(config))
    assert torch.equal(torch.get_rng_state(), before)
    assert empty.head.weight is empty.embedding.weight
    empty.load_state_dict(model.state_dict())
    assert_close(empty(ids), model(ids), rtol=0, atol=0)


def test_rows_of_a_batch_do_not_see_each_other(config, ids):
    model = TransformerLM(config, dtype=torch.float64)
    assert_close(model(ids), torch.cat([model(ids[:1]), model(ids[1:])]))


@pytest.mark.parametrize("shape", [rich, with_options])
def test_backends_agree_on_loss_and_gradients(config, ids, shape):
    def gradients(backend: str) -> list[torch.Tensor]:
        torch.manual_seed(1)
        model = TransformerLM(shape(config), backend=backend)
        loss = cross_entropy(model(ids[:, :-1]), ids[:, 1:])
        return [loss, *torch.autograd.grad(loss, list(model.parameters()))]

    for ours, theirs in zip(gradients("reference"), gradients("torch"), strict=True):
        assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_an_untrained_model_is_near_ignorance(config, ids):
    model = TransformerLM(config)
    assert model(ids).std() < 2
    assert abs(cross_entropy(model(ids), ids).item() - torch.tensor(97.0).log().item()) < 1


def test_it_can_learn_a_batch_by_heart(config, ids):
    model = TransformerLM(rich(config))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = cross_entropy(model(ids[:, :-1]), ids[:, 1:])
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


def test_logits_are_the_head_of_the_hidden_states(config, ids):
    model = TransformerLM(config)
    hidden = model.hidden_states(ids)
    assert hidden.shape == (2, 24, 48)
    assert_close(model.logits(hidden), model(ids), rtol=0, atol=0)


def test_initial_weights(config):
    model = TransformerLM(dataclasses.replace(config, vocab_size=3000))
    for name, module in model.named_modules():
        if isinstance(module, Linear):
            expected = 0.9866 * (2 / sum(module.weight.shape)) ** 0.5  # 0.9866: what the cut at 3 leaves
            assert module.weight.std().item() == pytest.approx(expected, rel=0.05), name
    assert model.embedding.weight.std().item() == pytest.approx(0.9866, rel=0.02)


def test_tied_embeddings_are_one_parameter_of_the_heads_size(config):
    model = TransformerLM(dataclasses.replace(config, tie_embeddings=True, vocab_size=3000))
    assert model.embedding.weight is model.head.weight
    assert model.embedding.weight.std().item() == pytest.approx(0.9866 * (2 / 3048) ** 0.5, rel=0.02)
    assert len(list(model.parameters())) == len({id(parameter) for parameter in model.parameters()})
    copied = copy.deepcopy(model)
    assert copied.embedding.weight is copied.head.weight


def test_the_global_generator_decides_the_weights(config):
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(TransformerLM(config).parameters())

    assert_close(weights(3), weights(3), rtol=0, atol=0)
    assert (weights(3) != weights(4)).any()


@pytest.mark.parametrize("tied", [False, True])
def test_state_dict_goes_into_another_model_and_holds_weights_alone(config, ids, tied):
    config = dataclasses.replace(rich(config), tie_embeddings=tied)
    model, other = TransformerLM(config), TransformerLM(config)
    state = model.state_dict()
    assert all(name.endswith(".weight") for name in state)
    other.load_state_dict(state, strict=True)
    assert_close(other(ids), model(ids), rtol=0, atol=0)


def test_a_deep_copy_is_independent(config, ids):
    model = TransformerLM(config)
    before, copied = model(ids), copy.deepcopy(model)
    assert_close(copied(ids), before, rtol=0, atol=0)
    with torch.no_grad():
        copied.blocks[0].attention.q_proj.weight.zero_()
    assert_close(model(ids), before, rtol=0, atol=0)


def test_one_rope_serves_all_layers(config):
    model = TransformerLM(config)
    assert len({id(block.attention.rope) for block in model.blocks}) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision(config, ids, dtype):
    model = TransformerLM(rich(config))
    half = copy.deepcopy(model).to(dtype)
    logits = half(ids)
    assert logits.dtype == dtype
    # Rounded at every step of three layers: some digits of numbers around 1.
    assert_close(logits.float(), model(ids), rtol=0, atol=16 * torch.finfo(dtype).eps)


def test_autocast_keeps_the_residual_stream_and_the_gradients_in_float32(config, ids):
    model, streams = TransformerLM(rich(config)), []
    for block in model.blocks:
        block.register_forward_hook(lambda _module, _inputs, output: streams.append(output))
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(ids[:, :-1])
        loss = cross_entropy(logits, ids[:, 1:])
    loss.backward()
    assert logits.dtype == torch.bfloat16
    assert {stream.dtype for stream in streams} == {torch.float32}
    assert_close(loss, cross_entropy(model(ids[:, :-1]), ids[:, 1:]), rtol=0.01, atol=0)
    for parameter in model.parameters():
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all()


@every_backend
def test_compiles_as_one_graph(config, ids, backend):
    model = TransformerLM(rich(config), backend=backend)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert_close(compiled(ids), model(ids))


@pytest.mark.parametrize("tied", [False, True])
def test_built_on_the_meta_device_and_filled_later(config, ids, tied):
    config = dataclasses.replace(config, tie_embeddings=tied)
    model = TransformerLM(config)
    empty = TransformerLM(config, device="meta").to_empty(device="cpu")
    assert (empty.embedding.weight is empty.head.weight) == tied
    empty.load_state_dict(model.state_dict())
    assert_close(empty(ids), model(ids), rtol=0, atol=0)


def test_a_text_longer_than_the_context_is_refused(config):
    with pytest.raises(ValueError, match="context_length = 24 tokens, got 25"):
        TransformerLM(config)(torch.zeros(1, 25, dtype=torch.long))


@pytest.mark.parametrize("bad", [-1, 97])
def test_an_id_outside_the_vocabulary_is_refused(config, bad):
    with pytest.raises(IndexError):
        TransformerLM(config)(torch.tensor([[0, bad]]))


def test_a_model_without_a_vocabulary_is_refused(config):
    with pytest.raises(ConfigError, match="vocab_size"):
        TransformerLM(dataclasses.replace(config, vocab_size=None))


def test_an_unknown_backend_is_refused(config):
    with pytest.raises(ConfigError, match="attention"):
        TransformerLM(config, backend="warp")


def test_the_backend_is_known(config):
    assert TransformerLM(config, backend="reference").backend == "reference"
    assert TransformerLM(config).backend == "auto"
