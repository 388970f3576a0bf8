"""GGUF files, read back by the package gguf, and by llama.cpp where it is installed."""

import sys

import numpy as np
import pytest
import torch

from tests.small_models import END, VARIANTS, language_model, random_model, tokenizer
from transformerlm.config import GPT2_PATTERN, GenerationConfig
from transformerlm.conversion import gguf as gguf_file
from transformerlm.conversion.convert import export_gguf
from transformerlm.conversion.hf_layout import tensor_specs
from transformerlm.conversion.parity import TEXTS
from transformerlm.errors import CheckpointError, ConfigError, DataError
from transformerlm.infer import generate
from transformerlm.nn.quantization import quantize, quantize_
from transformerlm.progress import SilentReporter
from transformerlm.tokenizer import Tokenizer

gguf = pytest.importorskip("gguf")


NAMES = {name: pattern for (pattern, _), name in gguf_file.PATTERNS.items()}
USUAL = ["gpt-2", "smollm", "llama-bpe", "qwen2", "bloom"]


SPECIAL = list(tokenizer().special_token_ids)


def with_a_word(pattern, *, whole_words):
    """A tokenizer with a token that no merge makes."""
    learned = tokenizer(pattern)
    ordinary = [
        token
        for token in learned.vocab.values()
        if token.decode(errors="replace") not in learned.special_token_ids
    ]
    vocab = dict(enumerate([*ordinary, b"they"]))
    return Tokenizer(vocab, learned.merges, [END], pattern=pattern, whole_words=whole_words)


@pytest.fixture(scope="module", params=VARIANTS)
def exported(request, tmp_path_factory):
    lm, path = language_model(**VARIANTS[request.param]), tmp_path_factory.mktemp("out") / "model.gguf"
    export_gguf(lm, path, "float32", SilentReporter())
    return lm, path


def test_gguf_reads_every_tensor_and_what_the_model_is(exported):
    lm, path = exported
    config, reader = lm.model.config, gguf.GGUFReader(path)
    fields = {key: field.contents() for key, field in reader.fields.items()}
    kind = fields["general.architecture"]
    assert kind == ("qwen3" if config.qk_norm else "llama")
    assert fields[f"{kind}.block_count"] == config.num_layers
    assert fields[f"{kind}.attention.head_count_kv"] == config.kv_heads
    assert fields[f"{kind}.attention.layer_norm_rms_epsilon"] == np.float32(config.norm_eps)
    assert fields[f"{kind}.rope.freq_base"] == config.rope_theta
    size = lm.tokenizer.vocab_size
    assert len(fields["tokenizer.ggml.tokens"]) == size == fields[f"{kind}.vocab_size"] <= config.vocab_size
    tensors = {tensor.name: torch.tensor(tensor.data) for tensor in reader.tensors}
    assert ("output.weight" in tensors) is not config.tie_embeddings
    assert len(tensors) == len(list(tensor_specs(config))) - config.tie_embeddings
    state = lm.model.state_dict()
    for ours, theirs in [
        ("embedding.weight", "token_embd.weight"),
        ("blocks.1.attention.v_proj.weight", "blk.1.attn_v.weight"),
        ("blocks.1.feedforward.w1.weight", "blk.1.ffn_gate.weight"),
        ("blocks.1.feedforward.w2.weight", "blk.1.ffn_down.weight"),
        ("blocks.1.feedforward.w3.weight", "blk.1.ffn_up.weight"),
        ("final_norm.weight", "output_norm.weight"),
    ]:
        assert torch.equal(tensors[theirs], state[ours][:size] if "emb" in ours else state[ours]), theirs
    q = state["blocks.0.attention.q_proj.weight"]
    assert torch.equal(tensors["blk.0.attn_q.weight"], q) is not config.qk_norm


