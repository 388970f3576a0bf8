"""Steps of static shapes against the model's own, uncaptured; and steps ahead of the host."""

import importlib
import math

import pytest
import torch
from torch.testing import assert_close

from tests.training.host_syncs import no_host_syncs
from transformerlm.errors import NumericalError
from transformerlm.infer import batch as batches
from transformerlm.infer.decoder import Piece, TorchDecoder
from transformerlm.infer.generate import DecodingSettings, generate, steps
from transformerlm.infer.sampling import Sampling
from transformerlm.infer.static_decoder import StaticDecoder, graph_size
from transformerlm.nn import KVCache

LENGTHS = [5, 1, 9, 3, 3, 7]
MODELS = {
    "grouped": {},
    "tied": {"tie_embeddings": True},
    "qk_norm": {"qk_norm": True, "num_kv_heads": 4},
    "windows": {"sliding_window": 4, "full_attention_layers": (1,), "nope_layers": (0,), "qkv_bias": True},
    "scaled": {"rope_scaling": "yarn", "rope_factor": 4.0, "rope_original_length": 8, "d_head": 10},
}


def filled(model, kind, rows=9):
    """A decoder in whose cache more rows are than texts; those behind the texts hold something."""
    ids = torch.randint(model.config.vocab_size, (rows, max(LENGTHS)), generator=torch.manual_seed(1))
    cache = KVCache.for_model(model.config, rows, dtype=model.head.weight.dtype)
    model.hidden_states(ids, cache)
    cache.set_lengths([*LENGTHS, *[4] * (rows - len(LENGTHS))])
    cache.select(range(len(LENGTHS)))
    return kind(model, cache)


@pytest.mark.parametrize("name", MODELS)
@torch.inference_mode()
def test_steps_of_static_shape_equal_the_models(name, make_model):
    model = make_model(**MODELS[name])
    static, plain = filled(model, StaticDecoder), filled(model, TorchDecoder)
    unused = [memory[:, len(LENGTHS) :].clone() for memory in static.cache.memory]
    for number in range(5):
        if number == 3:  # texts end
            for decoder in (static, plain):
                decoder.cache.select([4, 1, 2])
        new_ids = torch.randint(61, (plain.cache.batch_size,), generator=torch.manual_seed(number))
        with no_host_syncs():
            got = static(new_ids).clone()
        assert_close(got, plain(new_ids))
        assert static.cache.row_lengths == plain.cache.row_lengths
    assert_close(static.cache.memory, plain.cache.memory)
    assert_close([memory[:, len(LENGTHS) :] for memory in static.cache.memory], unused, rtol=0, atol=0)
    pieces = [Piece(6, 0, [1, 2, 3]), Piece(7, 3, [9, 8])]
    assert_close(static.extend(new_ids, pieces), plain.extend(new_ids, pieces))


def test_few_sizes_are_recorded():
    assert [graph_size(number, 48) for number in (1, 2, 3, 5, 32, 33, 48)] == [1, 2, 4, 8, 32, 48, 48]


PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11], [4]]
SAMPLINGS = {
    "greedy": Sampling(temperature=0),
    "sampled": Sampling(temperature=0.8, top_p=0.9, top_k=30, repetition_penalty=1.3),
}


@pytest.mark.parametrize("name", SAMPLINGS)
@pytest.mark.parametrize("steps_ahead", [3, 16])
def test_texts_are_the_same_with_static_shapes_and_steps_ahead(name, steps_ahead, make_model, monkeypatch):
    """Beyond the context too, with texts that end at a token, and others that the caller ends."""
    model, seen = make_model(), []

    def written(steps_ahead):
        settings = DecodingSettings(
            max_new_tokens=40,
            sampling=SAMPLINGS[name],
            end_ids=frozenset({7, 12}),
            seed=3,
            log_probs=True,
            steps_ahead=steps_ahead,
        )
        number = dict.fromkeys(range(4), 0)

        def is_finished(prompt):
            number[prompt] += 1
            return prompt == 0 and number[prompt] == 11

        return [
            {prompt: (token.id, token.is_end, token.log_prob) for prompt, token in step.items()}
            for step in steps(model, PROMPTS, settings, is_finished)
        ]

    expected = written(1)
    monkeypatch.setattr(batches, "decoder_for", lambda *parts: seen.append(1) or StaticDecoder(*parts))
    got = written(steps_ahead)
    assert seen
    for one, other in zip(got, expected, strict=True):
        assert {text: token[:2] for text, token in one.items()} == {
            text: token[:2] for text, token in other.items()
        }
        assert_close(*({text: token[2] for text, token in step.items()} for step in (one, other)))


def test_the_host_reads_once_for_several_steps(make_model, monkeypatch):
    module = importlib.import_module("transformerlm.infer.generate")
    model, reads, sound = make_model(context_length=64), [], module._to_host

    def counted(drawn, end_ids):
        reads.append(len(drawn))
        return sound(drawn, end_ids)

    monkeypatch.setattr(module, "_to_host", counted)
    settings = DecodingSettings(max_new_tokens=40, steps_ahead=16)
    assert len(list(steps(model, [[1, 2]], settings))) == 40
    assert reads == [16, 16, 8]


def test_logits_that_are_nan_are_an_error_ahead_too(make_model):
    model = make_model()
    with torch.no_grad():
        model.final_norm.weight.fill_(math.nan)
    with pytest.raises(NumericalError, match="NaN"):
        list(steps(model, [[1]], DecodingSettings(max_new_tokens=9, steps_ahead=4)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("error")
def test_a_gpu_writes_the_same_texts(make_model):
    model = make_model(torch.float32)
    expected = generate(model, PROMPTS, max_new_tokens=40, temperature=0, kernels=False)
    got = generate(model.to("cuda"), PROMPTS, max_new_tokens=40, temperature=0)
    assert got == expected
