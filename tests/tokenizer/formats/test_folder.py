"""Folders with the files of several programs. The judge is tokenizers with the folder's tokenizer.json."""

import json
from pathlib import Path

import pytest
import tokenizers

from transformerlm.errors import DataError
from transformerlm.tokenizer import Tokenizer, train_bpe_from_texts
from transformerlm.tokenizer.formats.folder import holds_tokenizer

CODE = "def f(self):\n    return self.items()[1234]  # naïve\n\n\n"
LLAMA = (
    r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>"]


def write(folder: Path, name: str, content: object) -> None:
    (folder / name).write_text(json.dumps(content))


def write_two_files(folder: Path, tokenizer: Tokenizer) -> None:
    """As `save`, without the manifest and without the special tokens, which other programs list elsewhere."""
    tokenizer.save(folder)
    (folder / "manifest.json").unlink()
    vocab = json.loads((folder / "vocab.json").read_text())
    write(folder, "vocab.json", {key: value for key, value in vocab.items() if key not in SPECIAL})


@pytest.fixture(scope="module")
def llama():
    """A tokenizer with a pattern of Llama 3's kind."""
    vocab, merges = train_bpe_from_texts([CODE * 9], 320, SPECIAL, pattern=LLAMA)
    return Tokenizer(vocab, merges, SPECIAL, pattern=LLAMA)


@pytest.fixture
def as_published(llama, tmp_path):
    """A folder as Qwen's, SmolLM's and StarCoder's repositories have it."""
    write_two_files(tmp_path, llama)
    llama.export_tokenizer_json(tmp_path, eos_token=SPECIAL[0])
    return tmp_path


@pytest.fixture
def gpt2_folder(tmp_path):
    """GPT-2's two files, of 280 ids, of which the last is "<|endoftext|>"."""
    Tokenizer(*train_bpe_from_texts([CODE * 9], 280, SPECIAL[:1]), SPECIAL[:1]).save(tmp_path)
    (tmp_path / "manifest.json").unlink()
    return tmp_path


def test_of_a_published_folder_the_file_that_knows_most_is_read(as_published):
    theirs = tokenizers.Tokenizer.from_file(str(as_published / "tokenizer.json"))
    text = CODE + SPECIAL[0] + CODE
    ids = Tokenizer.from_dir(as_published).encode(text)
    assert ids == theirs.encode(text).ids
    assert ids.count(theirs.token_to_id(SPECIAL[0])) == 1


def test_a_folder_that_is_refused_is_refused_beside_other_files_too(as_published):
    content = json.loads((as_published / "tokenizer.json").read_text())
    write(as_published, "tokenizer.json", {**content, "normalizer": {"type": "Nmt"}})
    with pytest.raises(DataError, match=r"tokenizer\.json:\d+: normalizer: expected NFC, .*, got Nmt"):
        Tokenizer.from_dir(as_published)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("added_tokens.json", {"<|endoftext|>": 318, "<new>": 320}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"320": {"content": "<new>"}}}),
    ],
)
def test_a_tokenizer_json_without_a_token_of_its_settings_is_refused(as_published, name, content):
    """Transformers would add it."""
    write(as_published, name, content)
    with pytest.raises(DataError, match=r"tokenizer\.json: expected the special token '<new>'"):
        Tokenizer.from_dir(as_published)


def test_what_this_package_has_recorded_comes_before_a_tokenizer_json(llama, as_published):
    other = Tokenizer(*train_bpe_from_texts([CODE], 270, []))
    other.save(as_published)
    assert Tokenizer.from_dir(as_published).fingerprint == other.fingerprint


