"""The whole model against the one that everyone uses, on random weights."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from transformerlm.config import ModelConfig
from transformerlm.nn import KVCache, TransformerLM, cross_entropy

transformers = pytest.importorskip("transformers")

VARIANTS = {
    "plain": {},
    "grouped": {"num_kv_heads": 2},
    "tied": {"tie_embeddings": True},
    "qk-norm": {"qk_norm": True, "num_kv_heads": 1},
}


def peer_of(model: TransformerLM) -> nn.Module:
    """Hugging Face's Llama (with qk_norm: Qwen3) with the weights of `model`."""
    config = model.config
    kind = "Qwen3" if config.qk_norm else "Llama"
    peer_config = getattr(transformers, f"{kind}Config")(
        vocab_size=config.vocab_size,
        hidden_size=config.d_model,
        intermediate_size=config.d_ff,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.kv_heads,
        head_dim=config.head_dim,
        max_position_embeddings=config.context_length,
        rms_norm_eps=config.norm_eps,
        rope_theta=config.rope_theta,
        tie_word_embeddings=config.tie_embeddings,
        eos_token_id=None,
    )
    peer = getattr(transformers, f"{kind}ForCausalLM")(peer_config)
    weights = {
        their_name(name): in_their_order(name, value, config.head_dim)
        for name, value in model.state_dict().items()
    }
    peer.load_state_dict(weights, strict=True)
    return peer.eval()


def in_their_order(name: str, value: Tensor, d_head: int) -> Tensor:
    """Rows of queries and keys from pairs (2i, 2i + 1) to pairs (i, i + d_head / 2) of each head."""
    if not any(part in name for part in ("q_proj", "k_proj", "q_norm", "k_norm")):
        return value
    return value.unflatten(0, (-1, d_head // 2, 2)).transpose(1, 2).flatten(0, 2)


def their_name(name: str) -> str:
    for ours, theirs in {
        "embedding.": "model.embed_tokens.",
        "final_norm.": "model.norm.",
        "head.": "lm_head.",
        "blocks.": "model.layers.",
        "attention_norm": "input_layernorm",
        "feedforward_norm": "post_attention_layernorm",
        "output_proj": "o_proj",
        ".attention.": ".self_attn.",
        "feedforward.w1": "mlp.gate_proj",
        "feedforward.w2": "mlp.down_proj",
        "feedforward.w3": "mlp.up_proj",
    }.items():
        name = name.replace(ours, theirs, 1)
    return name


@pytest.fixture(params=VARIANTS)
def model(request, config: ModelConfig) -> TransformerLM:
    model = TransformerLM(dataclasses.replace(config, norm_eps=1e-4, **VARIANTS[request.param]))
    for parameter in model.parameters():  # gains that are not all one, or their order could not show
        if parameter.dim() == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def test_logits_and_gradients(model):
    peer, ids = peer_of(model), torch.randint(97, (2, 24))
    ours, theirs = model(ids), peer(ids).logits
    assert_close(ours, theirs, rtol=0, atol=1e-5)
    cross_entropy(ours[:, :-1], ids[:, 1:]).backward()
    cross_entropy(theirs[:, :-1], ids[:, 1:]).backward()
    their_gradients = {name: parameter.grad for name, parameter in peer.named_parameters()}
    for name, parameter in model.named_parameters():
        gradient = in_their_order(name, parameter.grad, model.config.head_dim)
        assert_close(gradient, their_gradients.pop(their_name(name)), rtol=1e-3, atol=1e-5)
    assert not their_gradients


def test_greedy_continuation(model):
    peer, prompt = peer_of(model), torch.randint(97, (1, 4))
    theirs = peer.generate(prompt, max_new_tokens=20, do_sample=False, pad_token_id=0)
    cache, ids = KVCache.for_model(model.config, 1), prompt
    with torch.inference_mode():
        newest = prompt
        for _ in range(20):
            newest = model(newest, cache)[:, -1:].argmax(-1)
            ids = torch.cat([ids, newest], dim=1)
    assert ids.tolist() == theirs.tolist()
