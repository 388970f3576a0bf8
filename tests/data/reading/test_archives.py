"""Members of .zip and .tar are read as the files that they are when they are unpacked."""

import io
import json
import os
import shutil
import subprocess
import tarfile
import zipfile
import zlib

import pytest

from tests.data.packed_files import packed
from tests.data.test_build_packed import digests, made, write_plain
from transformerlm.config import CorpusConfig
from transformerlm.data import build
from transformerlm.data.corpus import find_corpora, find_corpus
from transformerlm.data.file_record import FileRecord
from transformerlm.data.reading.archives import members
from transformerlm.data.reading.streams import blocks, open_stream
from transformerlm.errors import DataError
from transformerlm.progress import SilentReporter

TEXT = "The cat sat on the mat, isn't it? Äsop, 漢字.\n" * 200
ZIPS = {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED, "bzip2": zipfile.ZIP_BZIP2}
TARS = {"pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT, "ustar": tarfile.USTAR_FORMAT}


def archived(path, files, kind):
    """Write an archive of {name: content}."""
    if kind in ZIPS:
        with zipfile.ZipFile(path, "w", ZIPS[kind]) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, "w", format=TARS[kind]) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def suffix(kind):
    return "zip" if kind in ZIPS else "tar"


def texts(corpus):
    found = {}
    for source in corpus.sources:
        with open_stream(source.path, source.kind.partition(".")[2], 2**30) as stream:
            found[source.name] = b"".join(blocks(stream))
    return found


def refused(path, content):
    path.write_bytes(content)
    with pytest.raises(DataError) as raised:
        texts(find_corpus(str(path), CorpusConfig()))
    assert all(line.isprintable() for line in raised.value.lines)
    return " ".join(raised.value.lines)


@pytest.mark.parametrize("kind", [*ZIPS, *TARS])
def test_members_are_read_whatever_the_archive_was_written_with(tmp_path, kind):
    files = {f"{n}/{'long ' * n}.txt": TEXT.encode() * n for n in range(1, 16)}
    path = archived(tmp_path / f"a.{suffix(kind)}", files, kind)
    found = texts(find_corpus(str(path), CorpusConfig()))
    assert found == {f"{path.name}/{name}": content for name, content in files.items()}


@pytest.mark.parametrize(("kind", "split"), [("deflated", "document"), ("gnu", "tail")])
def test_archives_give_the_token_files_of_the_folder_that_they_unpack_to(
    tmp_path, tokenizer, monkeypatch, kind, split
):
    monkeypatch.setattr(build, "WORKER_BYTES", 1)
    settings = {"validation_split": split, "validation_fraction": 0.1}
    plain = write_plain(tmp_path / "plain")
    (plain / "sub").mkdir()
    (plain / "sub" / "z.txt").write_text(TEXT)
    expected = made(plain, tokenizer, tmp_path / "tokens", **settings)
    files = {
        path.relative_to(plain).as_posix(): path.read_bytes()
        for path in sorted(plain.rglob("*"), reverse=True)  # the order in the archive says nothing
        if path.is_file()
    }
    archive = archived(tmp_path / f"a.{suffix(kind)}", files, kind)
    (tmp_path / "folder").mkdir()
    shutil.copy(archive, tmp_path / "folder")
    for number, (corpus, num_workers, chunk_bytes) in enumerate(
        [(archive, 2, 777), (tmp_path / "folder", 1, 10**6)]
    ):
        folder = tmp_path / str(number)
        assert made(corpus, tokenizer, folder, num_workers, chunk_bytes, **settings) == expected
    assert digests(folder) == expected


@pytest.mark.skipif(not shutil.which("tar"), reason="tar is not installed")
def test_what_the_program_tar_writes_is_read(tmp_path):
    folder = tmp_path / "texts"
    (folder / "sub").mkdir(parents=True)
    names = ["a.txt", "sub/b.txt", f"sub/{'long ' * 30}.txt", "Äsop.txt"]
    for name in names:
        (folder / name).write_text(name + TEXT)
    (folder / "link.txt").symlink_to("a.txt")
    os.link(folder / "a.txt", folder / "another.txt")
    subprocess.run(["tar", "-cf", "a.tar", "-C", "texts", "."], cwd=tmp_path, check=True)
    corpus = find_corpus(str(tmp_path / "a.tar"), CorpusConfig())
    read = {name.removeprefix("a.tar/./"): content.decode() for name, content in texts(corpus).items()}
    links = {name.removeprefix("a.tar/./") for name in corpus.passed_over["link"]}
    assert len(links) == 2
    assert "link.txt" in links
    assert {name: read.get(name) for name in {*names, "another.txt"} - links} == {
        name: ("a.txt" if name == "another.txt" else name) + TEXT for name in {*names, "another.txt"} - links
    }


@pytest.mark.parametrize("kind", ["deflated", "pax"])
def test_what_is_no_text_in_an_archive_is_named_by_its_place(tmp_path, kind):
    files = {
        "a.txt": TEXT.encode(),
        "b.jsonl": json.dumps({"text": TEXT}).encode(),
        "c.csv": b"text\nx\n",
        "d.html": b"<p>x",
        ".git/config": b"x",
        "__MACOSX/._a.txt": b"x",
        "x.png": b"\x89PNG\0\0",
        "inner.zip": b"PK\x03\x04",
        "a.gz": packed(TEXT.encode(), "gz"),
        "none.csv": b"id\n1\n",
    }
    name = f"a.{suffix(kind)}"
    archived(tmp_path / name, files, kind)
    corpus = find_corpus(str(tmp_path), CorpusConfig())
    assert [source.name for source in corpus.sources] == [
        f"{name}/{own}" for own in ("a.txt", "b.jsonl", "c.csv", "d.html")
    ]
    left_out = {kind: sorted(names) for kind, names in corpus.left_out.items()}
    assert left_out == {
        "hidden": [f"{name}/.git/config", f"{name}/__MACOSX/._a.txt"],
        "archive": [f"{name}/inner.zip"],
        "compressed": [f"{name}/a.gz"],
        "column": [f'{name}/none.csv: expected a column "text", got only id'],
        "binary": [f"{name}/x.png"],
    }