def test_tokens_are_spelled_typed_and_in_order(exported):
    lm, path = exported
    fields = {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items()}
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    end = lm.tokenizer.special_token_ids[END]
    assert (tokens[end], kinds[end]) == (END, gguf.TokenType.CONTROL)
    assert tokens[lm.tokenizer.encode(" ")[0]] == "Ġ"
    assert kinds.count(gguf.TokenType.CONTROL) == 2
    assert len(fields["tokenizer.ggml.merges"]) == len(lm.tokenizer.merges)
    assert (fields["tokenizer.ggml.model"], fields["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    assert fields["tokenizer.ggml.eos_token_id"] == end
    assert fields["tokenizer.ggml.add_bos_token"] is False


def test_llama_cpp_writes_the_same_greedy_tokens(exported):
    llama_cpp = pytest.importorskip("llama_cpp")
    lm, path = exported
    peer = llama_cpp.Llama(str(path), n_ctx=48, verbose=False, type_k=0, type_v=0)
    size, eos = lm.tokenizer.vocab_size, lm.tokenizer.special_token_ids[END]
    for text in [*TEXTS, f"They've{END}naïve<|user|>  中文"]:
        assert peer.tokenize(text.encode(), add_bos=False, special=True) == lm.tokenizer.encode(text)
        ids = lm.tokenizer.encode(text)[:24]
        ours = generate(lm.model, ids, max_new_tokens=20, temperature=0, vocab_size=size, eos_token_id=eos)
        theirs = []
        for token_id in peer.generate(ids, temp=0, repeat_penalty=1.0):
            if token_id == eos or len(theirs) == 20:
                break
            theirs.append(token_id)
        assert theirs == ours


@pytest.mark.parametrize(("whole_words", "name"), [(True, "llama-bpe"), (False, "dbrx")])
def test_where_whole_words_matter_the_name_says_how_they_are_treated(whole_words, name):
    own = with_a_word(NAMES["llama-bpe"], whole_words=whole_words)
    found = made(language_model(own, vocab_size=own.vocab_size))
    assert found.fields["tokenizer.ggml.pre"] == name


class Heard(SilentReporter):
    def __init__(self):
        self.lines = []

    def say(self, message):
        self.lines.append(message)


def test_what_begins_and_ends_a_text_is_in_the_file_and_what_is_not_is_named(tmp_path):
    settings = {"pad_token": "<|user|>", "chat_template": "{{ messages }}"}
    own = Tokenizer(tokenizer().vocab, tokenizer().merges, SPECIAL, tokenizer_config=settings)
    generation = GenerationConfig(bos_token="<|user|>", stop_tokens=("<|user|>", END), stop=("\n\n",))
    heard, path = Heard(), tmp_path / "model.gguf"
    export_gguf(language_model(own, generation=generation), path, "float32", heard)
    fields = {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items()}
    user, end = (own.special_token_ids[token] for token in ("<|user|>", END))
    found = [fields[f"tokenizer.ggml.{key}_token_id"] for key in ("bos", "eos", "eot", "padding")]
    assert found == [user, end, user, user]
    assert (fields["tokenizer.ggml.add_bos_token"], fields["tokenizer.chat_template"]) == (
        True,
        "{{ messages }}",
    )
    assert heard.lines[-1].endswith(rf"a GGUF file cannot hold: '{END}', '\n\n'")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("variant", ["grouped", "qk-norm"])
def test_matrices_in_sixteen_bits_and_norms_in_float32(dtype, variant, tmp_path):
    lm, path = language_model(**VARIANTS[variant]), tmp_path / "model.gguf"
    export_gguf(lm, path, dtype, SilentReporter())  # with llama.cpp's own logits, where it is installed
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(path).tensors}
    for part in tensor_specs(lm.model.config):
        expected = "F32" if len(part.shape) == 1 else {"float16": "F16", "bfloat16": "BF16"}[dtype]
        assert kinds[gguf_file.tensor_name(part.ours)] == expected


@pytest.mark.parametrize("name", USUAL)
@pytest.mark.parametrize("with_word", [True, False])
def test_llama_cpp_divides_text_by_each_pattern_as_this_package_does(name, with_word, tmp_path):
    llama_cpp = pytest.importorskip("llama_cpp")
    learned, words = tokenizer(NAMES[name]), name == "llama-bpe"
    own = Tokenizer(learned.vocab, learned.merges, SPECIAL, pattern=NAMES[name])
    own = with_a_word(NAMES[name], whole_words=words) if with_word else own
    lm, path = language_model(own, vocab_size=own.vocab_size), tmp_path / "model.gguf"
    export_gguf(lm, path, "float32", SilentReporter())
    peer = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    numbers = "1 12 123 1234 12345 1'234 don't DON'T\n\n \r\n\t x  y   z (a)[b]{c} !? ... naïve 中文\n"
    for text in [*TEXTS, numbers, " " * 9, "\n \n", END + numbers + END]:
        assert peer.tokenize(text.encode(), add_bos=False, special=True) == own.encode(text), text


@pytest.mark.parametrize("name", USUAL)
@pytest.mark.parametrize("whole_words", [True, False])
def test_whole_words_do_not_matter_where_merges_make_every_token(name, whole_words):
    pattern = NAMES[name]
    learned = tokenizer(pattern)
    own = Tokenizer(learned.vocab, learned.merges, SPECIAL, pattern=pattern, whole_words=whole_words)
    found = made(language_model(own, vocab_size=own.vocab_size))
    assert found.fields["tokenizer.ggml.pre"] == name


def made(lm, **changes):
    arguments = {"tokenizer": lm.tokenizer, "eos_token": END, "state": lm.model.state_dict()} | changes
    return gguf_file.make(lm.model.config, dtype="float32", **arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"tokenizer": tokenizer(r"\w+|\s+|[^\w\s]+")},
            r"\[tokenizer\].pattern: expected that of gpt-2, ",
        ),
        (
            {"tokenizer": with_a_word(GPT2_PATTERN, whole_words=True)},
            "whole_words: with the pattern of gpt-2 whole words are merged .*; b'they' would get other ids",
        ),
        ({"eos_token": None}, "none of its special tokens ends a text"),
    ],
)
def test_a_tokenizer_that_it_cannot_hold_is_refused(changes, message):
    with pytest.raises(DataError, match=message):
        made(language_model(), **changes)


