"""Hugging Face folders: what is written is read, and what cannot be read is refused with reasons."""

import json
import os
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch

from tests.peak_memory import peak_memory, reset_peak_memory
from tests.small_models import END, SHAPE, language_model, tokenizer
from transformerlm.checkpoint.store import read_checkpoint, write_checkpoint
from transformerlm.config import GenerationConfig
from transformerlm.conversion.convert import eos_token_of
from transformerlm.conversion.hf_folder import MAX_JSON_BYTES, read_folder, write_folder
from transformerlm.errors import CheckpointError, DataError
from transformerlm.storage.safetensors import iterate_tensors, tensor_chunks
from transformerlm.tokenizer import Tokenizer


def write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    path.write_bytes(b"".join(map(bytes, tensor_chunks(tensors, {"format": "pt"})[1])))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder, lm = tmp_path_factory.mktemp("hf"), language_model(num_kv_heads=2)
    state, eos = lm.model.state_dict(), eos_token_of(lm)
    write_folder(folder, lm.model.config, state, lm.tokenizer, eos, GenerationConfig(temperature=0.0))
    return folder


@pytest.fixture
def folder(good, tmp_path):
    return shutil.copytree(good, tmp_path / "hf")


def loaded(folder):
    """Our weights, as the run gets them."""
    return {name: deferred.make() for name, deferred in read_folder(folder).state().items()}


def change_config(folder, **changes):
    values = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(values))


def change_tensors(folder, change):
    tensors = dict(iterate_tensors(folder / "model.safetensors"))
    change(tensors)
    write_tensors(folder / "model.safetensors", tensors)


def test_what_was_written_is_read(folder):
    found, lm = read_folder(folder), language_model(num_kv_heads=2)
    assert found.model == lm.model.config
    assert (found.eos_token, found.model_type, found.dtype) == (END, "llama", "float32")
    assert found.tokenizer.fingerprint == lm.tokenizer.fingerprint
    state = loaded(folder)
    assert list(state) == list(lm.model.state_dict())
    for name, tensor in lm.model.state_dict().items():
        assert torch.equal(state[name], tensor)
    assert found.first_difference(lm.model.state_dict()) is None
    other = lm.model.state_dict() | {"blocks.1.attention.k_proj.weight": torch.ones(24, 48)}
    assert found.first_difference(other) == "model.layers.1.self_attn.k_proj.weight"


def test_greedy_generation_names_no_sampling(folder):
    found = json.loads((folder / "generation_config.json").read_text())
    assert found["do_sample"] is False
    assert not {"temperature", "top_p", "top_k"} & found.keys()


def test_links_as_in_the_hubs_cache_are_followed(folder, tmp_path):
    linked = tmp_path / "snapshot"
    linked.mkdir()
    for path in folder.iterdir():
        (linked / path.name).symlink_to(path)
    assert read_folder(linked).model == read_folder(folder).model


def test_tables_of_older_files_are_passed_over(folder):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    change_tensors(folder, lambda tensors: tensors.update({name: torch.ones(6)}))
    read_folder(folder)


@pytest.mark.parametrize("same", [True, False])
def test_a_tied_head_that_is_there_too_must_be_the_embedding(folder, same):
    change_config(folder, tie_word_embeddings=True)

    def change(tensors):
        embedding = tensors["model.embed_tokens.weight"]
        tensors["lm_head.weight"] = embedding.clone() if same else embedding + 1

    change_tensors(folder, change)
    if same:
        state = read_folder(folder).state()
        assert state["head.weight"] is state["embedding.weight"]
    else:
        with pytest.raises(CheckpointError, match=r"lm_head\.weight: expected the embedding once more"):
            read_folder(folder)


@pytest.mark.parametrize("eos", [None, 5, [5, tokenizer().special_token_ids[END]], "no id", [[]]])
def test_the_token_that_ends_a_text_is_a_special_one(folder, eos):
    (folder / "generation_config.json").unlink()
    change_config(folder, eos_token_id=eos)
    assert read_folder(folder).eos_token == (END if isinstance(eos, list) and len(eos) == 2 else None)


def test_of_two_files_that_name_the_end_the_settings_of_generation_count(folder):
    """Null is an answer: transformers generates without an end then, whatever the model's config says."""
    path = folder / "generation_config.json"
    values = json.loads(path.read_text())
    assert read_folder(folder).generation.eos_token == END
    path.write_text(json.dumps(values | {"eos_token_id": None}))
    assert read_folder(folder).generation.eos_token == ""
    del values["eos_token_id"]
    path.write_text(json.dumps(values))
    assert read_folder(folder).generation.eos_token == END


