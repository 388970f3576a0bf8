import gzip
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
    settings,
)
from transformerlm.data.kinds import REASONS
from transformerlm.errors import ConfigError, DataError


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "my texts"
    for name in ("b.txt", "a/z.txt", "a.txt", "a/b/ü.md", "c.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"text of {name}\n")
    return root


def find(corpus, *include):
    return find_corpus(str(corpus), CorpusConfig(**({"include": include} if include else {})))


def names(corpus):
    return [source.name for source in corpus.sources]


def test_a_folder_is_read_through_in_the_order_of_names(folder):
    corpus = find(folder)
    assert names(corpus) == ["a.txt", "a/b/ü.md", "a/z.txt", "b.txt", "c.py"]
    assert all(Path(source.path).stat().st_size == source.num_bytes for source in corpus.sources)
    assert corpus.num_bytes == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_include_chooses_by_name(folder):
    assert names(find(folder, "*.md", "a*")) == ["a.txt", "a/b/ü.md"]
    assert names(find(folder, "[bz].*")) == ["a/z.txt", "b.txt"]


def test_what_is_hidden_or_binary_is_not_read_but_named(folder):
    (folder / ".hidden").write_text("x")
    (folder / "a" / ".git").mkdir()
    (folder / "a" / ".git" / "config").write_text("x")
    (folder / "image.png").write_bytes(b"\x89PNG\0")
    (folder / "late.txt").write_bytes(b"x" * 8192 + b"\0")
    corpus = find(folder)
    assert names(corpus) == ["a.txt", "a/b/ü.md", "a/z.txt", "b.txt", "c.py", "late.txt"]
    assert corpus.left_out == {"hidden": [".hidden", "a/.git"], "binary": ["image.png"]}
    hidden, binary = corpus.notes()
    assert hidden.startswith("not read: hidden: 2 (.hidden, a/.git)")
    assert binary == "not read: binary: 1 (image.png); a NUL byte is among the first 8 KiB"


def test_of_many_the_first_are_named_in_printable_characters(folder):
    for number in range(12):
        (folder / f"{number:02}\n\x1b[31m.lz4").touch()
    (line,) = find(folder).notes()
    shown = ", ".join(rf"{number:02}\n\x1b[31m.lz4" for number in range(10))
    assert line.startswith(f"not read: {REASONS['compressed'].what}: 12 ({shown}, ...); ")


def test_links_are_followed_but_not_in_circles(folder):
    (folder / "a" / "up").symlink_to(folder)
    (folder / "self").symlink_to(folder / "self")
    (folder / "gone.txt").symlink_to(folder / "nothing")
    (folder.parent / "elsewhere").mkdir()
    (folder.parent / "elsewhere" / "e.txt").write_text("x")
    (folder / "link").symlink_to(folder.parent / "elsewhere")
    corpus = find(folder)
    assert names(corpus) == ["a.txt", "a/b/ü.md", "a/z.txt", "b.txt", "c.py", "link/e.txt"]
    assert corpus.left_out == {"link": ["a/up/"], "broken": ["gone.txt", "self"]}
    assert find(folder, "*.txt").left_out == {"link": ["a/up/"], "broken": ["gone.txt"]}
    assert find(folder, "*.md").left_out == {"link": ["a/up/"]}


@pytest.mark.parametrize("is_glob", [False, True])
def test_a_file_of_several_names_is_read_once(folder, is_glob):
    """By the name that is no link, if there is one: its suffix may say what it is."""
    (folder / "0.txt").symlink_to(folder / "b.txt")
    (folder / "a" / "0.txt").symlink_to(folder / "b.txt")
    os.link(folder / "a.txt", folder / "z.txt")
    corpus = find(folder / "**" / "*.txt" if is_glob else folder)
    found = {name.removeprefix(f"{folder}/") for name in names(corpus)}
    assert found - {"a/b/ü.md", "c.py"} == {"a.txt", "a/z.txt", "b.txt"}
    left_out = [name.removeprefix(f"{folder}/") for name in corpus.left_out["link"]]
    assert sorted(left_out) == ["0.txt", "a/0.txt", "z.txt"]


def test_pipes_are_not_waited_for(folder):
    os.mkfifo(folder / "pipe.txt")
    assert "pipe.txt" not in names(find(folder))
    assert find(folder).left_out == {"special": ["pipe.txt"]}
    with pytest.raises(DataError, match=r"not read: pipes, sockets and devices: 1 \(.*pipe\.txt"):
        find(folder / "pipe.txt")


def test_what_this_package_writes_is_no_corpus(folder):
    before = names(find(folder))
    for name in ("out/train.memmap", "out/train.memmap.json", "out/tokenizer/vocab.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    (folder / "out" / "tokenizer" / "merges.txt").write_text("a b")
    (folder / "run").mkdir()
    for name in ("config.toml", "metrics.jsonl", "samples.jsonl"):
        (folder / "run" / name).write_text("{}")
    (folder / "sweep" / "trials").mkdir(parents=True)
    for name in ("sweep.jsonl", "best.toml", "trials/0000.toml"):
        (folder / "sweep" / name).write_text("{}")
    assert names(find(folder)) == before
    assert find(folder).left_out == {
        "output": ["out/tokenizer/", "out/train.memmap", "out/train.memmap.json", "run/", "sweep/"]
    }


def test_a_file_is_a_corpus(folder):
    (source,) = find(folder / "a/b/ü.md").sources
    assert (source.name, source.start) == ("ü.md", 0)


def test_a_byte_order_mark_is_no_text(folder):
    (folder / "b.txt").write_bytes(b"\xef\xbb\xbfhello")
    (source,) = find(folder / "b.txt").sources
    assert (source.start, source.num_bytes) == (3, 8)


def test_globs(folder):
    assert [Path(n).name for n in names(find(folder / "*.txt"))] == ["a.txt", "b.txt"]
    assert len(names(find(folder / "**"))) == 5
    assert find(folder / "**").left_out == {}
    assert names(find(folder / "*", "[bc].*")) == [f"{folder}/b.txt", f"{folder}/c.py"]
    assert find(folder / "*").left_out == {"folder": [f"{folder}/a"]}
    (folder / "strange[1].txt").write_text("x")
    assert names(find(folder / "strange[1].txt")) == ["strange[1].txt"]
    with pytest.raises(DataError, match=r"not read: folders that the glob matches: 1 .*; \*\*/\* at its end"):
        find(folder / "a/[b]")


def test_the_user_s_own_folder(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert len(find("~/my texts").sources) == 5


def test_a_part_of_the_standard_library_can_be_chosen():
    some = names(find("python-stdlib", "[st]*.py"))
    assert "socket.py" in some
    assert all(name.rpartition("/")[2][0] in "st" for name in some)


def test_the_standard_library_is_source_without_tests():
    corpus = find("python-stdlib")
    root = Path(sysconfig.get_paths()["stdlib"])
    everything = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
    skipped = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "pydoc_data"}
    expected = sorted(name for name in everything if not skipped & set(name.split("/")[:-1]))
    assert names(corpus) == expected
    assert corpus.left_out == {}
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
        find(folder, "*.rst")
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match="got no files"):
        find(folder / "empty")
    (folder / "empty" / "x.lz4").write_bytes(b"\0")
    with pytest.raises(DataError, match=r"got 1 \.lz4\n.*not read: compressed .*: 1 \(x\.lz4\); unpack"):
        find(folder / "empty")


def test_validation_files_do_not_train(folder):
    corpora = find_corpora(CorpusConfig(corpus=str(folder), validation_corpus=str(folder / "a")))
    assert names(corpora.main) == ["a.txt", "b.txt", "c.py"]
    assert names(corpora.validation) == ["b/ü.md", "z.txt"]
    with pytest.raises(DataError, match="belong to"):
        find_corpora(CorpusConfig(corpus=str(folder / "a"), validation_corpus=str(folder)))


def test_the_summary_notices_what_changes(folder):
    def summary():
        return find(folder).summary()

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
    assert find(folder).left_out == {}


def test_all_has_to_be_read_where_that_is_asked_for(folder):
    (folder / ".hidden").write_text("x")
    (folder / "again.txt").hardlink_to(folder / "a.txt")
    config = CorpusConfig(corpus=str(folder), require_all=True)
    assert len(find_corpora(config).main.sources) == 5
    (folder / "d.lz4").write_bytes(b"\4\x22\x4d\x18")
    (folder / "e.csv").write_text("id,body\n1,x\n")
    with pytest.raises(DataError) as caught:
        find_corpora(config)
    first, *lines = caught.value.lines
    assert first.startswith("[data].corpus: expected files that can all be read, as [data].require_all asks")
    assert [line.partition("(")[2].partition(")")[0] for line in lines] == [
        "d.lz4",
        'e.csv: expected a column "text", got only id, body',
    ]
    assert len(find(folder).sources) == 5


def test_compressed_files_keep_the_place_of_the_text_in_them(folder):
    for name in ("a.txt", "b.txt"):
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
    (folder / "b.txt").unlink()
    (folder / "a.txt-x").write_text("x")
    corpus = find(folder)
    assert names(corpus) == ["a.txt", "a.txt.gz", "a.txt-x", "a/b/ü.md", "a/z.txt", "b.txt.gz", "c.py"]
    (note,) = corpus.notes()
    assert note.startswith("read beside files of the same name without the suffix: 1 (a.txt.gz); ")


def test_the_summary_of_plain_text_is_that_of_earlier_versions(folder):
    (folder / "d.jsonl").write_text('{"text": "x"}\n')
    (folder / "e.json").write_text('{"text": "x"}\n')
    assert find(folder).summary() == "7 files, 103 bytes, names and sizes 4c7c91bb5b2984b9"


def test_a_corpus_is_named_after_the_text_in_a_compressed_file():
    named = {"x/book.txt.gz": "book", "x/book.zst": "book", "My Books": "My-Books", ".gz": "gz"}
    for path, name in named.items():
        assert CorpusConfig(corpus=path).corpus_name == name


def test_the_older_name_of_the_field_still_holds():
    for values in (
        {"text_field": "body"},
        {"jsonl_field": "body"},
        {"jsonl_field": "text", "text_field": "body"},
    ):
        config = CorpusConfig(**values)
        assert config.field_name == "body"
        assert settings(config)["[data].jsonl_field"] == "body"
        assert "[data].text_field" not in settings(config)
    assert CorpusConfig().field_name == settings(CorpusConfig())["[data].jsonl_field"] == "text"
    with pytest.raises(ConfigError, match=r"jsonl_field: expected text_field = \"one\" alone"):
        CorpusConfig(text_field="one", jsonl_field="two")
