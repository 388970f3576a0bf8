import threading
import time

import pytest

from transformerlm.data import build_lock
from transformerlm.errors import DataError
from transformerlm.progress import SilentReporter
from transformerlm.storage.files import temporary_beside
from transformerlm.storage.lock import locked


class Listener(SilentReporter):
    def __init__(self):
        self.messages = []

    def say(self, message):
        self.messages.append(message)


def test_it_waits_for_who_holds_the_folder_and_says_so_once(tmp_path, monkeypatch):
    monkeypatch.setattr(build_lock, "POLL_SECONDS", 0.01)
    listener, events = Listener(), []

    def wait():
        with build_lock.build_lock(tmp_path / "tokens", listener):
            events.append("had")

    with locked(tmp_path / "tokens"):
        thread = threading.Thread(target=wait)
        thread.start()
        while not listener.messages:
            time.sleep(0.001)
        events.append("let go")
    thread.join(60)
    assert events == ["let go", "had"]
    (line,) = listener.messages
    assert line.startswith(f"{tmp_path / 'tokens'}: in use by process ")
    assert line.endswith(".lock; waiting")


def test_many_in_turn(tmp_path, monkeypatch):
    """Of all that go in at once, never are two within."""
    monkeypatch.setattr(build_lock, "POLL_SECONDS", 0.001)
    (tmp_path / "train.memmap").touch()  # else the lock would take the folder away with it each time
    within, most = [], []

    def work():
        with build_lock.build_lock(tmp_path, SilentReporter()):
            within.append(1)
            most.append(len(within))
            time.sleep(0.005)
            within.pop()

    threads = [threading.Thread(target=work) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1] * 10


def test_an_error_within_passes_and_lets_go(tmp_path):
    with pytest.raises(DataError), build_lock.build_lock(tmp_path, SilentReporter()):
        raise DataError("x")
    with locked(tmp_path):
        pass


def test_what_killed_ones_have_left_is_removed_and_nothing_else(tmp_path):
    dead = temporary_beside(tmp_path / "train.memmap.json")
    dead = dead.with_name(dead.name.replace(f".{dead.name.split('.')[-2]}.", ".999999999."))
    kept = tmp_path / ".train.memmap.tmp.mine"
    for path in (dead, kept):
        path.write_text("x")
    with build_lock.build_lock(tmp_path, SilentReporter()):
        assert not dead.exists()
        assert kept.exists()