def test_no_token_begins_a_text_where_the_imported_tokenizer_has_none(folder, tmp_path):
    found = read_folder(folder)
    for kept, expected in (
        ({"eos_token": END}, None),
        ({"bos_token": END, "eos_token": END}, END),
        ({}, END),
    ):
        vocab = found.tokenizer.vocab, found.tokenizer.merges, list(found.tokenizer.special_token_ids)
        named = Tokenizer(*vocab, tokenizer_config=kept)
        output = tmp_path / f"out {kept}"
        output.mkdir()
        write_folder(output, found.model, loaded(folder), named, END, found.generation)
        for name, key in (("tokenizer_config", "bos_token"), ("config", "bos_token_id")):
            written = json.loads((output / f"{name}.json").read_text()).get(key)
            assert written in (expected, named.special_token_ids.get(expected))


def rename(tensors, old, new):
    tensors[new] = tensors.pop(old)


WRONG_TENSORS = {
    "one is missing": (lambda t: t.pop("model.norm.weight"), r"model\.norm\.weight: missing"),
    "one too many": (
        lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(48)}),
        r"q_proj\.bias: the model that config\.json describes has no such tensor",
    ),
    "another shape": (
        lambda t: t.update({"model.norm.weight": torch.ones(47)}),
        r"model\.norm\.weight: expected shape \(48,\), got \(47,\)",
    ),
    "another kind": (
        lambda t: t.update({"model.norm.weight": torch.ones(48, dtype=torch.float64)}),
        r"model\.norm\.weight: expected float32, bfloat16, float16, got float64",
    ),
    "other names": (
        lambda t: [rename(t, name, name.removeprefix("model.")) for name in list(t)],
        r"embed_tokens\.weight: the model",
    ),
}


@pytest.mark.parametrize("name", WRONG_TENSORS)
def test_tensors_that_are_not_the_models_are_named(folder, name):
    change, message = WRONG_TENSORS[name]
    change_tensors(folder, change)
    with pytest.raises(CheckpointError, match=message):
        read_folder(folder)


def only_a_pickle(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"model.norm.weight": 0}))


def index(**weight_map):
    def change(folder):
        (folder / "model.safetensors").rename(folder / "a.safetensors")
        content = json.dumps({"weight_map": weight_map or 5})
        (folder / "model.safetensors.index.json").write_text(content)

    return change


def fifo(name):
    def change(folder):
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return change


def written(name, content):
    return lambda folder: (folder / name).write_bytes(content)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"