def test_a_file_that_holds_something_else_is_found_out(tmp_path):
    lm, path = language_model(), tmp_path / "model.gguf"
    right = made(lm)
    gguf_file.write(path, right)
    gguf_file.check_written(path, right)
    other = random_model(seed=1).state_dict()
    with pytest.raises(CheckpointError, match=r"token_embd\.weight: read back from GGUF as something else"):
        gguf_file.check_written(path, made(lm, state=other))
    right.fields["llama.rope.freq_base"] = 10001.0
    with pytest.raises(CheckpointError, match=r"llama\.rope\.freq_base: read back from GGUF as something"):
        gguf_file.check_written(path, right)


@pytest.mark.parametrize("wrong", ["rope_theta", "rows"])
def test_llama_cpp_finds_another_model_out_and_nothing_is_left(wrong, tmp_path, monkeypatch):
    pytest.importorskip("llama_cpp")
    if wrong == "rows":
        monkeypatch.setattr(gguf_file, "to_theirs", lambda part, value, config: value)
    else:
        fields = gguf_file.model_fields
        wrong_theta = {"qwen3.rope.freq_base": 50.0}
        monkeypatch.setattr(gguf_file, "model_fields", lambda *a: fields(*a) | wrong_theta)
    with pytest.raises(CheckpointError, match=r"llama_cpp 0.*: other logits: .* apart after token"):
        export_gguf(language_model(qk_norm=True), tmp_path / "model.gguf", "float32", SilentReporter())
    assert list(tmp_path.iterdir()) == []


OPTIONS = {
    "biases": ({"qkv_bias": True}, "qwen2"),
    "biases and wide heads": ({"qkv_bias": True, "d_head": 20}, "llama"),
    "wide heads": ({"d_head": 20, "num_kv_heads": 2}, "llama"),
    "wide heads, qk-norm": ({"d_head": 20, "num_kv_heads": 2, "qk_norm": True}, "qwen3"),
    "linear": ({"rope_scaling": "linear", "rope_factor": 4.0}, "llama"),
    "llama3": ({"rope_scaling": "llama3", "rope_factor": 8.0, "rope_original_length": 64}, "llama"),
    "yarn": ({"rope_scaling": "yarn", "rope_factor": 4.0, "rope_original_length": 64}, "llama"),
    "yarn, qk-norm, its own factors": (
        {
            **{"rope_scaling": "yarn", "rope_factor": 4.0, "rope_original_length": 64, "qk_norm": True},
            **{"rope_attention_factor": 1.3, "rope_beta_fast": 8.0, "rope_beta_slow": 2.0},
        },
        "qwen3",
    ),
    "yarn and biases": (
        {"rope_scaling": "yarn", "rope_factor": 4.0, "rope_original_length": 64, "qkv_bias": True},
        "qwen2",
    ),
    "without rotation": ({"nope_layers": (3,), "num_layers": 4, "tie_embeddings": True}, "smollm3"),
    "a window": ({"sliding_window": 24}, "llama"),
}
"""Name -> options of the model, and what it is in llama.cpp."""


