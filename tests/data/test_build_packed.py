"""Token files of compressed text and of tables are, byte by byte, those of the text in plain files."""

import csv
import json
import random
import shutil

import pytest

from tests.data.packed_files import EACH, packed
from transformerlm.config import CorpusConfig
from transformerlm.data import build, chunks
from transformerlm.data.build import make_data
from transformerlm.data.build_journal import UNFINISHED, Progress
from transformerlm.errors import DataError
from transformerlm.storage.checksummed_json import dump

EOT = "<|endoftext|>"
WORDS = ["the", " cat", " sat", " on", " mat", " 漢字", ".", "\n", "'s", " 123", "\n\n"]


def stories(number, seed):
    generator = random.Random(seed)
    return ["".join(generator.choices(WORDS, k=40)) for _ in range(number)]


def write_plain(folder):
    folder.mkdir()
    (folder / "a.txt").write_text(f"\n{EOT}\n".join(stories(200, 1)))
    (folder / "a.txt-more").write_text("\ufeff" + EOT.join(stories(50, 2)))
    (folder / "b.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in stories(200, 3)))
    (folder / "long.txt").write_text(" ".join(stories(200, 4)))
    (folder / "rest.txt").write_text(EOT.join(stories(100, 5)))
    return folder


def pack(plain, folder, codec):
    """The folder with all of its files but one compressed, some in several parts."""
    folder.mkdir()
    for number, path in enumerate(sorted(plain.iterdir())):
        content = path.read_bytes()
        if path.name == "rest.txt":
            shutil.copy(path, folder)
            continue
        middle = len(content) * (number % 2) // 2
        parts = packed(content[:middle], codec) + packed(content[middle:], codec)
        (folder / f"{path.name}.{codec}").write_bytes(parts)
    return folder


def digests(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix == ".memmap"}


def made(corpus, tokenizer, folder, num_workers=1, chunk_bytes=3000, **settings):
    config = CorpusConfig(corpus=str(corpus), num_workers=num_workers, **settings)
    make_data(config, tokenizer, folder, chunk_bytes=chunk_bytes)
    return digests(folder)


@pytest.mark.parametrize("codec", EACH)
@pytest.mark.parametrize("split", ["document", "tail"])
def test_compressed_text_gives_the_bytes_of_plain_text(tmp_path, tokenizer, monkeypatch, codec, split):
    monkeypatch.setattr(build, "WORKER_BYTES", 1)
    monkeypatch.setattr("transformerlm.data.chunks.AHEAD_BYTES", 5000)
    settings = {"validation_split": split, "validation_fraction": 0.1}
    plain = write_plain(tmp_path / "plain")
    expected = made(plain, tokenizer, tmp_path / "tokens", **settings)
    corpus = pack(plain, tmp_path / "packed", codec)
    for number, (num_workers, chunk_bytes) in enumerate([(1, 3000), (3, 777), (2, 10**6)]):
        folder = tmp_path / str(number)
        assert made(corpus, tokenizer, folder, num_workers, chunk_bytes, **settings) == expected


@pytest.mark.parametrize("split_at", [0.05, 0.3, 0.5, 0.999])
@pytest.mark.parametrize("separator", [EOT, "aa", ""])
def test_the_tail_begins_where_it_does_in_plain_text(tmp_path, tokenizer, split_at, separator):
    settings = {
        "validation_fraction": split_at,
        "validation_split": "tail",
        "document_separator": separator,
    }
    for name in ("a.txt", "a.jsonl"):
        texts = ["aaa漢字" * 40 + text for text in stories(30, 1)]
        content = "\n".join(json.dumps({"text": text}) for text in texts) + "\n"
        if name == "a.txt":
            content = (separator or "\n").join(texts)
        (tmp_path / name).write_text(content)
        (tmp_path / f"{name}.zst").write_bytes(packed(content.encode(), "zst"))
        expected = made(tmp_path / name, tokenizer, tmp_path / f"plain-{name}", **settings)
        assert made(tmp_path / f"{name}.zst", tokenizer, tmp_path / f"packed-{name}", **settings) == expected


@pytest.mark.parametrize("split", ["document", "tail"])
def test_tables_give_the_bytes_of_lines_of_json(tmp_path, tokenizer, split):
    pq = pytest.importorskip("pyarrow.parquet")
    pa = pytest.importorskip("pyarrow")
    texts = [text for text in stories(300, 7) if text.strip()]
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    )
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", row_group_size=70)
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["text"], *([text] for text in texts)])
    settings = {"validation_split": split, "validation_fraction": 0.2}
    if split == "document":
        expected = made(tmp_path / "a.jsonl", tokenizer, tmp_path / "lines", **settings)
    for name in ("a.parquet", "a.csv"):
        found = made(tmp_path / name, tokenizer, tmp_path / f"{name}-tokens", **settings)
        if split == "tail":  # a line of JSON is longer than its text, so the split is elsewhere
            expected = found if name == "a.parquet" else expected
        assert found == expected
        assert all(found.values())


class Stopper:
    """A Reporter that raises an error after so many updates."""

    def __init__(self, number):
        self.left = number

    def say(self, message):
        pass

    def bar(self, total, unit, description):
        return self

    def update(self, amount):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass


@pytest.mark.parametrize("has_place", [True, False])
def test_an_interrupted_build_goes_on_in_the_file_where_it_was(tmp_path, tokenizer, monkeypatch, has_place):
    plain = write_plain(tmp_path / "plain")
    corpus = pack(plain, tmp_path / "packed", "zst")
    config = CorpusConfig(corpus=str(corpus), num_workers=1)
    sizes = {"chunk_bytes": 1000, "commit_bytes": 2000}
    expected = made(plain, tokenizer, tmp_path / "expected")
    folder, opened = tmp_path / "tokens", []
    chunks_of = chunks.chunks_of

    def recorded(region, *others):
        opened.append(region.path.rpartition("/")[2])
        return chunks_of(region, *others)

    monkeypatch.setattr(chunks, "chunks_of", recorded)
    for number in (15, 30, 30, 45, 1000):
        if number < 1000:
            with pytest.raises(KeyboardInterrupt):
                make_data(config, tokenizer, folder, Stopper(number), **sizes)
            record = Progress.read(folder)
            assert record.place
            if not has_place:  # as earlier versions have written it
                path = folder / UNFINISHED / "progress.json"
                values = json.loads(path.read_bytes())
                del values["place"], values["seal"]
                path.write_bytes(dump(values))
                assert Progress.read(folder).place == []
            opened.clear()
        else:
            make_data(config, tokenizer, folder, **sizes)
    assert digests(folder) == expected
    if has_place:
        assert "a.txt.zst" not in opened  # done before the last interruption, and not unpacked again
    assert opened[-1] == "rest.txt"


def test_damage_in_the_middle_stops_the_build_and_leaves_what_is_done(tmp_path, tokenizer):
    plain = write_plain(tmp_path / "plain")
    corpus = pack(plain, tmp_path / "packed", "gz")
    whole = (corpus / "long.txt.gz").read_bytes()
    (corpus / "long.txt.gz").write_bytes(whole[:-100])
    with pytest.raises(
        DataError, match=rf"long\.txt\.gz: ends at byte {len(whole) - 100}, within its gzip data"
    ):
        made(corpus, tokenizer, tmp_path / "tokens", validation_fraction=0)
    assert not list((tmp_path / "tokens").glob("*.memmap"))
