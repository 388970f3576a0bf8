import dataclasses
import json
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.reading.test_epub import PAGE, write_book
from tests.outside_data import outside_data
from transformerlm.config import CorpusConfig
from transformerlm.data import build
from transformerlm.data.build import make_data
from transformerlm.data.documents import TRAIN, VAL, split_by_content
from transformerlm.data.encode import stands_alone
from transformerlm.data.listing import RECORD_FILE
from transformerlm.errors import DataError
from transformerlm.tokenizer import Pretokenizer, Tokenizer
from transformerlm.tokenizer.reference import encode_slowly

EOT = "<|endoftext|>"
FRAGMENTS = [
    "the ",
    "cat",
    "'s",
    "aa",
    "a",
    "12",
    " ",
    "\n",
    "\n\n",
    "é",
    "漢",
    "。",
    "😀",
    "<|end",
    "text|>",
    EOT,
    EOT,
]


def oracle(config, contents, tokenizer):
    """The obvious way: read all, divide, encode document by document. `contents` in the order of names."""
    separator = config.document_separator
    end = [tokenizer.special_token_ids[separator]] if separator else []
    total = sum(map(len, contents))
    # (1 - fraction) of all bytes, for fractions of whole per cents
    cut = total * (100 - round(100 * config.validation_fraction)) // 100
    ids, documents, num_bytes = ({TRAIN: [], VAL: []} for _ in range(3))
    offset = 0
    for content in contents:
        start = offset
        for part in content.split(separator.encode()) if separator else [content]:
            for split, text in divide(config, part, start, cut):
                if text.strip(" \t\n\r\f\v"):
                    ids[split] += [*tokenizer.encode(text), *end]
                    documents[split].append(text)
                    num_bytes[split].append(len(text.encode()))
            start += len(part) + len(separator.encode())
        offset += len(content)
    return ids, documents, {split: sum(sizes) for split, sizes in num_bytes.items()}


def divide(config, part, start, cut):
    text = part.decode()
    if config.validation_fraction == 0:
        return [(TRAIN, text)]
    if config.validation_split == "document":
        return [(split_by_content(text, config.validation_fraction), text)]
    if start >= cut:
        return [(VAL, text)]
    place = cut - start
    while place < len(part) and part[place] & 0xC0 == 0x80:
        place += 1
    return [(TRAIN, part[:place].decode()), (VAL, part[place:].decode())]


def check(config, contents, tokenizer, folder, **options):
    """Build, compare with the oracle; a split in which nothing is left has to be an error."""
    ids, documents, num_bytes = oracle(config, contents, tokenizer)
    splits = [TRAIN, VAL] if config.validation_fraction else [TRAIN]
    if not all(documents[split] for split in splits):
        with pytest.raises(DataError, match=r"\[data\]"):
            make_data(config, tokenizer, folder, **options)
        return
    data = make_data(config, tokenizer, folder, **options)
    assert (data.val is None) == (splits == [TRAIN])
    for split, file in zip(splits, (data.train, data.val), strict=False):
        assert file.tokens.tolist() == ids[split]
        assert (file.num_documents, file.num_bytes) == (len(documents[split]), num_bytes[split])
        assert file.fingerprint == tokenizer.fingerprint
        file.verify()


def write_all(folder, contents):
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for index, content in enumerate(contents):
        (folder / f"{index:03}.txt").write_bytes(content)


@settings(max_examples=100, deadline=None)
@given(
    files=st.lists(st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join), min_size=1, max_size=4),
    separator=st.sampled_from([EOT, "", "\n\n", "aa", "。"]),
    split=st.sampled_from(["document", "tail"]),
    fraction=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9]),
    chunk_bytes=st.integers(1, 60),
)
def test_any_division_into_work_gives_what_the_whole_gives(
    tmp_path_factory, tokenizer, files, separator, split, fraction, chunk_bytes
):
    folder = tmp_path_factory.mktemp("build")
    contents = [text.encode() for text in files]
    write_all(folder / "corpus", contents)
    config = CorpusConfig(
        corpus=str(folder / "corpus"),
        document_separator=separator,
        validation_split=split,
        validation_fraction=fraction,
    )
    check(config, contents, tokenizer, folder / "tokens", chunk_bytes=chunk_bytes)