WRONG_FOLDERS = {
    "a pointer in place of the weights": (
        written("model.safetensors", POINTER),
        CheckpointError,
        r"model\.safetensors: .*a git-lfs pointer .* git lfs pull",
    ),
    "a pointer in place of the tokenizer": (
        written("tokenizer.json", POINTER),
        DataError,
        r"tokenizer\.json: a git-lfs pointer .* git lfs pull",
    ),
    "a pointer in place of the config": (
        written("config.json", POINTER),
        CheckpointError,
        r"config\.json: .*a git-lfs pointer .* git lfs pull",
    ),
    "no folder": (shutil.rmtree, CheckpointError, r"expected a folder with config\.json"),
    "no config": (lambda f: (f / "config.json").unlink(), CheckpointError, r"config\.json: No such file"),
    "a config that is none": (written("config.json", b"[1]"), CheckpointError, "expected a JSON object, got"),
    "a torn config": (written("config.json", b'{"model'), CheckpointError, r"config\.json: not valid JSON"),
    "a deep config": (written("config.json", b"[" * 10**6), CheckpointError, "not valid JSON"),
    "a huge config": (
        lambda f: os.truncate(f / "config.json", MAX_JSON_BYTES + 1),
        CheckpointError,
        r"config\.json: .* expected at most",
    ),
    "a config that never ends": (fifo("config.json"), CheckpointError, r"expected a file, got a FIFO"),
    "weights that never end": (fifo("model.safetensors"), CheckpointError, r"expected a file, got a FIFO"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), CheckpointError, "found neither"),
    "a pickle": (only_a_pickle, CheckpointError, r"pytorch_model\.bin is a pickle, .* never loaded here"),
    "torn weights": (written("model.safetensors", b"12345678"), CheckpointError, "not a whole"),
    "an index that is none": (index(), CheckpointError, "expected weight_map"),
    "an index to elsewhere": (index(a="../hf/a.safetensors"), CheckpointError, "no such file here"),
    "an index to nothing": (index(a="b.safetensors"), CheckpointError, r"no such file here: b\.safetensors"),
    "no tokenizer": (
        lambda f: (f / "tokenizer.json").unlink(),
        DataError,
        r"expected tokenizer\.json, found",
    ),
    "a torn tokenizer": (written("tokenizer.json", b"{"), DataError, r"tokenizer\.json:1: not valid JSON"),
    "more layers than tensors": (
        lambda f: change_config(f, num_hidden_layers=10**15),
        CheckpointError,
        "num_hidden_layers: expected at most 10,000, got 1,000,000,000,000,000",
    ),
    "an endless context": (
        lambda f: change_config(f, max_position_embeddings=2**40),
        CheckpointError,
        "max_position_embeddings: expected at most 1,048,576",
    ),
    "a number that is none": (
        lambda f: change_tensors(f, lambda t: t["model.norm.weight"].fill_(torch.nan)),
        CheckpointError,
        r"model\.norm\.weight: expected numbers, got some that are not finite",
    ),
    "a wider model": (
        lambda f: change_config(f, hidden_size=4 * 10**12, head_dim=None),
        CheckpointError,
        r"expected shape \(4000000000000",
    ),
    "fewer rows than ids": (
        lambda f: (
            change_config(f, vocab_size=300),
            change_tensors(
                f,
                lambda t: t.update(
                    {n: t[n][:300].clone() for n in ("model.embed_tokens.weight", "lm_head.weight")}
                ),
            ),
        ),
        CheckpointError,
        r"vocab_size: expected at least the tokenizer's \d+ ids, got 300",
    ),
}


@pytest.mark.parametrize("name", WRONG_FOLDERS)
def test_a_folder_that_is_none_is_refused_in_a_line(folder, name):
    change, error, message = WRONG_FOLDERS[name]
    change(folder)
    with pytest.raises(error, match=message) as caught:
        loaded(folder)
    assert all("\n" not in line and len(line) < 500 for line in caught.value.lines)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the peak of memory")
def test_sizes_are_compared_before_memory_is_taken(folder):
    """A file of 6 GB that is nothing on the disk, and a config of a small model."""
    header = {"model.norm.weight": {"dtype": "F32", "shape": [3 * 2**29], "data_offsets": [0, 6 * 2**30]}}
    content = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(content).to_bytes(8, "little") + content)
        file.truncate(8 + len(content) + 6 * 2**30)
    reset_peak_memory()
    before = peak_memory()
    with pytest.raises(CheckpointError, match="num_hidden_layers"):
        read_folder(folder)
    assert peak_memory() - before < 100 * 2**20


def test_all_rows_of_a_wide_vocabulary_come_in(tmp_path):
    lm = language_model(vocab_size=400)
    write_folder(tmp_path, lm.model.config, lm.model.state_dict(), lm.tokenizer, None, GenerationConfig())
    found = read_folder(tmp_path)
    assert found.model.vocab_size == 400
    assert torch.equal(loaded(tmp_path)["embedding.weight"], lm.model.state_dict()["embedding.weight"])
    assert found.eos_token is None
    assert SHAPE["context_length"] == found.model.context_length


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the peak of memory")
def test_weights_go_out_and_in_one_at_a_time(tmp_path):
    lm = language_model(d_model=512, d_ff=2048, num_layers=6, num_heads=8)
    num_bytes = sum(tensor.nbytes for tensor in lm.model.state_dict().values())
    assert num_bytes > 90 * 2**20
    (tmp_path / "hf").mkdir()
    config, state = lm.model.config, lm.model.state_dict()
    reset_peak_memory()
    before = peak_memory()
    write_folder(tmp_path / "hf", config, state, lm.tokenizer, END, GenerationConfig(), "bfloat16")
    write_checkpoint(tmp_path / "run", 0, read_folder(tmp_path / "hf").state(), {}, {})
    assert peak_memory() - before < num_bytes / 3
    found = read_checkpoint(tmp_path / "run/step_00000000").model_state()
    assert all(torch.equal(found[name], tensor.bfloat16().float()) for name, tensor in state.items())
