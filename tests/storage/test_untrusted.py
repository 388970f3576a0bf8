import os
import socket
from pathlib import Path

import pytest

from transformerlm.errors import CheckpointError
from transformerlm.storage.untrusted import open_regular, printable


def test_only_files_are_opened_and_nothing_is_waited_for(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(tmp_path)  # the path of a socket has to be short
        listener.bind("socket")
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    with open_regular(tmp_path / "link", follow_link=True) as file:
        assert file.read() == b"content"
    with pytest.raises(CheckpointError, match=r"link: expected a file, got a link"):
        open_regular(tmp_path / "link", follow_link=False)
    for name in ("fifo", "folder", "socket"):
        with pytest.raises(CheckpointError, match=f"{name}: expected a file, got a (?i:{name})$"):
            open_regular(tmp_path / name, follow_link=True)
    with pytest.raises(CheckpointError, match="/dev/zero: expected a file, got a device"):
        open_regular(Path("/dev/zero"), follow_link=True)


def test_words_of_a_file_are_no_orders_to_a_terminal():
    assert printable("a\x1b[2J\nb\u202e") == "a\\x1b[2J\\nb\\u202e"
    assert printable("a" * 300) == "a" * 200 + "..."
