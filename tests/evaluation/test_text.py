import gzip
import itertools
import json
import random

import pytest

from tests.mixtures import data_config, write_corpora
from transformerlm.config import CorpusConfig
from transformerlm.data.build import make_data
from transformerlm.data.chunks import CHUNK_BYTES
from transformerlm.data.documents import TRAIN
from transformerlm.data.kinds import REASONS
from transformerlm.data.mixture import corpora_of
from transformerlm.errors import ConfigError, DataError
from transformerlm.evaluation.text import Text
from transformerlm.progress import SilentReporter
from transformerlm.tokenizer import Pretokenizer, Tokenizer, train_bpe_from_texts

SAFE_CUT = Pretokenizer(special_tokens=["<|endoftext|>"]).safe_cut

COMPRESSED = REASONS["compressed"].what


def read(text):
    """Number, path and content of every document."""
    parts = itertools.groupby(text.parts(SAFE_CUT), key=lambda part: part[:2])
    return [(*key, b"".join(part.utf8 for part in own).decode()) for key, own in parts]


def test_a_text_is_all_of_its_documents_in_order(tmp_path):
    (tmp_path / "a.txt").write_text("one<|endoftext|> \n <|endoftext|>two")
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "three"}) + "\n\n" + json.dumps({"text": "four"}))
    (tmp_path / "c.txt").write_text("  ")
    config = CorpusConfig(corpus="nowhere", validation_corpus="nowhere either")
    found = read(Text.find(config, str(tmp_path)))
    assert [(number, text) for number, _, text in found] == [*enumerate(["one", "two", "three", "four"])]
    assert [path.rpartition("/")[2] for _, path, _ in found] == ["a.txt", "a.txt", "b.jsonl", "b.jsonl"]
    assert str(Text.find(config, f"{tmp_path}/*.jsonl")) == f"{tmp_path}/*.jsonl"
    assert len(read(Text.find(config, f"{tmp_path}/*.jsonl"))) == 2


class Bar:
    """A progress bar that counts."""

    done = 0

    def update(self, amount):
        self.done += amount


@pytest.mark.parametrize("split", ["document", "tail"])
def test_compressed_text_is_the_same_text(tmp_path, split):
    content = "<|endoftext|>".join(random.Random(number).randbytes(2500).hex() for number in range(200))
    (tmp_path / "a.txt").write_text(content)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(content.encode()))
    found = []
    for name in ("a.txt", "a.txt.gz"):
        config = CorpusConfig(corpus=str(tmp_path / name), validation_split=split, validation_fraction=0.3)
        text = Text.find(config, None)
        found.append([(number, document) for number, _, document in read(text)])
        bar = Bar()
        list(text.parts(SAFE_CUT, bar))
        assert 0 < bar.done <= text.num_bytes <= (tmp_path / name).stat().st_size
    assert found[0] == found[1]
    assert found[0]


def test_what_is_not_read_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt.lz4").write_bytes(b"x")
    (tmp_path / "val").mkdir()
    (tmp_path / "val/c.txt").write_text("two", encoding="utf-16")
    (tmp_path / "val/d.txt").write_text("three")
    (note,) = Text.find(CorpusConfig(), f"{tmp_path}/*.*").notes()
    assert note.startswith(f"{tmp_path}/*.*: not read: {COMPRESSED}: 1 ({tmp_path}/b.txt.lz4); ")
    config = CorpusConfig(corpus=str(tmp_path), validation_corpus=f"{tmp_path}/val")
    notes = list(Text.find(config, None).notes())
    assert [note.split("; ")[0] for note in notes] == [
        f"{tmp_path}: not read: {COMPRESSED}: 1 (b.txt.lz4)",
        f"{tmp_path}: not read: text in UTF-16 or UTF-32: 1 (val/c.txt)",
        f"{tmp_path}/val: not read: text in UTF-16 or UTF-32: 1 (c.txt)",
    ]


@pytest.mark.parametrize("is_special", [False, True])
def test_special_tokens_in_lines_of_json_are_text_unless_asked_for(tmp_path, is_special):
    (tmp_path / "a.txt").write_text("<|user|>")
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "<|user|>"}))
    text = Text.find(CorpusConfig(jsonl_special_tokens=is_special), str(tmp_path))
    found = [part.allowed_special for part in text.parts(SAFE_CUT)]
    assert found == ["all", "all" if is_special else "none"]


