"""The kernel decoder against the model's own operations, and both against the model in float64."""

import copy

import pytest
import torch

from tests.model_options import OPTIONS, TOGETHER
from transformerlm.infer import generate
from transformerlm.infer.decoder import KernelDecoder, TorchDecoder, make_decoder
from transformerlm.nn import KVCache
from transformerlm.nn.fused import with_kernels
from transformerlm.nn.quantization import QuantizedMatrix, quantize, quantize_

# 15 = 8 + 4 + 2 + 1 texts: every block size in which the kernel multiplies a matrix row with texts
LENGTHS = [5, 1, 9, 3, 3, 7, 2, 11, 4, 6, 1, 8, 2, 10, 5]

MODELS = {
    "grouped": {},
    "plain": {"num_kv_heads": 4},
    "multi-query": {"num_kv_heads": 1},
    "tied": {"tie_embeddings": True},
    "qk_norm": {"qk_norm": True},
    "one head": {"num_heads": 1, "num_kv_heads": 1, "num_layers": 1},
    "wide": {"d_model": 64, "d_ff": 96},  # so that vectors of any processor are filled
    **OPTIONS,
    "all options": TOGETHER,
    "odd widths": {"d_model": 36, "num_heads": 3, "num_kv_heads": 3, "d_ff": 50, "vocab_size": 67},
}

MODEL_PARTS = {
    "query": lambda model: model.blocks[0].attention.q_proj.weight,
    "key": lambda model: model.blocks[1].attention.k_proj.weight,
    "value": lambda model: model.blocks[1].attention.v_proj.weight,
    "gain of a key": lambda model: model.blocks[0].attention.k_norm.weight,
    "gate": lambda model: model.blocks[1].feedforward.w1.weight,
    "last norm": lambda model: model.final_norm.weight,
}


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def decoders(model, lengths):
    """A decoder of each kind, and the definition in float64, after the same texts."""
    oracle = copy.deepcopy(model).double()
    ids = torch.randint(model.config.vocab_size, (len(lengths), max(lengths)))
    made = []
    for kind, of in ((KernelDecoder, model), (TorchDecoder, model), (TorchDecoder, oracle)):
        cache = KVCache.for_model(model.config, len(lengths), dtype=of.head.weight.dtype)
        of.hidden_states(ids, cache)
        cache.set_lengths(lengths)
        made.append(kind(of, cache))
    return made


def compare(made, num_tokens):
    """Largest differences of kernel and model from the oracle over some tokens, in logits and caches."""
    rows = made[0].cache.batch_size
    worst = [0.0, 0.0]
    for _ in range(num_tokens):
        new_ids = torch.randint(60, (rows,))
        *logits, right = [decoder(new_ids).clone().double() for decoder in made]
        for place, found in enumerate(logits):
            worst[place] = max(worst[place], (found - right).abs().max().item())
    for place, decoder in enumerate(made[:2]):
        for found, right in zip(decoder.cache.memory, made[2].cache.memory, strict=True):
            for row, length in enumerate(decoder.cache.lengths.tolist()):
                gap = (found.double() - right)[:, row, :, :length].abs().max().item()
                worst[place] = max(worst[place], gap)
    assert made[0].cache.lengths.tolist() == made[2].cache.lengths.tolist()
    return worst


@torch.inference_mode()
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("lengths", [[4], LENGTHS], ids=["one text", "fifteen"])
def test_a_step_equals_the_models(make_model, name, lengths, threads):
    model = make_model(torch.float32, **MODELS[name])
    kernel, torchs = compare(decoders(model, lengths), 4)
    assert kernel < max(2 * torchs, 1e-6)


@torch.inference_mode()
@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_is_rounded_less_often_than_by_the_model(make_model, name):
    made = decoders(make_model(torch.float32, **MODELS[name]).to(torch.bfloat16), LENGTHS)
    errors = torch.zeros(2, dtype=torch.float64)
    for _ in range(4):
        new_ids = torch.randint(60, (len(LENGTHS),))
        *logits, right = [decoder(new_ids).clone().double() for decoder in made]
        errors += torch.stack([(found - right).square().mean() for found in logits])
    kernel, torchs = errors.sqrt().tolist()
    assert 0 < kernel < 0.9 * torchs


