"""Models out and in, against the programs that they are meant for."""

import copy
import json

import pytest
import torch
from torch.testing import assert_close

from tests.small_models import END, VARIANTS, language_model, tokenizer
from transformerlm.conversion import hf_folder, parity
from transformerlm.conversion.convert import EXACT, eos_token_of, export_folder, import_folder
from transformerlm.conversion.hf_folder import read_folder
from transformerlm.errors import CheckpointError, ConfigError
from transformerlm.infer import generate
from transformerlm.language_model import LanguageModel
from transformerlm.progress import SilentReporter

pytestmark = pytest.mark.slow  # transformers takes long to import and to load a model

TEXTS = [*parity.TEXTS, f"They've{END}naïve<|user|>  中文 12345\n\n"]


EXPORTED = ["grouped", "tied", "qk-norm, tied"]


class Heard(SilentReporter):
    def __init__(self):
        self.lines = []

    def say(self, message):
        self.lines.append(message)


@pytest.fixture(scope="module", params=EXPORTED)
def exported(request, tmp_path_factory, transformers):
    """A model, and the folder that it was exported to."""
    lm, folder = language_model(**VARIANTS[request.param]), tmp_path_factory.mktemp("out") / "model"
    heard = Heard()
    export_folder(lm, folder, "float32", heard)
    assert "transformers" in heard.lines[-1]
    return lm, folder


@pytest.fixture(scope="module")
def peer(exported, transformers):
    """The exported model in transformers."""
    return transformers.AutoModelForCausalLM.from_pretrained(exported[1])


def test_transformers_computes_the_same_logits(exported, peer):
    lm, _ = exported
    assert type(peer).__name__ == ("Qwen3ForCausalLM" if lm.model.config.qk_norm else "LlamaForCausalLM")
    assert peer.dtype == torch.float32
    ids = torch.randint(lm.tokenizer.vocab_size, (2, 48))
    with torch.inference_mode():
        assert_close(peer(ids).logits, lm.model(ids), rtol=0, atol=1e-5)


def test_transformers_encodes_to_the_same_ids(exported, transformers):
    lm, folder = exported
    peer = transformers.AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert peer(text)["input_ids"] == lm.tokenizer.encode(text)
        assert peer.decode(lm.tokenizer.encode(text)) == text
    assert (peer.eos_token, peer.model_max_length) == (END, 48)
    assert peer.eos_token_id == lm.tokenizer.special_token_ids[END]
    assert set(peer("text")) == {"input_ids", "attention_mask"}


def test_transformers_continues_greedily_to_the_same_ids(exported, peer):
    lm, _ = exported
    for text in TEXTS[::2]:
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


