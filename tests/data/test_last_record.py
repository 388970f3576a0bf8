"""A few long lines or records: the last one is for validation where none begins in the tail."""

import json

import pytest

from tests.data.packed_files import packed
from transformerlm.config import CorpusConfig
from transformerlm.data.build import make_data
from transformerlm.data.corpus import find_corpora
from transformerlm.data.division import Division
from transformerlm.data.documents import documents_of
from transformerlm.data.scan import character_cut
from transformerlm.data.split import regions
from transformerlm.errors import DataError
from transformerlm.tokenizer import Tokenizer

EOT = "<|endoftext|>"
LONG = [f"text {number} " * 2000 for number in range(4)]


def lines(texts, end="\n"):
    return ("\n".join(json.dumps({"text": text}) for text in texts) + end).encode()


def split_of(corpus, **settings):
    """The documents of each side."""
    config = CorpusConfig(corpus=str(corpus), **settings)
    division = Division(config, find_corpora(config), character_cut, 3000)
    found = {"train": [], "val": []}
    for chunk in division.chunks():
        for document in documents_of(chunk, config):
            found[document.split].append(document.text)
    return found["train"], found["val"]


@pytest.mark.parametrize("split", ["auto", "tail"])
@pytest.mark.parametrize("end", ["\n", "", "\n \n\n", '\n{"text": " "}\n'])
@pytest.mark.parametrize("codec", ["", "gz"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_the_last_of_four_lines_is_for_validation(split, end, codec, mark, tmp_path):
    content = mark + lines(LONG, end)
    path = tmp_path / f"a.jsonl{'.' * bool(codec)}{codec}"
    path.write_bytes(packed(content, codec) if codec else content)
    assert split_of(path, validation_split=split) == (LONG[:3], LONG[3:])


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_the_last_of_four_records_is_for_validation(suffix, tmp_path):
    if suffix == "parquet":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.table({"text": [*LONG, " ", None]}), tmp_path / "a.parquet")
    else:
        (tmp_path / "a.csv").write_text("\n".join(["text", *LONG]))
    train, val = split_of(tmp_path / f"a.{suffix}")
    assert [text.strip() for text in train] == [text.strip() for text in LONG[:3]]
    assert [text.strip() for text in val] == [LONG[3].strip()]


def test_the_last_line_may_be_in_any_file(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines(LONG[:1]))
    (tmp_path / "b.jsonl").write_bytes(lines(LONG[1:2]))
    (tmp_path / "c.jsonl").write_bytes(b"\n \n")
    assert split_of(tmp_path) == (LONG[:1], LONG[1:2])
    (tmp_path / "a.jsonl").rename(tmp_path / "a.txt")  # text, however it looks
    assert split_of(tmp_path)[1] == LONG[1:2]


def test_the_only_line_leaves_nothing_to_validate_on(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines(LONG[:1]))
    (tmp_path / "b.jsonl").write_bytes(b"\n")
    tokenizer = Tokenizer({number: bytes([number]) for number in range(256)}, [], [EOT])
    with pytest.raises(DataError, match="leaves no text to validate on"):
        make_data(CorpusConfig(corpus=str(tmp_path)), tokenizer, tmp_path / "tokens")


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.9])
def test_a_tail_in_which_a_line_begins_stays_where_it_was(fraction, tmp_path):
    texts = [f"text {number} " * 20 for number in range(19)]
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(texts))
    sizes = [len(json.dumps({"text": text})) + 1 for text in texts]
    at = int(sum(sizes) * (1 - fraction))
    starts = [sum(sizes[:number]) for number in range(19)]
    number = next((number for number, start in enumerate(starts) if start >= at), 18)
    assert split_of(path, validation_fraction=fraction) == (texts[:number], texts[number:])


def test_plain_text_is_divided_within_its_last_document(tmp_path):
    for name, text in (("one", "word " * 1000), ("two", f"first{EOT}{'word ' * 1000}")):
        path = tmp_path / f"{name}.txt"
        path.write_text(text)
        config = CorpusConfig(corpus=str(path), validation_fraction=0.1)
        own = [(region.split, region.start, region.stop) for region in regions(config, find_corpora(config))]
        assert own == [("train", 0, int(len(text) * 0.9)), ("val", int(len(text) * 0.9), len(text))]
