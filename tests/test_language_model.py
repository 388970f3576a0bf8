import dataclasses
import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

import transformerlm
from tests.peak_memory import peak_memory, reset_peak_memory
from tests.small_models import bytes_only, language_model, save_run
from transformerlm import LanguageModel
from transformerlm.checkpoint.store import Checkpoint
from transformerlm.config import GenerationConfig, ModelConfig, RuntimeConfig
from transformerlm.errors import CheckpointError, ConfigError
from transformerlm.infer import complete
from transformerlm.nn import TransformerLM
from transformerlm.nn.quantization import quantize
from transformerlm.runtime import Runtime, precision
from transformerlm.tokenizer import Tokenizer

END = "<|endoftext|>"


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    """A model that has learned nothing, with bytes as its tokens."""
    tokenizer = Tokenizer({byte: bytes([byte]) for byte in range(256)}, [], [END])
    shape = {"context_length": 16, "d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 16}
    torch.manual_seed(0)
    model = TransformerLM(ModelConfig(vocab_size=tokenizer.vocab_size, **shape), dtype=torch.float64)
    checkpoint = Checkpoint(tmp_path_factory.mktemp("run"), 0, {}, {})
    return LanguageModel(model, tokenizer, checkpoint, Runtime.from_config(RuntimeConfig(device="cpu")))


SETTINGS = {"max_new_tokens": 30, "temperature": 1.7, "top_k": 200, "stop": ["q"], "min_p": 0.001}


def test_it_writes_what_complete_writes(lm):
    prompts = ("Once", "", "né")
    generation = GenerationConfig(prompts=prompts, **SETTINGS)
    expected = complete(lm.model, lm.tokenizer, generation, seed=3)
    texts = [completion.text for completion in expected]
    found = lm.complete(prompts, seed=3, **SETTINGS)
    assert [c.token_ids for c in found] == [c.token_ids for c in expected]
    assert lm.generate(prompts, seed=3, **SETTINGS) == texts
    for row, prompt in enumerate(prompts):
        assert lm.generate(prompt, seed=3, first_row=row, **SETTINGS) == texts[row]
        pieces = list(lm.stream(prompt, seed=3, first_row=row, **SETTINGS))
        assert "".join(pieces) == texts[row]
        assert all(pieces)
        assert len(pieces) > 5
    assert lm.generate([]) == []
    assert lm.generate("Once", max_new_tokens=5) == lm.generate("Once", max_new_tokens=5, seed=0, top_k=None)


def test_what_is_not_given_is_as_the_runs_own_config_says():
    settings = {"temperature": 0.0, "max_new_tokens": 6, "num_samples": 3, "log_probs": True}
    own = GenerationConfig(eos_token="", prompts=("a",), **settings)
    lm = language_model(bytes_only(), vocab_size=256, generation=own)
    assert lm.generation == own
    (found,) = lm.complete("ab")  # one text without log-probabilities: how much is returned is the caller's
    assert (len(found.token_ids), found.eos_token_id, found.log_probs) == (6, None, None)
    assert (
        lm.generate("ab")
        == "".join(lm.stream("ab"))
        == lm.generate("ab", temperature=0, seed=5)
        == found.text
    )
    assert lm.generate("ab", temperature=1.5, max_new_tokens=3) != found.text[:3]


def test_the_token_that_begins_a_text_is_put_before_every_prompt(lm):
    bos = {"temperature": 0, "max_new_tokens": 4, "bos_token": END}
    texts = [
        lm.generate(prompt, **(bos | changes))
        for prompt, changes in ((f"{END}a", {"bos_token": ""}), ("a", {}))
    ]
    assert texts[0] == texts[1]
    assert lm.generate("", **bos) == lm.generate(END, **(bos | {"bos_token": ""}))
    assert lm.generate("", **bos, eos_token="") == lm.generate(
        END, **(bos | {"bos_token": "", "eos_token": ""})
    )
    with pytest.raises(ConfigError, match=r"\[generation\]\.bos_token: expected a special token"):
        lm.generate("a", bos_token="<s>")


def test_several_samples(lm):
    found = lm.complete("Once", num_samples=3, max_new_tokens=8, log_probs=True)
    assert [(completion.sample, completion.row) for completion in found] == [(0, 0), (1, 1), (2, 2)]
    assert all(len(completion.log_probs) == len(completion.token_ids) for completion in found)


def test_a_stream_is_written_while_it_is_read(lm):
    calls = []
    hook = lm.model.final_norm.register_forward_hook(lambda *_: calls.append(1))
    pieces = lm.stream("a", max_new_tokens=10_000)
    assert not calls
    next(pieces)
    assert 0 < len(calls) < 20
    hook.remove()


@pytest.mark.parametrize("method", ["generate", "stream", "complete"])
@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"temprature": 1}, 'temprature: unknown key; did you mean "temperature"?'),
        ({"temperature": "hot"}, 'temperature: expected a number of at least 0, got "hot"'),
        ({"seed": -1}, "seed: expected a whole number of at least 0, got -1"),
        ({"stop": ""}, 'stop: expected a list, each text, got ""'),
        ({"stop": [""]}, "stop: expected strings of at least one character, got ['']"),
        ({"top_p": 0, "top_k": 0}, "top_p: expected a number above 0 and at most 1, got 0"),
    ],
)
def test_a_wrong_setting_is_a_line_that_names_it(lm, method, settings, line):
    with pytest.raises(ConfigError) as caught:
        getattr(lm, method)("a", **settings)
    assert caught.value.lines[0] == f"{method}: {line}"
    assert len(caught.value.lines) == len(settings)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A model whose weights are large beside all else that loading takes, and the folder of its run."""
    own = language_model(d_model=768, d_ff=2048, num_layers=3, tie_embeddings=True)
    return own, save_run(own, tmp_path_factory.mktemp("large"))


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loading_takes_the_memory_of_the_weights_once(large, dtype):
    own, folder = large
    num_bytes = sum(weight.nbytes for weight in own.model.parameters())
    assert num_bytes > 75e6
    before = torch.get_rng_state()
    LanguageModel.load(folder, RuntimeConfig(device="cpu", dtype=dtype))  # measures the precision, once
    reset_peak_memory()
    peak = peak_memory()
    loaded = LanguageModel.load(folder, RuntimeConfig(device="cpu", dtype=dtype))
    # The float32 numbers of the file are one piece of memory, which is held until the last is converted.
    copies = {"float32": 1, "bfloat16": 1.5}[dtype]
    assert peak_memory() - peak < copies * num_bytes + 25e6
    assert torch.equal(torch.get_rng_state(), before)
    assert not loaded.model.training
    for found, expected in zip(loaded.model.parameters(), own.model.parameters(), strict=True):
        assert torch.equal(found, expected.to(loaded.runtime.dtype))


@pytest.mark.parametrize("method", ["generate", "stream", "complete"])
@pytest.mark.parametrize("prompt", [None, 7, b"abc", [None], [b"abc"]], ids=repr)
def test_a_prompt_that_is_no_text_is_a_line_that_names_it(lm, method, prompt):
    with pytest.raises(ConfigError) as caught:
        getattr(lm, method)(prompt)
    (line,) = caught.value.lines
    assert line.startswith(
        (f"{method}: prompts: expected a list, each text, got ", "stream: prompt: expected")
    )


def test_any_iterable_of_texts_is_a_list_of_prompts(lm):
    expected = lm.generate(["a", "b"], max_new_tokens=4)
    assert lm.generate((text for text in "ab"), max_new_tokens=4) == expected
    with pytest.raises(ConfigError, match=r"^generate: prompts: expected as the first argument"):
        lm.generate("a", prompts=["b"])


def test_settings_may_be_numbers_of_numpy(lm):
    settings = {"temperature": 0.7, "top_p": 0.5, "top_k": 9, "max_new_tokens": 5, "seed": 3}
    kinds = {float: np.float32, int: np.int64}
    as_numpy = {key: kinds[type(value)](value) for key, value in settings.items()}
    given = settings | {"temperature": float(np.float32(0.7))}
    assert lm.generate("a", **as_numpy) == lm.generate("a", **given)


def test_a_prompt_that_is_cut_is_a_warning_and_a_number(lm):
    cut = "the prompt is longer than the model's context of 16 tokens: the first 18 are not seen"
    with pytest.warns(UserWarning, match=f"^{cut}$"):
        (completion,) = lm.complete("x" * 30, max_new_tokens=2)
    assert completion.num_cut_tokens == 18
    with pytest.warns(UserWarning, match=f"^{cut}$") as caught:
        list(lm.stream("x" * 30, max_new_tokens=2))
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert lm.complete("x" * 16, max_new_tokens=2)[0].num_cut_tokens == 0


def test_what_returns_one_text_takes_one(lm):
    for method in (lm.generate, lm.stream):
        with pytest.raises(ConfigError, match=r"^(generate|stream): num_samples: expected 1, "):
            method("a", num_samples=2)
    with pytest.raises(ConfigError, match=r"^generate: prompts: expected a list, each text, got \[3\]$"):
        lm.generate([3])


def test_the_packages_one_name():
    assert "LanguageModel" in transformerlm.__all__
    with pytest.raises(AttributeError, match="has no attribute 'LanguageModle'"):
        _ = transformerlm.LanguageModle


def test_a_slow_precision_by_name_is_told_once_and_auto_takes_the_faster(trained, monkeypatch):
    def load(dtype, speedup):
        seconds = {"float32": 1.0, "bfloat16": 1 / speedup}
        monkeypatch.setattr(precision, "measured_once", lambda *arguments: seconds)
        told: list[str] = []
        lm = LanguageModel.load(
            trained / "runs/fables", RuntimeConfig(device="cpu", dtype=dtype), told.append
        )
        assert {parameter.dtype for parameter in lm.model.parameters()} == {lm.runtime.dtype}
        return lm.runtime.dtype, told

    assert load("auto", 3.0) == (torch.bfloat16, [])
    assert load("auto", 0.5) == (torch.float32, [])
    dtype, (warning,) = load("bfloat16", 0.5)
    assert dtype == torch.bfloat16
    assert "bfloat16 takes 2 x as long as float32" in warning


LOADING = """
import json, sys
from tests.peak_memory import peak_memory, reset_peak_memory
from transformerlm import LanguageModel
from transformerlm.config import RuntimeConfig
small, large, *storages = sys.argv[1:]
taken = {}
for storage in storages:
    runtime = RuntimeConfig(device="cpu", weights=storage)
    LanguageModel.load(small, runtime)  # imports what loading needs
    reset_peak_memory()
    before = peak_memory()
    LanguageModel.load(large, runtime)
    taken[storage] = peak_memory() - before