@settings(max_examples=40, deadline=None)
@given(
    files=st.lists(
        st.lists(st.sampled_from(["a", "t", "at<|", EOT, " "]), max_size=8).map("".join), min_size=1
    )
)
@pytest.mark.parametrize("separator", [EOT, "aa"])
def test_special_tokens_that_reach_into_the_separator_do_no_harm(
    tmp_path_factory, overlapping_tokenizer, files, separator
):
    folder = tmp_path_factory.mktemp("build")
    contents = [text.encode() for text in files]
    write_all(folder / "corpus", contents)
    config = CorpusConfig(
        corpus=str(folder / "corpus"), document_separator=separator, validation_fraction=0.0
    )
    check(config, contents, overlapping_tokenizer, folder / "tokens")


@pytest.mark.parametrize(
    ("separator", "others", "expected"),
    [
        (EOT, [], True),
        (EOT, ["<|end", "<|user|>", "text|>", "|>x"], True),
        (EOT, ["x<|endoftext|>"], False),
        (EOT, ["<|endoftext|>x"], False),
        (EOT, ["x<|"], False),
        ("||", [], False),
        ("\n\n", [], False),
        ("ab", ["b"], True),
        ("ab", ["ca"], False),
    ],
)
def test_whether_a_separator_stands_alone(separator, others, expected):
    assert stands_alone(separator, [separator, *others]) == expected


def test_jsonl_and_text_lie_side_by_side(tmp_path, tokenizer):
    texts = ["one <|endoftext|> x", "two\n", "drei é"]
    lines = [json.dumps({"body": text}) for text in texts]
    write_all(tmp_path / "corpus", [b"the cat<|endoftext|>the mat"])
    (tmp_path / "corpus" / "lines.jsonl").write_text("\n".join(lines) + "\n")
    config = CorpusConfig(corpus=str(tmp_path / "corpus"), jsonl_field="body", validation_fraction=0)
    expected = [*tokenizer.encode("the cat<|endoftext|>the mat<|endoftext|>")]
    for text in texts:
        expected += tokenizer.encode(text, allowed_special="none") + tokenizer.encode("<|endoftext|>")
    for chunk_bytes in (1, 10, 1000):
        data = make_data(config, tokenizer, tmp_path / "tokens", chunk_bytes=chunk_bytes)
        assert data.train.tokens.tolist() == expected
        assert data.train.num_documents == 5
        assert data.train.num_bytes == 14 + sum(len(text.encode()) for text in texts)


@pytest.mark.parametrize("kernels", ["never", "always"])
@pytest.mark.parametrize(
    ("source", "separator"), [("tokenizer", EOT), ("tokenizer", ""), ("overlapping_tokenizer", "aa")]
)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.lists(st.sampled_from([*FRAGMENTS, "t", "at<|"]), max_size=9).map("".join), min_size=1),
    chunk_bytes=st.integers(1, 200),
)
def test_text_in_lines_of_json_is_text_by_the_definition_of_the_encoding(
    tmp_path_factory, request, monkeypatch, texts, separator, chunk_bytes, kernels, source
):
    """No special token in any document, one after each: whatever the texts hold, and on both encoders."""
    monkeypatch.setenv("TRANSFORMERLM_KERNELS", kernels)
    shared = request.getfixturevalue(source)
    if not hasattr(request.node, "own"):
        request.node.own = Tokenizer(shared.vocab, shared.merges, list(shared.special_token_ids))
    own = request.node.own
    folder = tmp_path_factory.mktemp("lines")
    documents = [text for text in texts if text.strip()] + ["<|endoftext|>x"]
    lines = [json.dumps({"text": text}) for text in [*texts, documents[-1]]]
    (folder / "a.jsonl").write_text("\n".join(lines))
    config = CorpusConfig(corpus=str(folder / "a.jsonl"), document_separator=separator, validation_fraction=0)
    data = make_data(config, own, folder / "tokens", chunk_bytes=chunk_bytes)
    ids = {token: number for number, token in own.vocab.items()}
    expected = []
    for text in documents:
        words = Pretokenizer(own.pretokenizer.pattern).pretokens(text)
        expected += [ids[token] for word in words for token in encode_slowly(word, own.merges)]
        expected += [own.special_token_ids[separator]] if separator else []
    assert data.train.tokens.tolist() == expected
    assert data.train.num_documents == len(documents)


