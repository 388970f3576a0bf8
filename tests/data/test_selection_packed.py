"""Copies in compressed files and tables: the decision is that about the same documents in plain files."""

import json
import random

import pytest

from tests.data.copies_oracle import edited, random_text
from tests.data.packed_files import packed
from transformerlm.config import CorpusConfig
from transformerlm.data import scan as scanning
from transformerlm.data import selection_cache
from transformerlm.data.build import make_data
from transformerlm.data.build_journal import Progress
from transformerlm.data.copies import find_copies
from transformerlm.data.corpus import find_corpora
from transformerlm.data.division import Division
from transformerlm.data.documents import VAL
from transformerlm.data.prepare import training_texts
from transformerlm.data.scan import Texts, character_cut, scan
from transformerlm.data.selection import Selection
from transformerlm.errors import DataError
from transformerlm.evaluation.text import Text
from transformerlm.progress import SilentReporter
from transformerlm.tokenizer import Pretokenizer, Tokenizer

EOT = "<|endoftext|>"
SAFE_CUT = Pretokenizer(special_tokens=[EOT]).safe_cut
BOTH = {"duplicates": "drop", "near_duplicates": "together"}
SETTINGS = [BOTH, {"duplicates": "drop"}, {"near_duplicates": "drop"}]


@pytest.fixture(scope="module")
def texts():
    """Texts with exact and near copies, among them long ones."""
    rng = random.Random(11)
    found = [random_text(rng, rng.randrange(25, 50)) for _ in range(50)]
    found += [found[number] for number in (1, 5, 5, 20)]
    found += [edited(rng, found[number], 1) for number in (*range(10, 35), 12)]
    long = random_text(rng, 400)
    found += ["tiny", long, "tiny", edited(rng, long, 3), long]
    rng.shuffle(found)
    return found


@pytest.fixture(scope="module")
def folders(texts, tmp_path_factory):
    """The texts in folders of plain files, of compressed ones, and with a table in place of JSON lines."""
    root = tmp_path_factory.mktemp("copies")
    files = {
        "a.txt": f"\n{EOT}\n".join(texts[:30]).encode(),
        "b.jsonl": "".join(json.dumps({"text": text}) + "\n" for text in texts[30:60]).encode(),
        "c.txt": EOT.join(texts[60:]).encode(),
    }
    for name in ("plain", "packed", "table"):
        (root / name).mkdir()
    for number, (name, content) in enumerate(files.items()):
        (root / "plain" / name).write_bytes(content)
        codec = ("gz", "zst", "xz")[number]
        (root / "packed" / f"{name}.{codec}").write_bytes(packed(content, codec))
        (root / "table" / name).write_bytes(content)
    (root / "table" / "b.jsonl").unlink()
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"text": texts[30:60]}), root / "table" / "b.parquet", row_group_size=7)
    return root


def config_of(folder, **settings):
    return CorpusConfig(corpus=str(folder), **{"validation_fraction": 0.3, **settings})


def division_of(folder, chunk_bytes, safe_cut=SAFE_CUT, **settings):
    config = config_of(folder, **settings)
    return Division(config, find_corpora(config), safe_cut, chunk_bytes)


def plain_tokenizer():
    return Tokenizer({number: bytes([number]) for number in range(256)}, [], [EOT])


def files_of(data):
    return [data.train.path.read_bytes(), data.val.path.read_bytes()]


@pytest.mark.parametrize("name", ["packed", "table"])
@pytest.mark.parametrize("chunk_bytes", [300, 2000, 2**19])
def test_copies_are_those_of_plain_files(name, chunk_bytes, folders, texts):
    expected = scan(division_of(folders / "plain", 2**19, character_cut), with_signatures=True)
    division = division_of(folders / name, chunk_bytes, character_cut)
    found = scan(division, with_signatures=True)
    assert find_copies(found, near=True) == find_copies(expected, near=True)
    assert len(find_copies(found, near=True).near) > 20
    assert found.num_bytes.tolist() == expected.num_bytes.tolist()
    assert all(chunk.content is None for chunk in found.chunks)
    contents = [b"".join(found.parts(number)).decode().strip() for number in range(len(found))]
    assert contents == texts
    with Texts(found, range(0, len(found), 3)) as some:
        assert [b"".join(some.parts(number)).decode().strip() for number in range(len(found))] == texts


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("split", ["document", "tail"])
def test_the_decision_is_that_about_plain_files(settings, split, folders):
    names = ["plain", "packed", *(["table"] if split == "document" else [])]  # its tail begins elsewhere
    found = [
        Selection.of(division_of(folders / name, size, validation_split=split, **settings))
        for name in names
        for size in (300, 2**19)
    ]
    assert found[0].splits
    assert all((one.splits, one.record) == (found[0].splits, found[0].record) for one in found)


