"""An inspection of texts in which everything was planted and is known."""

import dataclasses
import json
import random
import re
import shutil

import numpy as np
import pytest

from tests.data.copies_oracle import random_text, write_jsonl
from tests.data.packed_files import packed
from tests.tiny_run import write_fables
from transformerlm.cli.inspect_report import corpus_lines
from transformerlm.config import DataConfig, InspectConfig, InspectSection, TokenizerConfig
from transformerlm.data.build import make_data
from transformerlm.data.corpus import find_corpora
from transformerlm.data.inspection.locate import locator_of
from transformerlm.data.inspection.run import inspect
from transformerlm.data.inspection.token_view import TokenView
from transformerlm.data.prepare import prepare_data, prepare_tokenizer
from transformerlm.errors import DataError
from transformerlm.progress import SilentReporter
from transformerlm.tokenizer import Tokenizer


def config_of(corpus, folder, section=None, **data):
    return InspectConfig(
        inspect=InspectSection(**(section or {})),
        data=DataConfig(corpus=str(corpus), token_dir=str(folder / "tokens"), **data),
        tokenizer=TokenizerConfig(vocab_size=400, tokenizer_dir=str(folder / "tok")),
    )


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A folder with documents of every kind, and text held out from which a part leaks."""
    rng = random.Random(0)
    folder = tmp_path_factory.mktemp("planted")
    (folder / "texts").mkdir()
    texts = [random_text(rng, 150) for _ in range(24)]
    for number, text in enumerate(texts[:20]):
        (folder / "texts" / f"{number:02}.txt").write_text(f"line one\nline two\n{text}\n")
    (folder / "texts" / "copy.txt").write_bytes((folder / "texts" / "03.txt").read_bytes())
    (folder / "texts" / "near.md").write_text(f"line one\nline two\n{texts[7]} one word more\n")
    (folder / "texts" / "tiny.txt").write_text("a b\n")
    (folder / "texts" / "empty.txt").write_text(" \n")
    (folder / "texts" / "broken.txt").write_bytes(b"some \xe9 and \xff\xfe bytes that are not UTF-8\n")
    (folder / "texts" / "russian.txt").write_text("Привет, мир! 你好 " * 3)
    write_jsonl(folder / "texts" / "lines.jsonl", [texts[20], "x" * 2000, texts[21]])
    first = f"a new beginning of a text\n{texts[5]}\nand an end: {texts[23]}"
    (folder / "val.txt").write_text(
        "<|endoftext|>".join([first, texts[22], "a text of its own, long enough"])
    )
    return folder, texts


@pytest.fixture(scope="module")
def found(planted, tmp_path_factory):
    folder, _ = planted
    config = config_of(
        folder / "texts", tmp_path_factory.mktemp("out"), validation_corpus=str(folder / "val.txt")
    )
    result = inspect(config)
    assert not (folder / "texts" / "tokens").exists()
    return result


def test_files_and_documents_are_counted(found):
    corpus = found.corpus
    by_suffix = {kind.suffix: (kind.number, kind.kind) for kind in corpus.files}
    assert by_suffix == {".txt": (26, "text"), ".md": (1, "text"), ".jsonl": (1, "jsonl")}
    assert [(split.split, split.documents) for split in corpus.splits] == [("train", 28), ("val", 3)]
    assert corpus.documents == sum(number for _, number in corpus.length_histogram) == 31
    assert [path.rpartition("/")[2] for path in corpus.files_without_documents] == ["empty.txt"]
    assert corpus.lengths["least"] == 4
    assert corpus.lengths["largest"] >= 2000
    assert corpus.num_bytes == sum(split.num_bytes for split in corpus.splits)


def test_scripts_and_other_characters_are_counted(found):
    assert found.corpus.scripts["Cyrillic"] == 27
    assert found.corpus.scripts["Han"] == 6
    assert found.corpus.scripts["Latin"] > 10_000
    total = sum(found.corpus.scripts.values()) + sum(found.corpus.other_characters.values())
    assert total == found.corpus.characters


def test_bytes_that_are_not_utf8_have_their_places(found):
    assert found.corpus.invalid_bytes == 3
    places = [(one.place.file.rpartition("/")[2], one.place.byte, one.text) for one in found.corpus.invalid]
    assert places == [("broken.txt", 5, "0xe9"), ("broken.txt", 11, "0xff"), ("broken.txt", 12, "0xfe")]


def test_the_longest_lines_and_near_empty_documents_are_named(found):
    longest = found.corpus.longest_lines[0]
    assert longest.size == 2000
    assert str(longest.place).endswith("lines.jsonl, document 2, line 1")
    others = [one.place for one in found.corpus.longest_lines if re.search(r"/\d\d\.txt$", one.place.file)]
    assert others
    assert {place.line for place in others} == {3}
    assert found.corpus.near_empty_documents == 1
    assert str(found.corpus.near_empty[0].place).endswith("tiny.txt:1")


def test_copies_are_counted_and_named_with_their_partners(found):
    copies = found.copies
    assert (copies.exact_clusters, copies.exact_copies) == (1, 1)
    (cluster,) = copies.exact
    assert [place.file.rpartition("/")[2] for place in cluster.documents] == ["03.txt", "copy.txt"]
    (near,) = copies.near
    (pair,) = near.pairs
    assert [p.file.rpartition("/")[2] for p in (pair.partner, pair.document)] == ["07.txt", "near.md"]
    assert 0.9 < pair.similarity < 1


def test_the_leak_is_found_with_both_places(found, planted):
    _, texts = planted
    leaks = found.leaks
    assert (leaks.runs, leaks.documents, leaks.validation_documents) == (1, 1, 3)
    (leak,) = leaks.longest
    assert str(leak.validation).endswith("val.txt, document 1, line 2")
    assert str(leak.training).endswith("05.txt:3")
    assert leak.matched_tokens == leak.num_tokens
    assert texts[5][10:300] in leak.text
    assert leaks.leaked_bytes == leak.num_bytes == pytest.approx(len(texts[5]), abs=12)
    assert leaks.share == leaks.leaked_bytes / leaks.validation_bytes


def test_tokens_are_counted(found):
    tokens = found.tokens
    numbers = tokens.files
    assert {name: sizes["documents"] for name, sizes in numbers.items()} == {
        "train.memmap": 28,
        "val.memmap": 3,
    }
    assert numbers["val.memmap"]["bytes"] == found.leaks.validation_bytes
    assert tokens.vocab_size == 400
    assert 1 < tokens.bytes_per_token < 10
    assert {text for _, text in tokens.unused} >= {"\x00", "\x01"}
    first = tokens.documents[0]
    assert "".join(text for _, text in first.tokens).startswith("line one\nline two\n")
    assert "learned for this" in tokens.source


def test_it_can_be_written_as_json(found):
    values = json.loads(json.dumps(dataclasses.asdict(found)))
    assert values["leaks"]["longest"][0]["training"]["line"] == 3


def test_packed_files_are_inspected_like_plain_ones(planted, found, tmp_path):
    folder, _ = planted
    shutil.copytree(folder, tmp_path / "planted")
    for path in sorted((tmp_path / "planted").rglob("*.*")):
        codec = {".txt": "gz", ".md": "xz", ".jsonl": "zst"}[path.suffix]
        path.with_name(f"{path.name}.{codec}").write_bytes(packed(path.read_bytes(), codec))
        path.unlink()
    texts, held_out = tmp_path / "planted" / "texts", tmp_path / "planted" / "val.txt.gz"
    result = inspect(config_of(texts, tmp_path / "out", validation_corpus=str(held_out)))
    kinds = {kind.kind: kind.number for kind in result.corpus.files}
    assert kinds == {"text.gz": 26, "text.xz": 1, "jsonl.zst": 1}
    values = [dataclasses.asdict(one) for one in (result, found)]
    for value in values:
        value["corpus"]["files"] = value["source"] = None
    written = json.dumps(values[0]).replace(str(tmp_path / "planted"), str(folder))
    assert json.loads(re.sub(r"\.(txt|md|jsonl)\.\w+", r".\1", written)) == json.loads(json.dumps(values[1]))


def test_token_files_that_are_there_are_used_and_inspected_alike(planted, found, tmp_path):
    folder, _ = planted
    config = config_of(
        folder / "texts",
        tmp_path,
        validation_corpus=str(folder / "val.txt"),
        encoding_errors="keep",
    )
    tokenizer = prepare_tokenizer(config.data, config.tokenizer)
    prepare_data(config.data, config.tokenizer, tokenizer)
    again = inspect(config)
    assert f"token files in {tmp_path / 'tokens'}" in again.tokens.source
    assert again.leaks == found.leaks
    files = inspect(config_of(tmp_path / "tokens", tmp_path))
    assert (files.corpus, files.copies) == (None, None)
    assert (files.leaks.leaked_bytes, files.leaks.runs) == (found.leaks.leaked_bytes, 1)
    assert files.leaks == found.leaks  # the files' own places, told from the corpus
    assert files.tokens.files == found.tokens.files
    one = inspect(config_of(tmp_path / "tokens" / "val.memmap", tmp_path))
    assert (one.leaks, list(one.tokens.files)) == (None, ["val.memmap"])


def test_token_files_of_an_unknown_tokenizer_are_refused(planted, tmp_path):
    write_fables(tmp_path / "fables")
    other = Tokenizer({number: bytes([number]) for number in range(256)}, [], ["<|endoftext|>"])
    make_data(DataConfig(corpus=str(tmp_path / "fables")), other, tmp_path / "tokens")
    with pytest.raises(DataError, match="tokenizer_dir"):
        inspect(config_of(tmp_path / "tokens", tmp_path))


@pytest.mark.parametrize(("text", "number"), [("one short text", 1), ("  \n", 0), ("<|endoftext|>" * 3, 0)])
def test_a_text_without_validation_or_without_documents_is_no_error(text, number, tmp_path):
    (tmp_path / "a.txt").write_text(text)
    result = inspect(config_of(tmp_path / "a.txt", tmp_path, validation_fraction=0))
    assert result.corpus.documents == number
    assert result.leaks is None
    assert (result.tokens is None) == (result.corpus.documents == 0)


def test_a_text_without_separators_says_that_runs_may_cross_documents(tmp_path):
    (tmp_path / "texts").mkdir()
    for number in range(40):
        text = random_text(random.Random(0), 100)
        (tmp_path / "texts" / f"{number}.txt").write_text(f"{number} {text}")
    config = config_of(tmp_path / "texts", tmp_path, document_separator="")
    result = inspect(config)
    assert not result.leaks.are_within_documents
    assert result.leaks.share > 0.5
    assert result.leaks.longest[0].training.file == "train.memmap"


def test_places_follow_documents_that_are_left_out(planted, tmp_path):
    """With copies left out the documents of a token file are fewer than those of the corpus."""
    folder, _ = planted
    config = config_of(
        folder / "texts",
        tmp_path,
        validation_corpus=str(folder / "val.txt"),
        duplicates="drop",
        near_duplicates="drop",
    )
    result = inspect(config)
    assert result.tokens.files["train.memmap"]["documents"] == 26
    assert str(result.leaks.longest[0].training).endswith("05.txt:3")
    assert len(find_corpora(config.data).main.sources) == 27
    assert np.isclose(result.leaks.share, result.leaks.leaked_bytes / result.leaks.validation_bytes)


def test_a_text_too_short_to_be_divided_is_looked_at_all_the_same(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    result = inspect(config_of(tmp_path / "a.txt", tmp_path))
    assert (result.corpus.documents, result.tokens, result.leaks) == (1, None, None)
    assert "leaves no text to" in result.notes[0]


def test_where_invalid_bytes_would_stop_training_a_note_says_so(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"some text \xff and more " * 40)
    assert any("encoding_errors" in note for note in inspect(config_of(tmp_path / "a.txt", tmp_path)).notes)
    read = config_of(tmp_path / "a.txt", tmp_path, encoding_errors="replace")
    assert not [note for note in inspect(read).notes if "encoding_errors" in note]


def test_places_in_token_files_of_a_corpus_that_has_changed_are_those_in_the_files(planted, found, tmp_path):
    folder, _ = planted
    shutil.copytree(folder, tmp_path / "planted")
    texts = tmp_path / "planted" / "texts"
    settings = {"validation_corpus": str(tmp_path / "planted" / "val.txt"), "encoding_errors": "keep"}
    for case, change in enumerate(
        (lambda: (texts / "00.txt").write_text("changed"), lambda: shutil.rmtree(texts))
    ):
        config = config_of(texts, tmp_path / str(case), **settings)
        prepare_data(config.data, config.tokenizer, prepare_tokenizer(config.data, config.tokenizer))
        change()
        result = inspect(config_of(tmp_path / str(case) / "tokens", tmp_path / str(case)))
        assert result.leaks.leaked_bytes == found.leaks.leaked_bytes
        (leak,) = result.leaks.longest
        assert re.fullmatch(r"train\.memmap, document 6, byte \d+", str(leak.training))
        assert re.fullmatch(r"val\.memmap, document 1, byte \d+", str(leak.validation))


@pytest.mark.parametrize("setting", ["together", "drop"])
def test_places_in_token_files_follow_copies_that_were_moved_or_left_out(setting, planted, tmp_path):
    folder, _ = planted
    settings = {"validation_fraction": 0.3, "encoding_errors": "keep", "near_duplicates": setting}
    config = config_of(folder / "texts", tmp_path, **settings)
    data = prepare_data(config.data, config.tokenizer, prepare_tokenizer(config.data, config.tokenizer))
    locator = locator_of(data.train, SilentReporter())
    for file in (data.train, data.val):
        view = TokenView(file, Tokenizer.from_dir(tmp_path / "tok"))
        start = 0
        for number, end in enumerate(view.ends.tolist()):
            place = locator.place(view, number, 0)
            content = content_of(folder / "texts" / place.file, place.document)
            assert view.tokenizer.decode_bytes(file.tokens[start:end]) == content
            start = end + 1


def content_of(path, number):
    content = path.read_bytes()
    if path.suffix == ".jsonl":
        content = json.loads(content.splitlines()[number - 1])["text"].encode()
    return content


@pytest.mark.parametrize("separator", ["<|endoftext|>", ""])
def test_a_document_that_the_tail_divides_is_one(tmp_path, separator):
    (tmp_path / "texts").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "texts" / name).write_text(f"{random_text(random.Random(name), 900)}\n")
    data = {"validation_split": "tail", "validation_fraction": 0.2, "document_separator": separator}
    facts = inspect(config_of(tmp_path / "texts", tmp_path, **data)).corpus
    assert (facts.documents, [split.documents for split in facts.splits]) == (2, [2, 1])
    assert any("one is divided" in line for line in corpus_lines(facts, 3))
    if separator:
        (tmp_path / "c.txt").write_text("xy " * 2666 + separator + "yx " * 664)  # 0.8 lies in the separator
        whole = inspect(config_of(tmp_path / "c.txt", tmp_path, **data)).corpus
        assert [split.documents for split in whole.splits] == [1, 1]
        assert whole.documents == 2