@pytest.mark.parametrize("name", OPTIONS)
def test_llama_cpp_computes_every_option(name, tmp_path):
    pytest.importorskip("llama_cpp")
    options, architecture = OPTIONS[name]
    heard, path = Heard(), tmp_path / "model.gguf"
    lm = language_model(context_length=256, **options)
    for parameter_name, parameter in lm.model.named_parameters():
        if parameter_name.endswith("bias"):
            assert parameter.abs().min() > 0  # which `random_model` draws
    export_gguf(lm, path, "float32", heard)
    assert heard.lines[0].startswith(f"exported: {path}: {architecture}, ")
    assert "llama_cpp" in heard.lines[1]
    assert len(heard.lines) == (3 if name == "a window" else 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nope_layers": (0,)}, r"nope_layers: \[0\]; its smollm3 has \[\] of 2 layers"),
        ({"nope_layers": (3,), "num_layers": 4, "qk_norm": True}, "nope_layers together with"),
        (
            {
                **{"rope_scaling": "llama3", "rope_factor": 8.0, "rope_original_length": 64},
                **{"qk_norm": True},
            },
            'rope_scaling: "llama3" with qk_norm',
        ),
    ],
)
def test_a_model_that_llama_cpp_does_not_have_is_refused(options, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        export_gguf(language_model(**options), tmp_path / "model.gguf", "float32", SilentReporter())
    assert not list(tmp_path.iterdir())


def test_a_file_is_for_texts_as_long_as_the_window(tmp_path):
    heard, path = Heard(), tmp_path / "model.gguf"
    export_gguf(language_model(sliding_window=24), path, "float32", heard)
    fields = {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items()}
    assert fields["llama.context_length"] == 24
    assert heard.lines[-1].startswith("not taken over: the window, which llama.cpp does not have")


def test_without_the_package_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ConfigError, match=r"\[export\].to: .* the package gguf, which is not installed"):
        export_gguf(language_model(), tmp_path / "model.gguf", "float32", SilentReporter())


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "model.gguf").write_text("mine")
    with pytest.raises(ConfigError, match=r"\[export\].output: expected a path where there is nothing"):
        export_gguf(language_model(), tmp_path / "model.gguf", "float32", SilentReporter())
    assert (tmp_path / "model.gguf").read_text() == "mine"


WIDE = {"d_model": 64, "d_ff": 96, "vocab_size": 352}


@pytest.mark.parametrize("variant", ["plain", "tied", "qk-norm"])
@pytest.mark.parametrize(("dtype", "storage"), [("q8_0", "int8"), ("q4_0", "int4")])
def test_eight_and_four_bits_are_read_as_the_values_that_are_computed_with(dtype, storage, variant, tmp_path):
    lm = language_model(**{**VARIANTS[variant], **WIDE})
    export_gguf(lm, tmp_path / "model.gguf", dtype, SilentReporter())
    size = lm.tokenizer.vocab_size
    for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors:
        found = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
        is_norm = tensor.name.endswith("norm.weight")
        assert tensor.tensor_type.name == ("F32" if is_norm else dtype.upper()), tensor.name
        if tensor.name == "blk.1.attn_v.weight":
            own = lm.model.blocks[1].attention.v_proj.weight
            assert torch.equal(found, quantize(own, storage).dequantize())
        if tensor.name == "token_embd.weight":
            assert torch.equal(found, quantize(lm.model.embedding.weight[:size], storage).dequantize())


@pytest.mark.parametrize(("dtype", "storage"), [("q8_0", "int8"), ("q4_0", "int4")])
def test_llama_cpp_writes_as_this_package_does_in_eight_and_four_bits(dtype, storage, tmp_path):
    pytest.importorskip("llama_cpp")
    lm, reporter = language_model(**WIDE), Heard()
    export_gguf(lm, tmp_path / "model.gguf", dtype, reporter)
    assert "logits within" in " ".join(reporter.lines)  # of TOLERANCES
    encode, logits = gguf_file.load_in_llama_cpp(tmp_path / "model.gguf", 48)
    ids = encode("The fox, they've said")
    quantize_(lm.model, lambda name, value: quantize(value, storage))
    with torch.no_grad():
        ours = lm.model(torch.tensor([ids]))[0, :, : lm.tokenizer.vocab_size]
    theirs = logits(ids)
    # llama.cpp rounds activations to eight bits too: the same choice wherever the two highest differ by more.
    gap = float((ours - theirs).abs().max())
    highest = ours.topk(2).values
    is_clear = highest[:, 0] - highest[:, 1] > 2 * gap
    assert is_clear.any()
    assert torch.equal(ours.argmax(-1)[is_clear], theirs.argmax(-1)[is_clear])


def test_rows_of_no_whole_groups_are_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"multiple of 32 numbers for q4_0, got 48 in token_embd\.weight"):
        export_gguf(language_model(), tmp_path / "model.gguf", "q4_0", SilentReporter())
    assert list(tmp_path.iterdir()) == []
