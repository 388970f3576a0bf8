import os
import sysconfig
from pathlib import Path

import pytest

from transformerlm.config import CorpusConfig
from transformerlm.data.corpus import (
    MissingCorpusError,
    find_corpora,
    find_corpus,
    read_bytes,
    refuse_overlap,
)
from transformerlm.errors import ConfigError, DataError


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "my texts"
    for name in ("b.txt", "a/z.txt", "a.txt", "a/b/ü.md", "c.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"text of {name}\n")
    return root


def names(corpus):
    return [source.name for source in corpus.sources]


def test_a_folder_is_read_through_in_the_order_of_names(folder):
    corpus = find_corpus(str(folder))
    assert names(corpus) == ["a.txt", "a/b/ü.md", "a/z.txt", "b.txt", "c.py"]
    assert all(Path(source.path).stat().st_size == source.num_bytes for source in corpus.sources)
    assert corpus.num_bytes == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_include_chooses_by_name(folder):
    assert names(find_corpus(str(folder), ["*.md", "a*"])) == ["a.txt", "a/b/ü.md"]
    assert names(find_corpus(str(folder), ["[bz].*"])) == ["a/z.txt", "b.txt"]


def test_hidden_and_binary_files_are_passed_over_and_counted(folder):
    (folder / ".hidden").write_text("x")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("x")
    (folder / "image.png").write_bytes(b"\x89PNG\0")
    (folder / "late.txt").write_bytes(b"x" * 8192 + b"\0")
    corpus = find_corpus(str(folder))
    assert names(corpus) == ["a.txt", "a/b/ü.md", "a/z.txt", "b.txt", "c.py", "late.txt"]
    assert (corpus.num_hidden, corpus.num_binary) == (2, 1)


def test_links_are_followed_but_not_in_circles(folder):
    (folder / "a" / "up").symlink_to(folder)
    (folder / "self").symlink_to(folder / "self")
    (folder / "gone.txt").symlink_to(folder / "nothing")
    (folder.parent / "elsewhere").mkdir()
    (folder.parent / "elsewhere" / "e.txt").write_text("x")
    (folder / "link").symlink_to(folder.parent / "elsewhere")
    assert names(find_corpus(str(folder))) == ["a.txt", "a/b/ü.md", "a/z.txt", "b.txt", "c.py", "link/e.txt"]


def test_pipes_are_not_waited_for(folder):
    os.mkfifo(folder / "pipe.txt")
    assert "pipe.txt" not in names(find_corpus(str(folder)))
    with pytest.raises(DataError, match=r"got .*pipe\.txt"):
        find_corpus(str(folder / "pipe.txt"))


def test_what_this_package_writes_is_no_corpus(folder):
    before = names(find_corpus(str(folder)))
    for name in ("out/train.memmap", "out/train.memmap.json", "out/tokenizer/vocab.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    (folder / "out" / "tokenizer" / "merges.txt").write_text("a b")
    (folder / "run").mkdir()
    for name in ("config.toml", "metrics.jsonl", "samples.jsonl"):
        (folder / "run" / name).write_text("{}")
    assert names(find_corpus(str(folder))) == before


def test_a_file_is_a_corpus(folder):
    (source,) = find_corpus(str(folder / "a/b/ü.md")).sources
    assert (source.name, source.start) == ("ü.md", 0)


def test_a_byte_order_mark_is_no_text(folder):
    (folder / "b.txt").write_bytes(b"\xef\xbb\xbfhello")
    (source,) = find_corpus(str(folder / "b.txt")).sources
    assert (source.start, source.num_bytes) == (3, 8)


def test_globs(folder):
    assert [Path(n).name for n in names(find_corpus(str(folder / "*.txt")))] == ["a.txt", "b.txt"]
    assert len(names(find_corpus(str(folder / "**")))) == 5
    (folder / "strange[1].txt").write_text("x")
    assert names(find_corpus(str(folder / "strange[1].txt"))) == ["strange[1].txt"]
    with pytest.raises(DataError, match="a glob that matches files"):
        find_corpus(str(folder / "a/[b]"))


def test_the_user_s_own_folder(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert len(find_corpus("~/my texts").sources) == 5


def test_a_part_of_the_standard_library_can_be_chosen():
    some = names(find_corpus("python-stdlib", ["[st]*.py"]))
    assert "socket.py" in some
    assert all(name.rpartition("/")[2][0] in "st" for name in some)


def test_the_standard_library_is_source_without_tests():
    corpus = find_corpus("python-stdlib")
    root = Path(sysconfig.get_paths()["stdlib"])
    everything = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
    skipped = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "pydoc_data"}
    expected = sorted(name for name in everything if not skipped & set(name.split("/")[:-1]))
    assert names(corpus) == expected
    assert len(corpus.sources) > 500
    assert corpus.num_bytes == sum(everything[name].stat().st_size for name in expected)


@pytest.mark.parametrize("missing", ["nowhere", "nowhere/*.txt", "python-stdlibs"])
def test_a_missing_path_is_one_line_that_names_the_key(folder, missing):
    with pytest.raises(MissingCorpusError, match=r"^\[data\].corpus: expected .*, got ") as caught:
        find_corpora(CorpusConfig(corpus=str(folder / missing)))
    assert len(caught.value.lines) == 1
    with pytest.raises(MissingCorpusError, match=r"^\[data\].validation_corpus: "):
        find_corpora(CorpusConfig(corpus=str(folder), validation_corpus=str(folder / missing)))


def test_nothing_that_matches_is_an_error_that_shows_what_there_is(folder):
    with pytest.raises(DataError, match=r"\['\*.rst'\] in .*, got 3 .txt, 1 .md, 1 .py$"):
        find_corpus(str(folder), ["*.rst"])
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match="got no files"):
        find_corpus(str(folder / "empty"))
    (folder / "empty" / "x.gz").write_bytes(b"\0")
    with pytest.raises(DataError, match="all of them are binary"):
        find_corpus(str(folder / "empty"))


def test_validation_files_do_not_train(folder):
    corpora = find_corpora(CorpusConfig(corpus=str(folder), validation_corpus=str(folder / "a")))
    assert names(corpora.main) == ["a.txt", "b.txt", "c.py"]
    assert names(corpora.validation) == ["b/ü.md", "z.txt"]
    with pytest.raises(DataError, match="belong to"):
        find_corpora(CorpusConfig(corpus=str(folder / "a"), validation_corpus=str(folder)))


def test_the_summary_notices_what_changes(folder):
    def summary():
        return find_corpus(str(folder)).summary()

    seen = [summary()]
    (folder / "b.txt").write_text("more text than there was before")
    seen.append(summary())
    (folder / "b.txt").rename(folder / "bb.txt")
    seen.append(summary())
    (folder / "bb.txt").unlink()
    seen.append(summary())
    assert len(set(seen)) == 4
    assert summary() == seen[-1]


def test_reading_says_what_went_wrong(folder):
    path = str(folder / "b.txt")
    assert read_bytes(path, 5, 7) == b"of"
    with pytest.raises(DataError, match="has become shorter"):
        read_bytes(path, 5, 700)
    with pytest.raises(DataError, match=r"gone\.txt: cannot be read: No such file"):
        read_bytes(str(folder / "gone.txt"), 0, 1)


def test_a_file_that_was_written_to_is_noticed_though_its_size_stays(folder):
    config = CorpusConfig(corpus=str(folder), validation_corpus=str(folder / "a"))
    seen = {find_corpora(config).times()}
    assert find_corpora(config).times() in seen
    for name in ("b.txt", "a/z.txt"):
        path = folder / name
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
        seen.add(find_corpora(config).times())
    assert len(seen) == 3


def test_what_would_be_replaced_is_found_by_any_name(folder, tmp_path):
    (tmp_path / "link.md").symlink_to(folder / "a/b/ü.md")
    corpora = find_corpora(CorpusConfig(corpus=str(folder), validation_corpus=str(folder / "b.txt")))
    refuse_overlap(corpora, [], "[data].token_dir")
    refuse_overlap(corpora, [tmp_path / "new", tmp_path / "no such" / "file", folder], "[data].token_dir")
    for path in (folder / "a.txt", folder / "b.txt", tmp_path / "link.md"):
        with pytest.raises(ConfigError, match=r"^\[data\]\.token_dir: .* would be replaced") as caught:
            refuse_overlap(corpora, [tmp_path / "new", path], "[data].token_dir")
        assert os.path.realpath(path) in caught.value.lines[0]


def test_what_this_package_hides_in_a_folder_is_not_counted(folder):
    for name in (".lock", ".unfinished/train.memmap"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    assert find_corpus(str(folder)).num_hidden == 0