def test_a_document_longer_than_memory_comes_in_parts(tmp_path):
    long = "a word and another one, " * (3 * CHUNK_BYTES // 24)
    (tmp_path / "a.txt").write_text(f"before<|endoftext|>{long}<|endoftext|>behind")
    text = Text.find(CorpusConfig(), f"{tmp_path}/a.txt")
    assert [content for _, _, content in read(text)] == ["before", long, "behind"]
    numbers = [part.document for part in text.parts(SAFE_CUT)]
    assert numbers == sorted(numbers)
    assert numbers.count(1) > 2
    assert max(len(part.utf8) for part in text.parts(SAFE_CUT)) <= CHUNK_BYTES


@pytest.mark.parametrize("split", ["document", "tail"])
def test_without_a_path_it_is_what_validates(tmp_path, split):
    for number in range(60):
        (tmp_path / f"{number}.txt").write_text(f"The text of number {number}. " * 5)
    config = CorpusConfig(corpus=str(tmp_path), validation_fraction=0.2, validation_split=split)
    vocab, merges = train_bpe_from_texts(["The text of number"], 270, ["<|endoftext|>"])
    tokenizer = Tokenizer(vocab, merges, ["<|endoftext|>"])
    data = make_data(config, tokenizer, tmp_path / "made")
    found = read(Text.find(config, None))
    assert data.val.num_documents == len(found) > 5
    assert tokenizer.decode(data.val.tokens) == "".join(f"{text}<|endoftext|>" for _, _, text in found)


def test_a_validation_corpus_is_read_whole(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train/a.txt").write_text("not this")
    (tmp_path / "val.txt").write_text("this")
    config = CorpusConfig(corpus=f"{tmp_path}/train", validation_corpus=f"{tmp_path}/val.txt")
    text = Text.find(config, None)
    assert [content for _, _, content in read(text)] == ["this"]
    assert str(text) == f"{tmp_path}/val.txt"


def test_nothing_to_read_is_said(tmp_path):
    with pytest.raises(DataError, match=r"^\[eval\].text: expected a file, a folder, .*, got nowhere"):
        Text.find(CorpusConfig(), "nowhere")
    with pytest.raises(
        ConfigError, match=r"^\[eval\].text: expected a text, for \[data\].validation_fraction"
    ):
        Text.find(CorpusConfig(validation_fraction=0), None)
    assert Text.find(CorpusConfig(validation_fraction=0), __file__).split == TRAIN


@pytest.mark.parametrize("split", ["document", "tail"])
def test_the_bar_comes_to_what_has_to_be_read(tmp_path, split):
    for number in range(30):
        (tmp_path / f"{number}.txt").write_text("é" * 50 + str(number))
    size = sum(path.stat().st_size for path in tmp_path.iterdir())

    def moved(text):
        bar = SilentReporter().bar(None, "B", "").__enter__()
        bar.update = (amounts := []).append
        list(text.parts(SAFE_CUT, bar))
        assert sum(amounts) == text.num_bytes
        return sum(amounts)

    config = CorpusConfig(corpus=str(tmp_path), validation_fraction=0.3, validation_split=split)
    assert moved(Text.find(config, str(tmp_path))) == size
    found = moved(Text.find(config, None))
    assert found == size if split == "document" else 0.2 * size < found < 0.4 * size


def test_the_held_out_text_of_a_mixture_is_that_of_each_corpus(tmp_path):
    write_corpora(tmp_path)
    config = data_config(tmp_path)
    text = Text.find(config, None)
    alone = [read(Text.find(own, None)) for own in corpora_of(config).values()]
    found = read(text)
    assert [document[1:] for document in found] == [document[1:] for part in alone for document in part]
    assert [document[0] for document in found] == [*range(len(found))]
    assert all(alone)
    assert text.num_bytes >= sum(len(document[2].encode()) for document in found)
    assert str(text).endswith("tale.txt")
    # A text that is named is read by itself.
    assert len(read(Text.find(config, str(tmp_path / "tale.txt")))) == 1