@pytest.mark.parametrize("settings", SETTINGS)
def test_token_files_are_those_of_plain_files(settings, folders, tmp_path, monkeypatch):
    from transformerlm.data import build

    monkeypatch.setattr(build, "WORKER_BYTES", 1)
    monkeypatch.setattr(scanning, "WORKER_BYTES", 1)
    made = []
    for number, (name, chunk_bytes, num_workers) in enumerate(
        [("plain", 2**19, 1), ("packed", 300, 1), ("packed", 700, 2), ("table", 700, 1)]
    ):
        config = config_of(folders / name, num_workers=num_workers, **settings)
        made.append(make_data(config, plain_tokenizer(), tmp_path / str(number), chunk_bytes=chunk_bytes))
    assert all(files_of(one) == files_of(made[0]) for one in made)


class Interrupted(SilentReporter):
    """A reporter that interrupts the encoding after so many updates."""

    def __init__(self, number):
        self.left = number

    def bar(self, total, unit, description):
        found = super().bar(total, unit, description)
        if description == "encoding":
            found.update = self._count
        return found

    def _count(self, amount):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["packed", "table"])
@pytest.mark.parametrize("settings", [{"duplicates": "drop"}, BOTH])
def test_an_interrupted_build_goes_on_to_the_same_bytes(name, settings, folders, tmp_path):
    expected = make_data(config_of(folders / "plain", **settings), plain_tokenizer(), tmp_path / "whole")
    config = config_of(folders / name, num_workers=1, **settings)
    sizes, places = {"chunk_bytes": 300, "commit_bytes": 500}, []
    for number in (8, 12, 20):
        with pytest.raises(KeyboardInterrupt):
            make_data(config, plain_tokenizer(), tmp_path / "d", Interrupted(number), **sizes)
        places.append(Progress.read(tmp_path / "d").place)
    assert sorted(places) == places
    assert places[0] < places[-1] > [0, 2]
    made = make_data(config, plain_tokenizer(), tmp_path / "d", **sizes)
    assert files_of(made) == files_of(expected)


@pytest.mark.parametrize("split", ["document", "tail"])
def test_all_that_read_packed_files_read_the_same_documents(split, folders):
    found = []
    for name in ("plain", "packed"):
        config = config_of(folders / name, validation_split=split, **BOTH)
        text = Text.find(config, None)
        updates = []
        bar = SilentReporter().bar(None, "B", "")
        bar.update = updates.append
        parts = [part.utf8 for part in text.parts(SAFE_CUT, bar)]
        assert 0 < sum(updates) <= text.num_bytes
        assert text.split == VAL
        found.append(("".join(training_texts(config, text.corpora[""], SAFE_CUT)), b"".join(parts)))
    assert found[0] == found[1]
    assert all(found[0])


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_long_text_that_is_unpacked_is_read_as_it_comes(num_workers, tmp_path, monkeypatch):
    monkeypatch.setattr(scanning, "WORKER_BYTES", 1)
    rng = random.Random(3)
    texts = [random_text(rng, number) for number in (20, 4000, 20, 3000, 100, 100)]
    (tmp_path / "a.txt").write_text(EOT.join(texts))
    (tmp_path / "a.txt.gz").write_bytes(packed(EOT.join(texts).encode(), "gz"))
    settings = {"num_workers": num_workers, "validation_fraction": 0}
    expected = scan(division_of(tmp_path / "a.txt", 1000, character_cut, **settings), with_signatures=True)
    monkeypatch.setattr(scanning, "MEMORY_BYTES", 5000)
    division = division_of(tmp_path / "a.txt.gz", 1000, character_cut, **settings)
    items = list(map(type, _used_up(scanning.whole_items(division.chunks(), 1000))))
    assert len(set(items)) == 2
    found = scan(division, with_signatures=True)
    for column in ("first_chunks", "last_chunks", "ordinals", "num_bytes", "digests", "signatures"):
        assert getattr(found, column).tolist() == getattr(expected, column).tolist()
    assert [b"".join(found.parts(number)).decode() for number in range(6)] == texts


def _used_up(items):
    for item in items:
        if not isinstance(item, tuple):
            assert sum(chunk.num_bytes for chunk in item) > 10_000
        yield item


def test_the_decision_about_packed_files_is_kept(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(selection_cache, "MIN_BYTES", 1)
    monkeypatch.setattr(selection_cache, "CLOCK_NANOSECONDS", 0)
    monkeypatch.setenv("TRANSFORMERLM_CACHE_DIR", str(tmp_path / "cache"))
    first, again = (Selection.of(division_of(folders / "packed", 300, **BOTH)) for _ in range(2))
    assert first == again
    assert len(list((tmp_path / "cache" / "copies").iterdir())) == 1
    other = Selection.of(division_of(folders / "packed", 700, **BOTH))
    assert (other.splits, other.edits == first.edits) == (first.splits, False)


def test_a_file_that_has_changed_in_the_meantime_is_an_error(tmp_path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(packed(EOT.join("abcdefghij").encode(), "gz"))
    found = scan(division_of(path, 20, validation_fraction=0), with_signatures=False)
    path.write_bytes(packed(b"abc", "gz"))
    with pytest.raises(DataError, match=r"a\.txt\.gz: has changed while it was being read"):
        list(found.parts(9))
