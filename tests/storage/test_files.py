import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from transformerlm.errors import OutputError
from transformerlm.storage.files import (
    committed_directory,
    committed_file,
    free_bytes,
    remove_dead_temporaries,
    remove_directory,
    require_free_bytes,
    system_error,
    write_files,
)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_file_appears_whole_and_replaces_the_old_one(tmp_path):
    path = tmp_path / "new" / "a.bin"
    for content in (b"first", b"second, longer"):
        with committed_file(path) as file:
            file.write(content)
            file.flush()
            assert not path.exists() or path.read_bytes() == b"first"
        assert path.read_bytes() == content
    assert names(path.parent) == ["a.bin"]


def test_an_error_while_writing_leaves_the_old_file_and_no_temporary(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), committed_file(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_a_folder_appears_in_one_step(tmp_path):
    with committed_directory(tmp_path / "d") as temporary:
        (temporary / "x").write_text("1")
        assert not (tmp_path / "d").exists()
    assert names(tmp_path) == ["d"]
    assert (tmp_path / "d" / "x").read_text() == "1"
    with pytest.raises(FileExistsError), committed_directory(tmp_path / "d"):
        pass


def test_an_error_while_filling_a_folder_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), committed_directory(tmp_path / "d") as temporary:
        (temporary / "x").write_text("1")
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_files_into_a_folder_that_exists_leave_its_other_files_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    write_files(tmp_path, {"a": b"1", "b": b"2"})
    write_files(tmp_path, {"a": b"3"})
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == {
        "a": b"3",
        "b": b"2",
        "mine.txt": b"mine",
    }


def test_the_file_is_on_the_disk_before_the_rename_and_the_rename_before_the_end(tmp_path, monkeypatch):
    calls = []
    real_fsync, real_replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), real_fsync(fd))[1])
    monkeypatch.setattr(
        Path, "replace", lambda self, to: (calls.append("replace"), real_replace(self, to))[1]
    )
    with committed_file(tmp_path / "a") as file:
        file.write(b"1")
    assert calls == ["fsync", "replace", "fsync"]


WRITE = """
import sys
from pathlib import Path
from transformerlm.storage.files import committed_directory, committed_file

here = Path(sys.argv[1])
with committed_file(here / "file") as file, committed_directory(here / "folder") as folder:
    (folder / "member").write_text("half")
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_has_left_is_removed_and_nothing_else(tmp_path):
    mine = [".mine.tmp.1", ".x.tmp.99999999.nothexxx", "a.tmp.99999999.0123abcd", "kept"]
    for name in mine:
        (tmp_path / name).write_text("mine")
    command = [sys.executable, "-c", WRITE, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    killed, alive = (subprocess.Popen(command, **pipes, text=True) for _ in range(2))
    for process in (killed, alive):
        assert process.stdout.readline() == "writing\n"
    killed.kill()
    killed.wait()
    dead = remove_dead_temporaries(tmp_path)
    assert sorted(path.name.split(".tmp.")[0] for path in dead) == [".file", ".folder"]
    assert all(f".tmp.{killed.pid}." in path.name for path in dead)
    assert len(names(tmp_path)) == len(mine) + 2
    alive.communicate("")
    assert names(tmp_path) == sorted([*mine, "file", "folder"])
    assert remove_dead_temporaries(tmp_path) == remove_dead_temporaries(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(30, "Read-only file system", "/a/b"), "/a/b: Read-only file system"),
        (OSError(28, "No space left on device", "x/.b.tmp.12.0123abcd/c"), "x/b/c: No space left on device"),
        (OSError(13, "Permission denied", ".b.tmp.12.0123abcd", None, "b"), "b: Permission denied"),
        (OSError(5, "Input/output error"), "error: Input/output error"),
        (OSError("something else"), "error: something else"),
    ],
)
def test_what_the_system_says_is_about_a_name_that_the_user_knows(error, line):
    assert system_error(error) == line


def test_room_is_asked_for_where_the_file_will_be(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    assert abs(free_bytes(tmp_path / "not" / "there" / "yet") - free) < 2**28
    require_free_bytes(tmp_path / "new", 1, "a byte")
    with pytest.raises(
        OutputError, match=r"new: expected 9,000,000,000,000,000 free bytes for two, got [0-9,]+; "
    ):
        require_free_bytes(tmp_path / "new", 9 * 10**15, "two")


def test_an_empty_folder_is_filled_in_one_step_and_another_is_refused(tmp_path):
    (tmp_path / "d").mkdir()
    write_files(tmp_path / "d", {"a": b"1", "b": b"2"})
    assert names(tmp_path / "d") == ["a", "b"]
    with pytest.raises(FileExistsError), committed_directory(tmp_path / "d"):
        pass


def test_removing_a_folder(tmp_path):
    (tmp_path / "d" / "e").mkdir(parents=True)
    remove_directory(tmp_path / "d")
    assert names(tmp_path) == []