print(json.dumps(taken))
"""


@pytest.fixture(scope="module")
def memory_of_loading(large, tmp_path_factory):
    """Bytes that loading takes by storage of weights, in a process whose memory no other test has divided."""
    small = save_run(language_model(d_model=64, d_ff=96), tmp_path_factory.mktemp("small"))
    command = [sys.executable, "-c", LOADING, str(small), str(large[1]), "int8", "int4"]
    # What is free goes back to the system at once: nothing is left of the first for the second.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize(("storage", "bytes_each"), [("int8", 34 / 32), ("int4", 18 / 32)])
def test_eight_and_four_bits_take_no_copy_in_float32(large, memory_of_loading, storage, bytes_each):
    own, folder = large
    num_weights = sum(weight.numel() for weight in own.model.parameters())
    runtime = RuntimeConfig(device="cpu", weights=storage)
    largest = 4 * 768 * 2048  # one matrix in float32 at a time
    assert memory_of_loading[storage] < bytes_each * num_weights + largest + 25e6 < 3.5 * num_weights
    loaded = LanguageModel.load(folder, runtime)
    assert (loaded.runtime.weights, loaded.runtime.dtype) == (storage, torch.float32)
    expected = quantize(own.model.blocks[1].feedforward.w3.weight, storage)
    assert torch.equal(loaded.model.blocks[1].feedforward.w3.weight, expected.dequantize())
    assert str(loaded.runtime).startswith(f"cpu, {storage} weights, float32")


def test_eight_bits_write_what_the_rounded_model_writes(tmp_path):
    own = language_model(d_model=64, d_ff=96)
    folder = save_run(own, tmp_path)
    for parameter in own.model.parameters():
        if parameter.dim() == 2:
            parameter.data = quantize(parameter, "int8").dequantize()
    rounded = dataclasses.replace(own, runtime=dataclasses.replace(own.runtime, kernels=True))
    loaded = LanguageModel.load(folder, RuntimeConfig(device="cpu", weights="int8"))
    settings = {"max_new_tokens": 20, "seed": 3}
    assert loaded.generate(["a", "The fox"], **settings) == rounded.generate(["a", "The fox"], **settings)


def test_widths_of_no_whole_groups_are_refused_by_name(tmp_path):
    folder = save_run(language_model(), tmp_path)
    with pytest.raises(ConfigError, match=r"multiples of 32; this one has d_model = 48, num_heads"):
        LanguageModel.load(folder, RuntimeConfig(device="cpu", weights="int4"))


def test_weights_that_no_scale_can_hold_are_refused_by_name(tmp_path):
    own = language_model(d_model=64, d_ff=96)
    with torch.no_grad():
        own.model.blocks[1].attention.k_proj.weight[3, 5] = float("nan")
    with pytest.raises(CheckpointError, match=r"blocks.1.attention.k_proj.weight: cannot be stored in int8"):
        LanguageModel.load(save_run(own, tmp_path), RuntimeConfig(device="cpu", weights="int8"))