@torch.inference_mode()
def test_rows_may_leave_and_the_others_are_unmoved(make_model):
    made = decoders(make_model(torch.float32), LENGTHS)
    assert max(compare(made, 1)) < 1e-5
    for decoder in made:
        decoder.cache.select([0, 10, 3])
    assert max(compare(made, 3)) < 1e-5


@torch.inference_mode()
def test_a_cache_that_is_full_is_filled_to_its_last_place(make_model):
    model = make_model(torch.float32)
    capacity = model.config.context_length
    made = decoders(model, [capacity - 1, 2])
    assert max(compare(made, 1)) < 1e-5
    with pytest.raises(ValueError, match="at most 16 tokens"):
        made[0](torch.tensor([1, 2]))


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_texts_do_not_depend_on_each_other(make_model, dtype, threads):
    model = make_model(torch.float32, d_model=72, d_ff=101).to(dtype)
    together = decoders(model, LENGTHS)[0]
    before = copy.deepcopy(together.cache)
    logits = together(torch.full((len(LENGTHS),), 7)).clone()
    for rows in ([0], [8], [14], [3, 12], [1, 2, 4, 9], [0, 1, 2, 3, 4, 5, 6, 11]):
        fewer = KVCache.for_model(model.config, len(rows), dtype=dtype)
        fewer.put(range(len(rows)), before, rows)
        found = KernelDecoder(model, fewer)(torch.full((len(rows),), 7))
        assert torch.equal(found, logits[rows])


@torch.inference_mode()
@pytest.mark.parametrize("name", MODELS)
def test_prompts_are_computed_as_by_the_model(make_model, name, threads):
    model = make_model(torch.float32, context_length=96, **MODELS[name])
    prompts = [[place * 7 % 61 for place in range(length)] for length in (5, 1, 40, 70, 40, 29, 64)]
    made = decoders(model, [1] * 9)
    *logits, right = [decoder.fill([1, 2, 3, 5, 6, 8, 0], prompts).double() for decoder in made]
    kernel, torchs = ((found - right).abs().max().item() for found in logits)
    assert kernel < max(2 * torchs, 1e-6)
    assert (
        made[0].cache.lengths.tolist() == made[1].cache.lengths.tolist() == [64, 5, 1, 40, 1, 70, 40, 1, 29]
    )
    assert max(compare(made, 2)) < 1e-5


def test_kernels_serve_where_they_are_on_and_take_the_tensors(make_model):
    def kind(model, cache_dtype=None):
        dtype = cache_dtype or model.head.weight.dtype
        return type(make_decoder(with_kernels(model), KVCache.for_model(model.config, 2, dtype=dtype)))

    model = make_model(torch.float32)
    assert type(make_decoder(model, KVCache.for_model(model.config, 2))) is TorchDecoder
    assert kind(make_model(torch.float32)) is KernelDecoder
    assert kind(make_model(torch.bfloat16)) is KernelDecoder
    assert kind(make_model(torch.float64)) is TorchDecoder
    assert kind(make_model(torch.float32), torch.bfloat16) is TorchDecoder
    with torch.autocast("cpu", torch.bfloat16):
        assert kind(make_model(torch.float32)) is TorchDecoder


