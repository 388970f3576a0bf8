"""Tables, written by pyarrow and `datasets`."""

import os
import subprocess
import sys

import pytest

from tests.data.reading.reader import documents
from tests.peak_memory import peak_memory, reset_peak_memory
from transformerlm.config import CorpusConfig
from transformerlm.data.corpus import find_corpus
from transformerlm.data.reading.tables import table_rows
from transformerlm.errors import DataError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
feather = pytest.importorskip("pyarrow.feather")

TEXTS = [f"document {number} “é” 漢字\n" * (number % 7) or None for number in range(1000)]
EXPECTED = [text for text in TEXTS if text]
TYPES = {
    "string": pa.string(),
    "large_string": pa.large_string(),
    "string_view": pa.string_view(),
    "binary": pa.binary(),
    "large_binary": pa.large_binary(),
    "dictionary": pa.dictionary(pa.int32(), pa.string()),
    "large_dictionary": pa.dictionary(pa.int8(), pa.large_string()),
}


def table(kind):
    texts = TEXTS
    if kind == "large_dictionary":  # of no more words than its indices can number
        texts = [TEXTS[number % 100] for number in range(1000)]
    return pa.table({"id": range(len(texts)), "text": pa.array(texts).cast(TYPES[kind])}), texts


def write(folder, table):
    """The table in each format, several parts in each file."""
    pq.write_table(table, folder / "a.parquet", row_group_size=300)
    pq.write_table(table, folder / "b.parquet", compression="zstd", data_page_size=100, use_dictionary=False)
    for compression in ("uncompressed", "lz4", "zstd"):
        feather.write_feather(table, folder / f"{compression}.feather", compression, chunksize=128)
    with pa.OSFile(str(folder / "stream.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as to:
        to.write_table(table, max_chunksize=128)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("kind", TYPES)
def test_rows_of_every_type_and_format_are_documents(tmp_path, kind):
    written, texts = table(kind)
    for path in write(tmp_path, written):
        assert documents(path, 1000) == [text for text in texts if text], path


def test_a_slice_begins_and_ends_where_it_does(tmp_path):
    written, _ = table("string")
    for path in write(tmp_path, written.slice(100, 500)):
        assert documents(path) == [text for text in TEXTS[100:600] if text], path


def test_columns_that_are_missing_or_no_text_are_named(tmp_path):
    other = pa.table({"body": ["one"], "tags": [["x"]], "number": [1]})
    for path in write(tmp_path, other):
        with pytest.raises(DataError, match=r'expected a column "text", got only body, tags, number\)'):
            documents(path)
        with pytest.raises(DataError, match=r'expected text in column "tags", got list<'):
            documents(path, text_field="tags")
        with pytest.raises(DataError, match=r'expected text in column "number", got int64'):
            documents(path, text_field="number")
        assert documents(path, text_field="body") == ["one"]


@pytest.mark.parametrize("kind", ["binary", "large_binary"])
def test_bytes_that_are_not_utf8_are_named_by_their_row_or_replaced(tmp_path, kind):
    broken = pa.table({"text": pa.array([b"fine", b"caf\xe9"]).cast(TYPES[kind])})
    for path in write(tmp_path, broken):
        with pytest.raises(DataError, match="expected UTF-8 in row 1, but byte 3 of it is 0xe9"):
            documents(path)
        assert documents(path, encoding_errors="replace") == ["fine", "caf\ufffd"]
        assert documents(path, encoding_errors="keep") == ["fine", "caf\udce9"]


def test_folders_that_datasets_has_saved(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    saved = datasets.Dataset.from_dict({"text": TEXTS, "id": list(range(len(TEXTS)))})
    saved.save_to_disk(tmp_path / "whole", num_shards=3)
    (tmp_path / "whole" / "cache-0123.arrow").write_bytes(b"left by a map")
    assert documents(tmp_path / "whole") == EXPECTED
    corpus = find_corpus(str(tmp_path / "whole"), CorpusConfig(require_all=True))
    assert corpus.left_out == {"saved": ["cache-0123.arrow", "dataset_info.json", "state.json"]}
    some = saved.filter(lambda row: row["id"] % 2 == 0)
    datasets.DatasetDict({"train": saved, "test": some}).save_to_disk(tmp_path / "both")
    assert documents(tmp_path / "both" / "test") == [text for text in TEXTS[::2] if text]
    assert documents(tmp_path / "both") == documents(tmp_path / "both" / "test") + EXPECTED


def test_row_groups_are_read_piece_by_piece(tmp_path):
    texts = [f"{number} " * 2000 for number in range(15_000)]
    for name, size in (("small", 10), ("large", len(texts))):
        options = {"row_group_size": size, "use_dictionary": False, "compression": "none"}
        pq.write_table(pa.table({"text": texts[:size]}), tmp_path / name, **options)
    del texts
    assert len(list(table_rows(str(tmp_path / "small"), "parquet", CorpusConfig()))) == 10
    pa.default_memory_pool().release_unused()
    reset_peak_memory()
    before = peak_memory()
    rows = table_rows(str(tmp_path / "large"), "parquet", CorpusConfig())
    assert sum(len(row.utf8) for row in rows) > 150 * 2**20
    assert peak_memory() - before < 100 * 2**20


def test_without_pyarrow_a_line_says_what_to_install(tmp_path):
    write(tmp_path, table("string")[0])
    (tmp_path / "a.txt").write_text("text")
    program = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'pyarrow' else find(name, *more)\n"
        "from transformerlm.config import CorpusConfig\n"
        "from transformerlm.data.corpus import find_corpora\n"
        f"config = CorpusConfig(corpus={str(tmp_path)!r})\n"
        "print(*find_corpora(config).notes(config), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ)
    assert "not read: Parquet or Arrow: 6 (" in done.stdout, done.stderr
    assert done.stdout.endswith("; `pip install transformerlm[parquet]` lets them be read\n")
