import gzip
import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.packed_files import packed as packed_file
from tests.peak_memory import peak_memory, reset_peak_memory
from transformerlm.config import CorpusConfig
from transformerlm.data import corpus
from transformerlm.data.chunks import UNKNOWN_END, Region, chunks_of, work_items
from transformerlm.data.documents import TRAIN, documents_of
from transformerlm.data.kinds import JSONL, TEXT
from transformerlm.data.reading import streams
from transformerlm.errors import DataError

SEPARATORS = ["<|endoftext|>", "", "\n\n", "aa", "。", "ab", "aba"]
FRAGMENTS = [
    "a",
    "aa",
    "ba",
    "b",
    " ",
    "\n",
    "\n\n",
    "é",
    "漢",
    "。",
    "😀",
    "'s",
    "<|endof",
    "text|>",
    "<|endoftext|>",
    "12",
]
BROKEN = [b"\xff", b"\xe2\x82", b"\xf0\x9f\x98", b"\x80", "\ufffd".encode()]


def anywhere(text, *, is_tail=False):
    return len(text)


def after_spaces(text, *, is_tail=False):
    """Cut only behind the last space."""
    return text.rfind(" ") + 1


def nowhere(text, *, is_tail=False):
    return 0


@pytest.fixture(autouse=True, params=[4, 2**14], scope="module")
def tail_bytes(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformerlm.data.chunks._TAIL_BYTES", request.param)
        yield


def read_whole(content, config):
    """The obvious way: everything in memory, decoded at once, divided by `str.split`."""
    text = content.decode(errors=config.encoding_errors)
    texts = text.split(config.document_separator) if config.document_separator else [text]
    return [text for text in texts if text.strip(" \t\n\r\f\v")]


def read_in_chunks(path, config, safe_cut, chunk_bytes, kind=TEXT):
    region = Region(str(path), 0, path.stat().st_size, None, kind)
    texts, open_text = [], ""
    for chunk in chunks_of(region, config, safe_cut, chunk_bytes):
        for document in documents_of(chunk, config):
            open_text += document.text
            if document.is_end:
                texts.append(open_text)
                open_text = ""
    assert not open_text
    return texts


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("chunks") / "text.txt"


@settings(max_examples=200, deadline=None)
@given(
    parts=st.lists(st.sampled_from(FRAGMENTS), max_size=30),
    separator=st.sampled_from(SEPARATORS),
    chunk_bytes=st.integers(1, 40),
    safe_cut=st.sampled_from([anywhere, after_spaces, nowhere]),
)
def test_chunks_of_any_size_hold_the_documents_of_the_whole(path, parts, separator, chunk_bytes, safe_cut):
    path.write_text("".join(parts), newline="")
    config = CorpusConfig(document_separator=separator)
    assert read_in_chunks(path, config, safe_cut, chunk_bytes) == read_whole(path.read_bytes(), config)


@settings(max_examples=200, deadline=None)
@given(
    parts=st.lists(st.sampled_from([*BROKEN, *(part.encode() for part in FRAGMENTS)]), max_size=20),
    separator=st.sampled_from(SEPARATORS),
    chunk_bytes=st.integers(1, 40),
    safe_cut=st.sampled_from([anywhere, after_spaces]),
)
def test_broken_characters_are_replaced_as_in_the_whole(path, parts, separator, chunk_bytes, safe_cut):
    path.write_bytes(b"".join(parts))
    config = CorpusConfig(document_separator=separator, encoding_errors="replace")
    assert read_in_chunks(path, config, safe_cut, chunk_bytes) == read_whole(path.read_bytes(), config)


@settings(max_examples=60, deadline=None)
@given(
    before=st.text(max_size=30).filter(lambda text: text.isprintable()),
    broken=st.sampled_from([b"\xff", b"\xe2\x82", b"\x80"]),
    after=st.text("abc ", max_size=30),
    chunk_bytes=st.integers(1, 40),
)
def test_the_first_broken_byte_is_named_wherever_chunks_end(path, before, broken, after, chunk_bytes):
    path.write_bytes(before.encode() + broken + after.encode())
    with pytest.raises(DataError, match=rf"but byte {len(before.encode())} is 0x{broken[0]:02x}"):
        read_in_chunks(path, CorpusConfig(), anywhere, chunk_bytes)


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(st.sampled_from(["", '{"text": "a b"}', '{"text": "漢字 and more"}', "\r"])),
    size=st.integers(1, 50),
)
def test_lines_are_never_cut(tmp_path_factory, lines, size):
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    path.write_text("\n".join(lines), newline="")
    expected = [line[10:-2] for line in lines if line.startswith("{")]
    assert read_in_chunks(path, CorpusConfig(), anywhere, size, JSONL) == expected


@pytest.mark.parametrize("content", ["word " * 10_000, "word <|endoftext|>" * 3000, "漢" * 9000])
def test_chunks_follow_each_other_and_are_no_larger_than_asked_for(path, content):
    path.write_text(content)
    region = Region(str(path), 0, path.stat().st_size, TRAIN)
    found = list(chunks_of(region, CorpusConfig(), anywhere, 1000))
    assert found == list(chunks_of(region, CorpusConfig(), anywhere, 1000))
    assert all(500 < chunk.stop - chunk.start <= 1000 for chunk in found[:-1])
    for one, following in pairwise(found):
        assert one.stop <= following.start <= one.stop + len("<|endoftext|>")
    assert path.stat().st_size - found[-1].stop <= len("<|endoftext|>")