def test_lines_are_not_divided_by_the_tail_split(tmp_path, tokenizer):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"line {i}"}) + "\n" for i in range(10)))
    for fraction, number in ((0.5, 5), (0.45, 4), (0.05, 1), (0.1, 1), (0.101, 1)):
        config = CorpusConfig(corpus=str(path), validation_fraction=fraction, validation_split="tail")
        data = make_data(config, tokenizer, tmp_path / "tokens")
        assert (data.train.num_documents, data.val.num_documents) == (10 - number, number)


def corpus_of_stories(folder, number, seed=0):
    words = ["the", " cat", " sat", " on", " the", " mat", " 漢字", ".", "\n", "'s", " 123"]
    stories = ["".join(random.Random(seed * 10**6 + i).choices(words, k=40)) for i in range(number)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stories.txt").write_text("\n<|endoftext|>\n".join(stories))
    (folder / "lines.jsonl").write_text("\n".join(json.dumps({"text": story}) for story in stories))
    (folder / "long.txt").write_text(" ".join(stories))
    return folder


HIDDEN = (".lock", RECORD_FILE)


def content_of(folder):
    """Everything in it but the lock and the record of the corpus' files."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in HIDDEN]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def digests(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix == ".memmap"}


def test_workers_change_nothing(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(build, "WORKER_BYTES", 1)
    corpus = corpus_of_stories(tmp_path / "corpus", 400)
    results = []
    for num_workers, chunk_bytes in [(1, 2**20), (2, 5000), (4, 777), (3, 2**20)]:
        config = CorpusConfig(corpus=str(corpus), validation_fraction=0.2, num_workers=num_workers)
        folder = tmp_path / f"{num_workers}-{chunk_bytes}"
        make_data(config, tokenizer, folder, chunk_bytes=chunk_bytes)
        results.append(digests(folder))
    assert len(results[0]) == 2
    assert all(result == results[0] for result in results)


def test_the_splits_are_disjoint_and_complete_and_copies_stay_together(tmp_path, tokenizer):
    stories = [f"story {i % 60} of the cat" for i in range(120)]
    random.Random(0).shuffle(stories)
    (tmp_path / "a.txt").write_text(EOT.join(stories))
    config = CorpusConfig(corpus=str(tmp_path / "a.txt"), validation_fraction=0.3)
    data = make_data(config, tokenizer, tmp_path / "tokens")
    train, val = (tokenizer.decode(file.tokens).split(EOT)[:-1] for file in (data.train, data.val))
    assert sorted(train + val) == sorted(stories)
    assert not set(train) & set(val)
    assert len(train) == data.train.num_documents


def test_documents_keep_their_side_whatever_becomes_of_the_others(tmp_path, tokenizer):
    stories = [f"story {i} of the cat" for i in range(100)]
    sides = []
    for order in (stories, stories[::-1], stories[::2], [*stories, *["new", "ones"]]):
        (tmp_path / "a.txt").write_text(EOT.join(order))
        config = CorpusConfig(corpus=str(tmp_path / "a.txt"), validation_fraction=0.3)
        data = make_data(config, tokenizer, tmp_path / "tokens")
        sides.append(set(tokenizer.decode(data.val.tokens).split(EOT)))
    assert sides[0] == sides[1] == sides[3] - {"new", "ones"}
    assert sides[2] == (sides[0] & set(stories[::2])) | {""}


def test_tail_of_tiny_shakespeare_is_the_usual_split(tmp_path):
    path = outside_data("tinyshakespeare.txt") / "tinyshakespeare.txt"
    characters = Tokenizer({i: bytes([i]) for i in range(256)}, [])
    config = CorpusConfig(corpus=str(path), document_separator="", validation_fraction=0.1)
    data = make_data(config, characters, tmp_path)
    text = path.read_bytes()
    assert data.train.tokens.astype(np.uint8).tobytes() == text[: int(0.9 * len(text))]
    assert data.val.tokens.astype(np.uint8).tobytes() == text[int(0.9 * len(text)) :]


@pytest.mark.parametrize(
    ("number", "fraction", "expected"), [(19, 0.3, "tail"), (20, 0.3, "document"), (25, 0.03, "tail")]
)
def test_auto_splits_by_document_where_there_are_enough(tmp_path, tokenizer, number, fraction, expected):
    (tmp_path / "a.txt").write_text(
        EOT.join([f"fable {i} and so on, and so on\n" for i in range(number)] + ["\n"])
    )
    automatic = CorpusConfig(corpus=str(tmp_path / "a.txt"), validation_fraction=fraction)
    explicit = dataclasses.replace(automatic, validation_split=expected)
    if number == 25:  # by document there would be nothing to validate on
        by_document = dataclasses.replace(automatic, validation_split="document")
        with pytest.raises(DataError, match="leaves no text to validate on: take a larger one"):
            make_data(by_document, tokenizer, tmp_path / "explicit")
    make_data(automatic, tokenizer, tmp_path / "automatic")
    make_data(explicit, tokenizer, tmp_path / "explicit")
    assert digests(tmp_path / "automatic") == digests(tmp_path / "explicit")


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("suffix", ["html", "epub"])
def test_pages_and_books_are_divided_where_there_are_few(tmp_path, tokenizer, suffix, number):
    paragraph = "<p>the cat and the mät “sat” on it</p>"
    for index in range(number):
        path = tmp_path / "corpus" / f"{index}.{suffix}"
        path.parent.mkdir(exist_ok=True)
        page = PAGE.format(paragraph * 50)
        if suffix == "html":
            path.write_text(page, "utf-8")
        else:
            write_book(path, **{"one.xhtml": page, "text/ch two.xhtml": PAGE.format(paragraph)})
    whole, data = (
        make_data(
            CorpusConfig(corpus=str(tmp_path / "corpus"), validation_fraction=fraction),
            tokenizer,
            tmp_path / f"tokens-{fraction}",
        )
        for fraction in (0, 0.1)
    )
    parts = [tokenizer.decode(split.tokens) for split in (data.train, data.val)]
    assert "".join(parts).replace(EOT, "") == tokenizer.decode(whole.train.tokens).replace(EOT, "")
    assert 0.09 < len(parts[1]) / sum(map(len, parts)) < 0.11


@pytest.mark.parametrize("number", [60, 61, 62])
def test_no_character_of_a_page_is_divided(tmp_path, number):
    (tmp_path / "a.html").write_text(PAGE.format("€" * number), "utf-8")
    characters = Tokenizer({i: bytes([i]) for i in range(256)}, [])
    config = CorpusConfig(corpus=str(tmp_path / "a.html"), document_separator="", validation_fraction=0.1)
    data = make_data(config, characters, tmp_path)
    parts = [split.tokens.astype(np.uint8).tobytes().decode() for split in (data.train, data.val)]
    assert parts[0] == "€" * len(parts[0])
    assert "".join(parts).strip() == "€" * number


def test_a_corpus_of_its_own_for_validation(tmp_path, tokenizer):
    write_all(tmp_path / "corpus", [b"the cat", b"the mat", b"the end"])
    config = CorpusConfig(
        corpus=str(tmp_path / "corpus"), validation_corpus=str(tmp_path / "corpus" / "001.txt")
    )
    data = make_data(config, tokenizer, tmp_path / "tokens")
    assert tokenizer.decode(data.train.tokens) == f"the cat{EOT}the end{EOT}"
    assert tokenizer.decode(data.val.tokens) == f"the mat{EOT}"


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        ("one text", {"validation_fraction": 1.0}, "validation_fraction = 1.0 leaves no text to train on"),
        ("x", {}, "leaves no text to|expected"),
        (
            " \n",
            {"validation_fraction": 0},
            r"\[data\].corpus: expected text in .*, got 1 file of 2 bytes with nothing",
        ),
        ("x", {"document_separator": "<|end|>"}, r"document_separator: expected one of .*got '<\|end\|>'"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(tmp_path, tokenizer, content, settings, message):
    (tmp_path / "a.txt").write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        make_data(CorpusConfig(corpus=str(tmp_path / "a.txt"), **settings), tokenizer, tmp_path / "tokens")
    assert len(caught.value.lines) == 1
    assert content_of(tmp_path / "tokens") == {}


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_error_midway_keeps_the_old_files_and_leaves_nothing_else(
    tmp_path, tokenizer, monkeypatch, num_workers
):
    monkeypatch.setattr(build, "WORKER_BYTES", 1)
    corpus = corpus_of_stories(tmp_path / "corpus", 100)
    config = CorpusConfig(corpus=str(corpus), num_workers=num_workers)
    make_data(config, tokenizer, tmp_path / "tokens")
    before = content_of(tmp_path / "tokens")
    (corpus / "zz.txt").write_bytes(b"bad \xff")
    with pytest.raises(DataError, match=r"zz\.txt: expected UTF-8, but byte 4 is 0xff"):
        make_data(config, tokenizer, tmp_path / "tokens", chunk_bytes=500)
    assert content_of(tmp_path / "tokens") == before


class Bars:
    def __init__(self):
        self.messages, self.bars = [], []

    def say(self, message):
        self.messages.append(message)

    def bar(self, total, unit, description):
        self.bars.append([total, unit, 0])
        return self

    def update(self, amount):
        self.bars[-1][2] += amount

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass


@pytest.mark.parametrize("split", ["document", "tail"])
def test_progress_ends_at_the_size_of_the_corpus(tmp_path, tokenizer, split):
    corpus = corpus_of_stories(tmp_path / "corpus", 100)
    bars = Bars()
    config = CorpusConfig(corpus=str(corpus), validation_split=split)
    make_data(config, tokenizer, tmp_path / "tokens", bars, chunk_bytes=1000)
    size = sum(path.stat().st_size for path in corpus.iterdir())
    assert bars.bars == [[size, "B", size]]


def test_the_sidecar_knows_the_sources_and_the_settings(tmp_path, tokenizer):
    corpus = corpus_of_stories(tmp_path / "corpus", 30)
    data = make_data(CorpusConfig(corpus=str(corpus)), tokenizer, tmp_path / "tokens")
    sizes = {path.name: path.stat().st_size for path in corpus.iterdir()}
    for file in (data.train, data.val):
        assert {source["name"]: source["num_bytes"] for source in file.sidecar.sources} == sizes
        assert file.made_from["[data].validation_fraction"] == 0.05
        assert file.made_from["files of [data].corpus"].startswith(f"3 files, {sum(sizes.values())} bytes")
    text = sum(len(document) for document in tokenizer.decode(data.train.tokens).encode().split(EOT.encode()))
    assert data.train.num_bytes == text