@torch.inference_mode()
@pytest.mark.parametrize("name", MODEL_PARTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_no_number_stays_none(make_model, name, dtype):
    model = make_model(torch.float32, qk_norm=True).to(dtype)
    decoder = decoders(model, [3])[0]
    MODEL_PARTS[name](model).fill_(float("nan"))
    assert decoder(torch.tensor([5])).isnan().all()


def quantized(make_model, storage, **shape):
    """A model in eight or four bits, and the float32 model that has the same matrices."""
    model = make_model(torch.float32, **{"d_model": 64, "d_ff": 96, "vocab_size": 83, **shape})
    widened = copy.deepcopy(model)
    for parameter in widened.parameters():
        if parameter.dim() == 2:
            parameter.data = quantize(parameter, storage).dequantize()
    quantize_(model, lambda name, value: quantize(value, storage))
    return model, widened


def logits_of(kind, model, windows, new_ids):
    """Logits after some prompts, and after a new id each."""
    decoder = kind(model, KVCache.for_model(model.config, len(windows)))
    with torch.no_grad():
        return torch.stack([decoder.fill(range(len(windows)), windows).clone(), decoder(new_ids).clone()])


@pytest.mark.parametrize("storage", ["int8", "int4"])
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"tie_embeddings": True, "qk_norm": True, "num_kv_heads": 4},
        {"d_model": 96, "num_heads": 4},  # a thread's heads do not end where blocks of rows do
    ],
)
def test_eight_and_four_bits_are_those_of_the_model(make_model, storage, shape, threads):
    model, _ = quantized(make_model, storage, **shape)
    given = torch.randint(83, (5, 12)).tolist(), torch.arange(5)
    ours, expected = (logits_of(kind, model, *given) for kind in (KernelDecoder, TorchDecoder))
    # An input halfway between two whole numbers may become either, and all that follows differs by as much.
    assert 0 < float((ours - expected).abs().max()) < 2e-4 * float(expected.abs().max())


@pytest.mark.parametrize("storage", ["int8", "int4"])
def test_inputs_of_eight_and_four_bits_are_rounded_as_by_the_model(make_model, storage):
    def silence(model):  # the logits are one product with the embeddings
        for block in model.blocks:
            for layer in (block.attention.output_proj, block.feedforward.w2):
                layer.weight.data.zero_()
        return model

    model, widened = quantized(lambda *given, **shape: silence(make_model(*given, **shape)), storage)
    given = torch.randint(83, (9, 12)).tolist(), torch.arange(9)
    ours, expected = (logits_of(kind, model, *given) for kind in (KernelDecoder, TorchDecoder))
    unrounded = logits_of(TorchDecoder, widened, *given)
    # Of few texts an input is almost halfway between two whole numbers, and may become the other one.
    off, rounding = ((other - expected).square().mean(-1).sqrt().median() for other in (ours, unrounded))
    assert off < 0.1 * rounding


@pytest.mark.parametrize("storage", ["int8", "int4"])
def test_texts_in_eight_and_four_bits_do_not_depend_on_each_other(make_model, storage, threads):
    model, _ = quantized(make_model, storage, context_length=64)
    windows = [torch.randint(83, (length,)).tolist() for length in (1, 2, 3, 5, 9, 30, 4)]
    together = logits_of(KernelDecoder, model, windows, torch.arange(7))
    for rows in ([0], [5], [1, 6], [0, 2, 4], [1, 3, 5, 6]):
        alone = logits_of(KernelDecoder, model, [windows[row] for row in rows], torch.tensor(rows))
        assert torch.equal(alone, together[:, rows])


@torch.inference_mode()
@pytest.mark.parametrize("storage", ["int8", "int4"])
def test_what_is_no_number_stays_none_in_eight_and_four_bits(make_model, storage):
    model, _ = quantized(make_model, storage)
    decoder = KernelDecoder(model, KVCache.for_model(model.config, 1))
    model.blocks[0].feedforward_norm.weight[3] = float("nan")
    assert decoder.fill([0], [[5, 6]]).isnan().all()


def test_no_matrix_is_widened_whole_while_a_text_is_written(make_model, monkeypatch):
    def refuse(*_):
        raise AssertionError("widened")

    model, _ = quantized(make_model, "int4", context_length=64)
    monkeypatch.setattr(QuantizedMatrix, "dequantize", refuse)
    assert len(generate(model, [[1, 2, 3]], max_new_tokens=2, kernels=True)) == 1