def chunks_without_content(region, config, safe_cut, chunk_bytes):
    """The chunks of a region, whose documents are read as well."""
    found, documents = [], []
    for chunk in chunks_of(region, config, safe_cut, chunk_bytes):
        found.append((chunk.start, chunk.stop, chunk.split, chunk.extent))
        documents += documents_of(chunk, config)
    return found, documents


@settings(max_examples=200, deadline=None)
@given(
    parts=st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join),
    separator=st.sampled_from(SEPARATORS),
    chunk_bytes=st.integers(1, 40),
    safe_cut=st.sampled_from([anywhere, after_spaces, nowhere]),
    kind=st.sampled_from([TEXT, JSONL]),
    block_bytes=st.integers(1, 30),
    part=st.sampled_from([(0.0, None), (0.3, None), (0.0, 0.7), (0.3, 0.7)]),
)
def test_compressed_text_is_divided_as_it_is_where_it_lies_in_a_plain_file(
    path, parts, separator, chunk_bytes, safe_cut, kind, block_bytes, part
):
    content = parts.encode()
    if kind == JSONL:
        content = b"".join(json.dumps({"text": line}).encode() + b"\n" for line in parts.split("\n"))
    path.write_bytes(content)
    packed = path.with_suffix(".gz")
    packed.write_bytes(
        gzip.compress(content[: len(content) // 2]) + gzip.compress(content[len(content) // 2 :])
    )
    config = CorpusConfig(document_separator=separator)
    start, stop = int(part[0] * len(content)), int((part[1] or 1) * len(content))
    if kind == JSONL:
        start, stop = 0, len(content)
    while 0 < start < stop and content[start] & 0xC0 == 0x80:
        start += 1
    while start < stop < len(content) and content[stop] & 0xC0 == 0x80:
        stop += 1
    plain = Region(str(path), start, stop, None, kind)
    end = stop if part[1] else UNKNOWN_END
    same = Region(str(packed), start, end, None, f"{kind}.gz", packed.stat().st_size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "BLOCK_BYTES", block_bytes)
        patch.setattr(streams, "_INPUT_BYTES", block_bytes)
        found = chunks_without_content(same, config, safe_cut, chunk_bytes)
        sizes = [chunk.num_read for chunk in chunks_of(same, config, safe_cut, chunk_bytes)]
    assert found == chunks_without_content(plain, config, safe_cut, chunk_bytes)
    assert sum(sizes) <= packed.stat().st_size


def test_a_document_of_any_length_is_divided_while_it_is_unpacked(path):
    content = b"the cat sat on the mat " * 2**22
    packed = path.with_suffix(".zst")
    packed.write_bytes(packed_file(content, "zst"))
    region = Region(str(packed), 0, UNKNOWN_END, None, "text.zst", packed.stat().st_size)
    reset_peak_memory()
    before = peak_memory()
    size = 0
    for chunk in chunks_of(region, CorpusConfig(), after_spaces):
        size += len(chunk.content)
        assert chunk.num_bytes == len(chunk.content) < 2**20
    assert size == len(content)
    assert (
        peak_memory() - before < len(content) / 2
    )  # 18 MiB alone, 35 MiB in a process that has run other tests


def test_text_that_can_be_cut_nowhere_is_refused_if_it_is_too_long(path, monkeypatch):
    packed = path.with_suffix(".gz")
    packed.write_bytes(gzip.compress(b"<|endoftext|>" + b"a" * 10_000))
    monkeypatch.setattr("transformerlm.data.reading.window.MAX_PIECE_BYTES", 5000)
    for kind in (TEXT, JSONL):
        region = Region(str(packed), 0, UNKNOWN_END, None, f"{kind}.gz", 100)
        with pytest.raises(DataError, match=rf"{packed}: from byte (0|13) of the unpacked text"):
            list(chunks_of(region, CorpusConfig(), nowhere, 100))


def test_listing_chunks_reads_little_of_many_short_documents(path, monkeypatch):
    path.write_text("a short story <|endoftext|>" * 40_000)
    num_read = []

    def read_bytes(path, start, stop):
        num_read.append(stop - start)
        return corpus.read_bytes(path, start, stop)

    monkeypatch.setattr("transformerlm.data.chunks._TAIL_BYTES", 2**14)
    monkeypatch.setattr("transformerlm.data.reading.window.read_bytes", read_bytes)
    region = Region(str(path), 0, path.stat().st_size, TRAIN)
    assert len(list(chunks_of(region, CorpusConfig(), nowhere))) == 3
    assert sum(num_read) < path.stat().st_size / 20


def test_text_without_a_safe_cut_is_one_chunk(path):
    path.write_text("a" * 10_000 + "<|endoftext|>" + "b")
    region = Region(str(path), 0, path.stat().st_size, TRAIN)
    found = list(chunks_of(region, CorpusConfig(), nowhere, 10))
    assert [(chunk.start, chunk.stop, chunk.extent) for chunk in found] == [
        (0, 10_000, "documents"),
        (10_013, 10_014, "documents"),
    ]


def test_small_files_share_an_item_of_work(path):
    path.write_text("x" * 100)
    one = next(chunks_of(Region(str(path), 0, 100, TRAIN), CorpusConfig(), len))
    items = list(work_items([one] * 25, chunk_bytes=1000))
    assert [len(item) for item in items] == [5] * 5
