"""Tokenizers of tiktoken, read from files and from objects."""

import base64
import random

import pytest
import tiktoken
import tokenizers
from tiktoken_ext import openai_public

from tests.tokenizer.families import LLAMA3, texts
from transformerlm.errors import ConfigError, DataError
from transformerlm.tokenizer import Tokenizer, to_tiktoken, train_bpe_from_texts
from transformerlm.tokenizer.bpe import apply_merges
from transformerlm.tokenizer.formats.tiktoken_reader import _ranks_at_once, _ranks_by_line
from transformerlm.tokenizer.formats.tokenizer_json_writer import tokenizer_json
from transformerlm.tokenizer.listed_merges import RankedTokens, divisions

END = {"<|end|>": 700, "<|start|>": 704}


@pytest.fixture(scope="session", autouse=True)
def kernels():
    """Tokenizers encode as they do by default."""


@pytest.fixture(scope="module")
def encoding():
    """With holes in the ids, and tokens that no text leads to."""
    vocab, _ = train_bpe_from_texts(list(texts(0, 400)), 640, [], pattern=LLAMA3)
    ranks = {token: token_id for token_id, token in vocab.items()}
    ranks |= {b"zqzq": 650, b"qz": 660}
    return tiktoken.Encoding("x", pat_str=LLAMA3, mergeable_ranks=ranks, special_tokens=END)


def test_an_encoding_gives_its_ids(encoding):
    ours = Tokenizer.from_tiktoken(encoding)
    assert ours.vocab_size == 705
    for text in [*texts(1, 200, list(END)), "zqzq qzqz zq"]:
        ids = encoding.encode(text, allowed_special="all")
        assert ours.encode(text) == ids
        assert ours.decode(ids) == text
    with pytest.raises(DataError, match="got 701"):
        ours.decode([701])


@pytest.mark.parametrize("name", openai_public.ENCODING_CONSTRUCTORS)
def test_the_encodings_that_tiktoken_knows_can_be_read(encoding, monkeypatch, name):
    """Their patterns and special tokens; the ranks, which it would download, are others."""
    for loader in ("load_tiktoken_bpe", "data_gym_to_mergeable_bpe_ranks"):
        monkeypatch.setattr(openai_public, loader, lambda *arguments, **settings: encoding._mergeable_ranks)
    known = openai_public.ENCODING_CONSTRUCTORS[name]()
    known.pop("explicit_n_vocab", None)
    theirs = tiktoken.Encoding(**known)
    ours = Tokenizer.from_tiktoken(theirs)
    exported = tokenizers.Tokenizer.from_str(tokenizer_json(ours))
    for text in [*texts(4, 200, ["<|endoftext|>"]), "a  \n ", " \n\n", "1234567 12", "it's IT'S\r\n"]:
        ids = theirs.encode(text, allowed_special="all")
        assert ours.encode(text) == ids, repr(text)
        assert exported.encode(text, add_special_tokens=False).ids == ids, repr(text)


def test_a_file_gives_the_same(encoding, tmp_path):
    path = tmp_path / "x.tiktoken"
    ranks = encoding._mergeable_ranks
    path.write_text("".join(f"{base64.b64encode(t).decode()} {ranks[t]}\n" for t in ranks))
    ours = Tokenizer.from_tiktoken(path, pattern=LLAMA3, special_token_ids=END)
    assert ours.fingerprint == Tokenizer.from_tiktoken(encoding).fingerprint
    ours.save(tmp_path / "saved")
    copy = Tokenizer.from_dir(tmp_path / "saved")
    text = "".join(texts(2, 50, list(END)))
    assert copy.encode(text) == ours.encode(text) == encoding.encode(text, allowed_special="all")
    with pytest.raises(ConfigError, match="does not hold its pattern"):
        Tokenizer.from_tiktoken(path)


def test_every_division_of_a_token_is_a_merge(encoding):
    ranks = encoding._mergeable_ranks
    tokens = sorted(ranks, key=ranks.__getitem__)
    vocab = {ranks[token]: token for token in tokens}
    found = divisions(vocab).pairs(vocab)
    own = ((token[:cut], token[cut:]) for token in tokens for cut in range(1, len(token)))
    assert found == [pair for pair in own if pair[0] in ranks and pair[1] in ranks]


def test_joined_bytes_give_the_ids_that_the_applied_merges_give(encoding):
    ranks = encoding._mergeable_ranks
    merges = RankedTokens(ranks)
    known, applied = merges.rules(), merges.applied.rules()
    for word in [*"".join(texts(5, 60)).split(" "), "zqzqz", "q"]:
        ids = [ranks[bytes([byte])] for byte in word.encode()]
        assert apply_merges(ids, known) == apply_merges(ids, applied), word


ONE, OTHER = b"YQ==", b"YWI="


@pytest.mark.parametrize(
    ("content", "is_usual"),
    [
        (ONE + b" 0\n" + OTHER + b" 1\n", True),
        (ONE + b" 1\n" + OTHER + b" 0", True),
        (b"", False),
        (ONE + b" 0\r\n" + OTHER + b" 1\r\n", False),
        (ONE + b" 0\n\n" + OTHER + b" 1\n", False),
        (ONE + b"\t0\n" + OTHER + b" 1\n", False),
        (ONE + b" 0 " + OTHER + b"\n1\n", False),
        (ONE + b" 0 " + OTHER + b" 1\n", False),
        (ONE + b" 0\n" + OTHER, False),
        (ONE + b" 0\n" + ONE + b" 1\n", False),
        (ONE + b" -1\n", False),
        (ONE + b" x\n", False),
        (b"YQ 0\n", False),
        (b"YQ=\xff 0\n", False),
        (b"==== 0\n", False),
    ],
)
def test_lines_are_read_at_once_or_left_to_the_slow_way(content, is_usual):
    found = _ranks_at_once(content)
    assert found == (_ranks_by_line("x", content) if is_usual else None)


def test_there_and_back(encoding):
    vocab, merges = train_bpe_from_texts(list(texts(0, 100)), 400, [], pattern=LLAMA3)
    own = Tokenizer(vocab, merges, ["<|end|>"], pattern=LLAMA3)
    back = Tokenizer.from_tiktoken(to_tiktoken(own))
    assert back.merges == own.merges
    for text in texts(3, 50, ["<|end|>"]):
        assert back.encode(text) == own.encode(text)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("YQ==", ":257: expected a token in base64"),
        ("!! 300", ":257: expected a token in base64"),
        ("YQ== 300", ":257: token b'a' with the id 300"),
        ("YWI= 7", ": expected an id for each token"),
        (f"YWI= {10**30}", ": expected ids from 0 to"),
    ],
)
def test_faults_of_files_are_one_line(tmp_path, line, what):
    path = tmp_path / "x.tiktoken"
    lines = [f"{base64.b64encode(bytes([byte])).decode()} {byte}" for byte in range(256)]
    path.write_text("\n".join([*lines, line]))
    with pytest.raises(DataError, match=what):
        Tokenizer.from_tiktoken(path, pattern=LLAMA3)
    path.write_text("\n".join(random.Random(0).sample(lines, 200)))
    with pytest.raises(DataError, match="expected a token for every byte"):
        Tokenizer.from_tiktoken(path, pattern=LLAMA3)
