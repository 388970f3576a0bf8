"""Matrices in eight and four bits, against ggml's own definition of the formats (package gguf)."""

import numpy as np
import pytest
import torch

from transformerlm.config import ModelConfig
from transformerlm.nn import TransformerLM
from transformerlm.nn.quantization import (
    QuantizedLinear,
    pack,
    quantize,
    quantize_,
    round_inputs,
    storage_of,
)

SHAPE = {"vocab_size": 61, "context_length": 16, "d_model": 64, "num_layers": 2, "num_heads": 4, "d_ff": 96}


def matrix(rows=40, width=96):
    torch.manual_seed(0)
    values = torch.randn(rows, width) * torch.logspace(-3, 2, rows)[:, None]
    values[3], values[4, :32] = 0, 0  # a row and a group without a scale
    return values


def ggml(values, kind):
    """The values that ggml's reference implementation keeps of a matrix."""
    quants = pytest.importorskip("gguf").quants
    return torch.from_numpy(quants.dequantize(quants.quantize(values.numpy(), kind), kind))


def test_eight_bits_are_those_of_ggml():
    kind = pytest.importorskip("gguf").GGMLQuantizationType.Q8_0
    assert torch.equal(quantize(matrix(), "int8").dequantize(), ggml(matrix(), kind))


def test_four_bits_err_less_than_those_of_ggml_in_every_group():
    kind, values = pytest.importorskip("gguf").GGMLQuantizationType.Q4_0, matrix()

    def errors(kept):
        return (kept - values).square().view(len(values), -1, 32).sum(-1)

    ours, theirs = errors(quantize(values, "int4").dequantize()), errors(ggml(values, kind))
    assert bool((ours <= theirs * 1.001).all())  # ggml rounds by a scale that it stores less exactly
    assert float(ours.sum()) < 0.95 * float(theirs.sum())


@pytest.mark.parametrize(("storage", "step"), [("int8", 1 / 127), ("int4", 1 / 8)])
def test_a_number_is_off_by_a_step_of_its_group_at_most(storage, step):
    values = matrix()
    largest = values.view(len(values), -1, 32).abs().amax(-1, keepdim=True)
    off = (quantize(values, storage).dequantize() - values).view(len(values), -1, 32).abs()
    assert bool((off <= 1.26 * step * largest).all())  # scales are rounded, and may cut the largest number


@pytest.mark.parametrize("storage", ["int8", "int4"])
def test_rows_are_stored_in_blocks_and_back(storage):
    integers = torch.randint(-8, 8, (21, 64), dtype=torch.int8)
    scales = torch.rand(21, 2).half()
    packed = pack(integers, scales, storage)
    assert (packed.shape, packed.numel()) == ((21, 64), 21 * 64)
    some = torch.tensor([20, 0, 3, 20])
    assert all(map(torch.equal, packed.all_rows(), (integers, scales)))
    assert all(map(torch.equal, packed.rows(some), (integers[some], scales[some])))
    assert torch.equal(packed.scales[1, 1, :5], scales[16:, 1])
    for row, column in [(0, 0), (3, 17), (20, 63), (16, 38), (9, 5)]:
        block, place, number = row // 16, row % 16, int(integers[row, column])
        if storage == "int8":
            assert packed.numbers[block, column // 2, place, column % 2] == number
        else:  # even columns in the first word, odd ones in the second
            words = packed.numbers[block, column // 8, place].numpy().view(np.uint16)
            assert int(words[column % 2]) >> (column % 8 // 2 * 4) & 15 == number % 16


@pytest.mark.parametrize("storage", ["int8", "int4"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((0, slice(None), float("nan")), "finite"),
        ((1, 7, float("inf")), "finite"),
        ((1, 7, 1e9), "finite"),
    ],
)
def test_what_no_scale_can_hold_is_refused(storage, change, message):
    values, (row, place, value) = matrix(), change
    values[row, place] = value
    with pytest.raises(ValueError, match=message):
        quantize(values, storage)


def test_inputs_are_rounded_to_16_bits_of_the_largest():
    torch.manual_seed(0)
    x = torch.randn(4, 3, 96) * torch.logspace(-20, 20, 12).view(4, 3, 1)
    steps = x.double() / x.double().abs().amax(-1, keepdim=True) * 32767
    found = round_inputs(x).double() / x.double().abs().amax(-1, keepdim=True) * 32767
    assert float((found - found.round()).abs().max()) < 0.01  # whole steps
    assert float((found - steps).abs().max()) < 0.51


def test_inputs_of_nothing_and_of_no_number_stay_so():
    x = torch.tensor([[0.0, 0.0], [1e-40, -1e-38], [1.0, float("nan")], [1.0, float("inf")]])
    zero, tiny, nan, infinite = round_inputs(x)
    assert zero.tolist() == tiny.tolist() == [0.0, 0.0]
    assert bool(torch.stack([nan, infinite]).isnan().all())


def test_rows_of_no_whole_groups_are_refused():
    with pytest.raises(ValueError, match="multiple of 32, got 50"):
        quantize(torch.ones(3, 50), "int8")


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("storage", ["int8", "int4"])
def test_a_quantized_model_is_the_model_of_its_rounded_matrices(storage, tied):
    torch.manual_seed(0)
    model = TransformerLM(ModelConfig(**SHAPE, tie_embeddings=tied)).eval()
    ids = torch.randint(61, (2, 9))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(quantize(parameter, storage).dequantize())
        expected = model(ids)
        quantize_(model, lambda name, value: quantize(value, storage))
        assert float((model(ids) - expected).abs().max()) < 2e-4 * float(expected.abs().max())
        model.to("cpu")  # moves a tied pair as one
    assert storage_of(model) == storage
    assert isinstance(model.blocks[1].feedforward.w2, QuantizedLinear)
    assert (model.embedding.numbers is model.head.numbers) is tied
    assert {name.rpartition(".")[0].rpartition(".")[2] for name, _ in model.named_parameters()} == {
        "attention_norm",
        "feedforward_norm",
        "final_norm",
    }
