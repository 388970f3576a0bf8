"""Models out and in, against the programs that they are meant for."""

import json

import pytest
import torch
from torch.testing import assert_close

from tests.small_models import END, VARIANTS, language_model, tokenizer
from transformerlm import conversion, cross_check
from transformerlm.conversion import EXACT, eos_token_of, export_folder, export_gguf, import_folder
from transformerlm.errors import CheckpointError, ConfigError
from transformerlm.hf_folder import read_folder
from transformerlm.infer import generate
from transformerlm.language_model import LanguageModel
from transformerlm.progress import SilentReporter

transformers = pytest.importorskip("transformers")

TEXTS = [*cross_check.TEXTS, f"They've{END}naïve<|user|>  中文 12345\n\n"]


class Heard(SilentReporter):
    def __init__(self):
        self.lines = []

    def say(self, message):
        self.lines.append(message)


@pytest.fixture(scope="module", params=VARIANTS)
def exported(request, tmp_path_factory):
    """A model, and the folder that it was exported to."""
    lm, folder = language_model(**VARIANTS[request.param]), tmp_path_factory.mktemp("out") / "model"
    heard = Heard()
    export_folder(lm, folder, "float32", heard)
    assert "transformers" in heard.lines[-1]
    return lm, folder


def test_transformers_computes_the_same_logits(exported):
    lm, folder = exported
    peer = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert type(peer).__name__ == ("Qwen3ForCausalLM" if lm.model.config.qk_norm else "LlamaForCausalLM")
    assert peer.dtype == torch.float32
    ids = torch.randint(lm.tokenizer.vocab_size, (2, 48))
    with torch.inference_mode():
        assert_close(peer(ids).logits, lm.model(ids), rtol=0, atol=1e-5)


def test_transformers_encodes_to_the_same_ids(exported):
    lm, folder = exported
    peer = transformers.AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert peer(text)["input_ids"] == lm.tokenizer.encode(text)
        assert peer.decode(lm.tokenizer.encode(text)) == text
    assert (peer.eos_token, peer.model_max_length) == (END, 48)
    assert peer.eos_token_id == lm.tokenizer.special_token_ids[END]


def test_transformers_continues_greedily_to_the_same_ids(exported):
    lm, folder = exported
    peer = transformers.AutoModelForCausalLM.from_pretrained(folder)
    for text in TEXTS:
        ids = lm.tokenizer.encode(text)[:20]
        size, eos = lm.tokenizer.vocab_size, lm.tokenizer.special_token_ids[END]
        ours = generate(lm.model, ids, max_new_tokens=24, temperature=0, vocab_size=size, eos_token_id=eos)
        theirs = peer.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False)
        assert theirs[0, len(ids) :].tolist() in (ours, [*ours, eos])


def test_out_and_in_again_is_the_same_to_the_bit(exported, tmp_path):
    lm, folder = exported
    import_folder(folder, tmp_path / "run", SilentReporter())
    back = LanguageModel.load(tmp_path / "run", EXACT)
    assert back.tokenizer.fingerprint == lm.tokenizer.fingerprint
    assert back.model.config == lm.model.config
    ours, theirs = lm.model.state_dict(), back.model.state_dict()
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    assert eos_token_of(back) == END