def test_two_files_of_another_pattern_are_not_read_with_gpt2s(as_published):
    (as_published / "tokenizer.json").unlink()
    (as_published / "tokenizer_config.json").unlink()
    paths = as_published / "vocab.json", as_published / "merges.txt"
    for load in (lambda: Tokenizer.from_dir(as_published), lambda: Tokenizer.from_files(*paths)):
        with pytest.raises(DataError, match=r"merges\.txt: b'\S+' is a token, but GPT-2's pattern divides"):
            load()
    assert Tokenizer.from_files(*paths, pattern=LLAMA).encode("self.items") == [
        *Tokenizer.from_files(*paths, pattern=LLAMA).encode("self"),
        *Tokenizer.from_files(*paths, pattern=LLAMA).encode(".items"),
    ]


def test_another_programs_special_tokens_are_read_from_all_its_files(gpt2_folder):
    write(gpt2_folder, "added_tokens.json", {"<b>": 281, "<a>": 280})
    decoder = {"282": {"content": "<c>", "special": True}, "279": {"content": "<|endoftext|>"}}
    settings = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": False, "added_tokens_decoder": decoder}
    write(gpt2_folder, "tokenizer_config.json", {**settings, "bos_token": {"content": "<|endoftext|>"}})
    named = {"eos_token": "<|endoftext|>", "pad_token": "<a>", "additional_special_tokens": ["<b>", "self"]}
    write(gpt2_folder, "special_tokens_map.json", named)
    tokenizer = Tokenizer.from_dir(gpt2_folder)
    special = tokenizer.special_token_ids
    assert special == {"<|endoftext|>": 279, "<a>": 280, "<b>": 281, "<c>": 282, "self": special["self"]}
    assert tokenizer.encode("<b>self<c>") == [281, special["self"], 282]


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("tokenizer_config.json", {"tokenizer_class": "Qwen2Tokenizer"}, "tokenizer_class: expected GPT2Tok"),
        ("tokenizer_config.json", {"add_prefix_space": True}, "add_prefix_space: expected false"),
        ("tokenizer_config.json", {"mask_token": {"content": "a", "lstrip": True}}, "lstrip: expected false"),
        ("tokenizer_config.json", [], "expected an object"),
        ("special_tokens_map.json", {"pad_token": "[PAD]"}, "'\\[PAD\\]': expected the id 280, got None"),
        ("special_tokens_map.json", {"additional_special_tokens": 3}, "expected a list, got 3"),
        ("added_tokens.json", {"<a>": 290}, "'<a>': expected the id 280, got 290"),
        ("added_tokens.json", {"<|endoftext|>": 3}, "expected the id 279, got 3"),
        ("added_tokens.json", {"<a>": "x"}, "expected the id of a token, got 'x'"),
    ],
)
def test_settings_that_would_give_other_ids_are_refused(gpt2_folder, name, content, what):
    write(gpt2_folder, name, content)
    with pytest.raises(DataError, match=what) as caught:
        Tokenizer.from_dir(gpt2_folder)
    assert len(caught.value.lines) == 1


def test_merges_that_end_words_are_refused(gpt2_folder):
    """CLIP's vocabulary has every byte a second time, at the end of a word."""
    vocab = json.loads((gpt2_folder / "vocab.json").read_text())
    ends = [*(f"{key}</w>" for key, token_id in vocab.items() if token_id < 256), "in</w>"]
    write(gpt2_folder, "vocab.json", vocab | {end: len(vocab) + index for index, end in enumerate(ends)})
    with (gpt2_folder / "merges.txt").open("a") as file:
        file.write("i n</w>\n")
    with pytest.raises(DataError, match=r"b'in</w>' is a token, but GPT-2's pattern divides it"):
        Tokenizer.from_dir(gpt2_folder)


@pytest.mark.parametrize("name", ["qwen.tiktoken", "tokenizer.model", "vocab.bpe", "tokenizer_config.json"])
def test_a_tokenizer_of_another_format_is_named(tmp_path, name):
    assert not holds_tokenizer(tmp_path)
    write(tmp_path, name, {})
    assert holds_tokenizer(tmp_path)
    with pytest.raises(DataError, match=f"expected tokenizer.json, or .* got {name}: other formats"):
        Tokenizer.from_dir(tmp_path)