def huggingface(
    transformers,
    folder,
    kind="Llama",
    seed=0,
    max_shard_size="5GB",
    dtype=torch.float32,
    said_dtype=None,
    key="torch_dtype",
    **changes,
):
    """A folder as transformers writes it, of a model that it has drawn."""
    settings = {
        **{"vocab_size": tokenizer().vocab_size, "hidden_size": 48, "intermediate_size": 80},
        **{"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12},
        **{"max_position_embeddings": 64, "rms_norm_eps": 1e-5, "initializer_range": 0.1},
        **{"eos_token_id": [tokenizer().special_token_ids[END]], "bos_token_id": None},
    }
    torch.manual_seed(seed)
    config = getattr(transformers, f"{kind}Config")(**(settings | changes))
    model = getattr(transformers, f"{kind}ForCausalLM")(config).to(dtype)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    tokenizer().export_tokenizer_json(folder)
    if said_dtype:
        values = json.loads((folder / "config.json").read_text())
        values.pop("dtype")
        (folder / "config.json").write_text(json.dumps(values | {key: said_dtype}))
    return folder


THEIR_MODELS = {
    "Llama, tied, in many files": {"tie_word_embeddings": True, "max_shard_size": "20KB"},
    "Llama in bfloat16": {"dtype": torch.bfloat16},
    "Llama in float32 that says bfloat16": {"said_dtype": "bfloat16"},
    "Llama in float16 that says bfloat16": {"dtype": torch.float16, "said_dtype": "bfloat16", "key": "dtype"},
    "Llama with more rows": {"vocab_size": 400, "dtype": torch.float16},
    "Qwen3": {"kind": "Qwen3", "rope_parameters": {"rope_type": "default", "rope_theta": 777.0}},
    "Mistral with a window that is none": {"kind": "Mistral", "sliding_window": 64},
}


@pytest.mark.parametrize("name", THEIR_MODELS)
def test_in_and_out_again_is_the_same_to_the_bit(name, tmp_path, transformers):
    options = THEIR_MODELS[name]
    source, heard = huggingface(transformers, tmp_path / "source", **options), Heard()
    import_folder(source, tmp_path / "run", heard)
    assert "transformers" in heard.lines[-1]
    lm = LanguageModel.load(tmp_path / "run", EXACT)
    dtype = options.get("dtype", torch.float32)
    before = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    ids = torch.randint(tokenizer().vocab_size, (2, 64))
    with torch.inference_mode():
        assert_close(lm.model(ids), copy.deepcopy(before).float()(ids).logits, rtol=0, atol=1e-5)
    export_folder(lm, tmp_path / "back", str(dtype).removeprefix("torch."), SilentReporter())
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back").state_dict()
    assert before.state_dict().keys() == theirs.keys()
    for key, tensor in before.state_dict().items():
        assert tensor.dtype == theirs[key].dtype
        assert torch.equal(tensor, theirs[key]), key


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_fewer_bits_are_the_nearest_numbers(dtype, tmp_path):
    lm = language_model()
    export_folder(lm, tmp_path / "out", dtype, SilentReporter())
    folder = read_folder(tmp_path / "out")
    assert folder.dtype == dtype
    for name, tensor in lm.model.state_dict().items():
        weight = folder.state()[name].make()
        assert torch.equal(weight, tensor.to(getattr(torch, dtype)).float()), name


def test_a_weight_too_large_for_float16_is_refused_and_nothing_is_left(tmp_path):
    lm = language_model()
    with torch.no_grad():
        lm.model.blocks[1].feedforward.w3.weight[0, 0] = 1e6
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj\.weight: not finite in float16"):
        export_folder(lm, tmp_path / "out", "float16", SilentReporter())
    assert list(tmp_path.iterdir()) == []


def spoiled(spec, value, config):
    return value  # as if both rotated the same pairs


@pytest.mark.parametrize("variant", ["plain", "qk-norm"])
def test_a_wrong_order_of_rows_is_found_out_and_nothing_is_left(variant, tmp_path, monkeypatch, transformers):
    # Wrong in the same way out and in: only another program can tell.
    monkeypatch.setattr(hf_folder, "to_theirs", spoiled)
    monkeypatch.setattr(hf_folder, "to_ours", spoiled)
    with pytest.raises(CheckpointError, match=r"transformers 5.*: other logits: .* apart after token"):
        export_folder(language_model(**VARIANTS[variant]), tmp_path / "out", "float32", SilentReporter())
    assert list(tmp_path.iterdir()) == []


def with_roles(folder, *, bos=None, template=None, **generation):
    """Change an exported folder into one of the forms that other people's have."""
    content = json.loads((folder / "tokenizer.json").read_text())
    if bos:
        ids = {bos: {"id": bos, "ids": [tokenizer().special_token_ids[bos]], "tokens": [bos]}}
        single = [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
        step = {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": ids}
        content["post_processor"] = {"type": "Sequence", "processors": [content["decoder"], step]}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "bos_token": bos}
    config |= {"pad_token": "<|user|>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"


def test_what_begins_and_ends_a_text_survives_the_way_in_and_out(tmp_path, transformers):
    end, user = (tokenizer().special_token_ids[token] for token in (END, "<|user|>"))
    said = {"eos_token_id": [user, end], "do_sample": True, "temperature": 0.6, "top_p": 0.9, "num_beams": 4}
    source = huggingface(transformers, tmp_path / "source")
    with_roles(source, bos="<|user|>", template=TEMPLATE, repetition_penalty=1.2, **said)
    heard = Heard()
    import_folder(source, tmp_path / "run", heard)
    assert "the same ids of prompts, the same greedy texts" in heard.lines[1]
    assert heard.lines[2] == "not taken over: generation_config.json: num_beams = 4"
    lm = LanguageModel.load(tmp_path / "run", EXACT)
    own = lm.generation
    assert (own.bos_token, own.eos_token, own.stop_tokens) == ("<|user|>", END, ("<|user|>",))
    assert (own.temperature, own.top_p, own.top_k, own.repetition_penalty) == (0.6, 0.9, 50, 1.2)

    export_folder(lm, tmp_path / "back", "float32", SilentReporter())
    before, after = (
        transformers.AutoTokenizer.from_pretrained(tmp_path / name) for name in ("source", "back")
    )
    talk = [{"role": "user", "content": "The fox"}]
    assert after.apply_chat_template(talk, tokenize=False) == before.apply_chat_template(talk, tokenize=False)
    for role in ("bos_token", "eos_token", "pad_token"):
        assert getattr(after, role) == getattr(before, role)
    texts = ["The fox, they've said,", "x"]
    assert after(texts, padding=True).input_ids == before(texts, padding=True).input_ids
    assert after(texts).input_ids == [[user, *lm.tokenizer.encode(text)] for text in texts]
    found = json.loads((tmp_path / "back/generation_config.json").read_text())
    assert (found["bos_token_id"], found["eos_token_id"], found["pad_token_id"]) == (user, [end, user], user)
    peer = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    for text in texts:
        given = after(text, return_tensors="pt")
        theirs = peer.generate(**given, max_new_tokens=20, do_sample=False)[0, given.input_ids.shape[1] :]
        ours = lm.generate(text, max_new_tokens=20, temperature=0)
        assert after.decode(theirs, skip_special_tokens=False).removesuffix(END) == ours


def test_a_prompt_that_begins_otherwise_in_transformers_is_found_out(tmp_path, monkeypatch, transformers):
    source = with_roles(huggingface(transformers, tmp_path / "source"), bos="<|user|>")
    monkeypatch.setattr(hf_folder, "read_added_prefix", lambda *_: [])
    with pytest.raises(CheckpointError, match=r"transformers 5.*: other ids .*: id 0 of the prompt"):
        import_folder(source, tmp_path / "run", SilentReporter())
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_that_transformers_reads_as_another_one_is_named(tmp_path, transformers):
    """As SmolLM 2's: the class that it names brings a pre-tokenizer of its own, which keeps numbers whole."""
    source = with_roles(huggingface(transformers, tmp_path / "source"))
    content = json.loads((source / "tokenizer.json").read_text())
    digits = {"type": "Digits", "individual_digits": True}
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, content["pre_tokenizer"]]}
    (source / "tokenizer.json").write_text(json.dumps(content))
    config = {"tokenizer_class": "GPT2Tokenizer", "eos_token": END}
    (source / "tokenizer_config.json").write_text(json.dumps(config))
    heard = Heard()
    import_folder(source, tmp_path / "run", heard)
    assert "; it reads tokenizer.json as something else: id " in heard.lines[1]


def test_texts_of_several_lengths_are_filled_up_and_continued_together(exported, peer, transformers):
    encode = transformers.AutoTokenizer.from_pretrained(exported[1])
    texts = ["x", "The fox, they've said,"]
    together = encode(texts, padding=True, return_tensors="pt")
    assert together.attention_mask.sum(1).tolist() == [
        len(exported[0].tokenizer.encode(text)) for text in texts
    ]
    found = peer.generate(**together, max_new_tokens=12, do_sample=False)[:, together.input_ids.shape[1] :]
    for text, ids in zip(texts, found, strict=True):
        alone = encode(text, return_tensors="pt")
        expected = peer.generate(**alone, max_new_tokens=12, do_sample=False)[0, alone.input_ids.shape[1] :]
        assert ids.tolist()[: len(expected)] == expected.tolist()


def test_another_key_of_the_config_is_found_out(tmp_path, monkeypatch, transformers):
    right = hf_folder.config_of
    monkeypatch.setattr(
        hf_folder, "config_of", lambda *a: right(*a) | {"rope_parameters": None, "rope_theta": 50}
    )
    with pytest.raises(CheckpointError, match="other logits"):
        export_folder(language_model(), tmp_path / "out", "float32", SilentReporter())


def test_an_import_that_became_something_else_is_found_out(tmp_path, monkeypatch, transformers):
    source = huggingface(transformers, tmp_path / "source")
    monkeypatch.setattr(hf_folder, "to_ours", spoiled)
    with pytest.raises(CheckpointError, match=r"self_attn\.[qk]_proj\.weight: became something else"):
        import_folder(source, tmp_path / "run", SilentReporter())
    assert not (tmp_path / "run").exists()


def test_without_transformers_it_is_read_back_here_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(parity, "is_installed", lambda package: False)
    heard, folder = Heard(), tmp_path / "out"
    export_folder(language_model(), folder, "float32", heard)
    assert heard.lines[-1].endswith("not by transformers, which is not installed")
    import_folder(folder, tmp_path / "run", heard)
    assert heard.lines[-1].endswith("not by transformers, which is not installed")


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("mine")
    for convert in (
        lambda: export_folder(language_model(), tmp_path / "there", "float32", SilentReporter()),
        lambda: import_folder(tmp_path / "source", tmp_path / "there", SilentReporter()),
    ):
        with pytest.raises(ConfigError, match="expected a path where there is nothing, got"):
            convert()
    assert [path.name for path in tmp_path.rglob("*")] == ["there", "mine"]


def test_generation_is_the_runs_own(exported):
    lm, folder = exported
    found = json.loads((folder / "generation_config.json").read_text())
    assert (found["do_sample"], found["temperature"], found["top_p"], found["top_k"]) == (True, 0.8, 0.95, 0)
    unused = list(range(lm.tokenizer.vocab_size, lm.model.config.vocab_size))
    assert found.get("suppress_tokens", []) == unused
