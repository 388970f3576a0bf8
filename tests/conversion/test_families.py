"""The small models that people use, in the form of their own config.json, against transformers."""

import json
from pathlib import Path

import pytest
import torch

from tests.conversion.families import FAMILIES, write_family
from tests.small_models import END, tokenizer
from transformerlm.config import GenerationConfig, TrainConfig
from transformerlm.conversion.convert import EXACT, export_folder, import_folder, run_config
from transformerlm.conversion.hf_folder import read_folder, write_folder
from transformerlm.infer import generate
from transformerlm.language_model import LanguageModel
from transformerlm.nn import TransformerLM
from transformerlm.progress import SilentReporter
from transformerlm.schema import from_toml, to_toml

pytestmark = pytest.mark.slow  # transformers takes long to import and to load a model


def loaded(folder) -> TransformerLM:
    """The model in a folder as an import has it."""
    found = read_folder(folder)
    model = TransformerLM(found.model)
    model.load_state_dict({name: weight.make() for name, weight in found.state().items()})
    return model.eval()


def in_transformers(transformers, folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    # It computes them in float32, and with AVX-512 PyTorch's powers are off by more than their rounding:
    # by 2e-8 of 0.2, which at position 255 is most of what the logits may differ by.
    frequencies = model.model.rotary_emb.inv_freq
    exponents = torch.arange(len(frequencies), dtype=torch.float64, device="cpu") / len(frequencies)
    theta = json.loads((folder / "config.json").read_text()).get("rope_theta", 10000.0)
    exact = (theta**-exponents).float()
    if torch.allclose(frequencies, exact, rtol=1e-6, atol=0):  # else they are scaled
        frequencies.copy_(exact)
    return model


@torch.inference_mode()
def assert_same_logits(ours, theirs, ids):
    found, expected = ours(ids), theirs(ids).logits
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", FAMILIES)
def test_in_the_same_logits_and_texts_and_out_again(name, tmp_path, transformers):
    source = write_family(transformers, tmp_path / "source", name)
    model, peer = loaded(source), in_transformers(transformers, source)
    ids = torch.randint(tokenizer().vocab_size, (2, 256))
    assert_same_logits(model, peer, ids)

    # In plain Python, which is slow, only over the edge of the shortest window, and far behind it.
    for start, number, kernels in ((40, 200, True), (16, 16, False), (224, 16, False)):
        prompt = ids[0, :start].tolist()
        text = generate(model, prompt, max_new_tokens=number, temperature=0, kernels=kernels)
        with torch.inference_mode():  # the likeliest token everywhere: what it would write itself
            logits = peer(torch.tensor([prompt + text])).logits[0, start - 1 : -1]
        assert logits.argmax(-1).tolist() == text

    (tmp_path / "back").mkdir()
    weights = model.state_dict()
    write_folder(tmp_path / "back", model.config, weights, tokenizer(), END, GenerationConfig())
    back = in_transformers(transformers, tmp_path / "back")
    assert back.state_dict().keys() == peer.state_dict().keys()
    assert all(torch.equal(back.state_dict()[key], tensor) for key, tensor in peer.state_dict().items())
    assert_same_logits(model, back, ids)
    folder = read_folder(tmp_path / "back")
    assert folder.model == model.config
    (tmp_path / "config.toml").write_text(to_toml(run_config(folder, tmp_path / "run")))
    assert from_toml(TrainConfig, tmp_path / "config.toml").model == model.config


def test_every_row_of_the_docs_is_a_family():
    text = (Path(__file__).parents[2] / "docs/conversion.md").read_text().split("## Families")[1]
    rows = [line.split("|")[1] for line in text.split("\n\n")[1].splitlines()[2:]]
    names = [name.strip() for row in rows for name in row.replace("also with", "").split(",")]
    assert len(rows) == 10
    for name in names:
        assert any(family.startswith(name) or family.endswith(f"with {name}") for family in FAMILIES), name


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("Llama 3.2", torch.float16), ("Mistral 7B v0.1", torch.bfloat16)],
)
def test_the_commands_import_and_export_a_family(name, dtype, tmp_path, transformers):
    """With all checks of both, in the precision of the weights."""
    source = write_family(transformers, tmp_path / "source", name, dtype)
    import_folder(source, tmp_path / "run", SilentReporter())
    lm = LanguageModel.load(tmp_path / "run", EXACT)
    assert_same_logits(lm.model, in_transformers(transformers, source), torch.arange(256)[None])
    export_folder(lm, tmp_path / "back", str(dtype).removeprefix("torch."), SilentReporter())
    said = json.loads((tmp_path / "back/config.json").read_text())
    assert (said["architectures"], said["torch_dtype"]) == (
        FAMILIES[name]["architectures"],
        str(dtype).removeprefix("torch."),
    )