def test_include_chooses_archives_in_a_folder_and_members_of_an_archive(tmp_path):
    archive = archived(tmp_path / "a.zip", {"a.md": b"x", "sub/b.md": b"x", "c.txt": b"x"}, "deflated")
    (tmp_path / "d.md").write_text("x")

    def names(corpus, pattern):
        found = find_corpus(str(corpus), CorpusConfig(include=(pattern,)))
        return [source.name for source in found.sources]

    assert names(archive, "*.md") == ["a.zip/a.md", "a.zip/sub/b.md"]
    assert names(tmp_path, "*.md") == ["d.md"]
    assert names(tmp_path, "*.zip") == ["a.zip/a.md", "a.zip/c.txt", "a.zip/sub/b.md"]


def test_of_two_members_with_one_name_the_last_is_read(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for content in (b"old", b"newer"):
            member = tarfile.TarInfo("a.txt")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    assert texts(find_corpus(str(tmp_path / "a.tar"), CorpusConfig())) == {"a.tar/a.txt": b"newer"}


@pytest.mark.parametrize("kind", ["deflated", "stored", "pax"])
def test_a_changed_archive_is_noticed_by_the_record_of_its_files(tmp_path, kind):
    path = archived(tmp_path / f"a.{suffix(kind)}", {"a.txt": b"one", "b.txt": b"two"}, kind)
    record = FileRecord.of(find_corpora(CorpusConfig(corpus=str(path))), SilentReporter())
    record.check_unchanged()
    archived(path, {"a.txt": b"one", "b.txt": b"TWO"}, kind)
    os.utime(path, ns=(1, 1))
    again = FileRecord.of(find_corpora(CorpusConfig(corpus=str(path))), SilentReporter())
    same = [a == b for a, b in zip(record.digests["corpus"], again.digests["corpus"], strict=True)]
    assert same == [True, False]
    with pytest.raises(DataError, match="has changed"):
        record.check_unchanged()
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        again.check_unchanged()


def test_a_damaged_zip_is_named_with_what_is_wrong(tmp_path):
    path = tmp_path / "a.zip"
    whole = archived(path, {"a.txt": TEXT.encode(), "b.txt": TEXT.encode()}, "deflated").read_bytes()
    assert "a.zip: is damaged within its 300 bytes" in refused(path, whole[:300])
    second = whole.index(b"PK\3\4", 1)
    assert f"a.zip/b.txt: is damaged: no member begins at byte {second}" in refused(
        path, whole[:second] + b"x" + whole[second + 1 :]
    )
    middle = second - 60
    turned = bytes([whole[middle] ^ 0xFF])
    assert "a.zip/a.txt: is damaged" in refused(path, whole[:middle] + turned + whole[middle + 1 :])
    crc = zlib.crc32(TEXT.encode()).to_bytes(4, "little")
    at = whole.index(b"PK\1\2")
    lying = whole[:at] + whole[at:].replace(crc, b"\0\0\0\0", 1)
    assert "a.zip/a.txt: is damaged: its 9,600 bytes have not the checksum" in refused(path, lying).replace(
        f"{len(TEXT.encode()):,}", "9,600"
    )
    size = len(TEXT.encode()).to_bytes(4, "little")
    for other, got in ((b"\1\0\0\0", "got more"), (b"\xff\xff\0\0", f"got {len(TEXT.encode()):,}")):
        assert got in refused(path, whole[:at] + whole[at:].replace(size, other, 1))


def test_a_damaged_tar_is_named_with_the_place(tmp_path):
    path = tmp_path / "a.tar"
    whole = archived(path, {"a.txt": b"x" * 700, "b.txt": b"x" * 700}, "ustar").read_bytes()
    assert "unexpected end of data" in refused(path, whole[:900])
    assert "no end of the archive at byte 1536" in refused(path, whole[:1536])
    assert "no end of the archive at byte 1536" in refused(path, whole[:1540] + b"?" + whole[1541:])
    negative = bytearray(whole)
    negative[1536 + 124 : 1536 + 136] = (
        b"\xff" * 10 + b"\xfc\0"
    )  # a size below zero leads back to an earlier header
    negative[1536 + 148 : 1536 + 156] = b" " * 8
    negative[1536 + 148 : 1536 + 156] = b"%06o\0 " % sum(negative[1536:2048])
    assert "is damaged" in refused(path, bytes(negative))


def test_archives_that_unpack_to_more_than_is_allowed_are_refused(tmp_path):
    zeros = {f"{n}.txt": b"a" * 2**20 for n in range(4)}
    path = archived(tmp_path / "a.zip", zeros, "deflated")
    assert len(members(str(path))) == 4
    with pytest.raises(DataError, match=r"a\.zip: its 4 members unpack to more than 3,000,000 bytes"):
        find_corpus(str(path), CorpusConfig(max_unpacked_bytes=3_000_000))


def test_a_member_under_a_password_is_named(tmp_path):
    path = archived(tmp_path / "a.zip", {"a.txt": b"x", "b.txt": b"y"}, "stored")
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)
    corpus = find_corpus(str(path), CorpusConfig())
    assert texts(corpus) == {"a.zip/b.txt": b"y"}
    assert corpus.left_out == {"member": ["a.zip/a.txt"]}
