"""Workers: their devices, their share of the processor, their messages."""

import pytest

from transformerlm.config import RuntimeConfig
from transformerlm.limits import available_cores
from transformerlm.sweep.ends import last_line
from transformerlm.sweep.workers import VISIBLE_DEVICES, launch, own_runtime, slots_of


@pytest.mark.parametrize(
    ("visible", "device", "expected"),
    [
        ("0,2", "auto", ["0", "2", "0", "2"]),
        ("GPU-1f", "cuda", ["GPU-1f", "GPU-1f"]),
        ("0,1", "cpu", [None, None]),
        ("", "auto", [None, None]),
        ("-1", "auto", [None, None]),
    ],
)
def test_each_worker_has_one_device(monkeypatch, visible, device, expected):
    monkeypatch.setenv(VISIBLE_DEVICES, visible)
    slots = slots_of(RuntimeConfig(device=device), workers_per_device=2)
    assert [slot.environment.get(VISIBLE_DEVICES) for slot in slots] == expected


def test_workers_of_a_cpu_share_its_cores():
    for number in (2, 3, 1000):
        (threads,) = own_runtime(slots_of(RuntimeConfig(device="cpu"), number)).values()
        assert threads == max(1, available_cores() // number)
    assert own_runtime(slots_of(RuntimeConfig(device="cpu"), 1)) == {"deterministic": True}


def test_a_worker_with_a_gpu_keeps_its_threads(monkeypatch):
    monkeypatch.setenv(VISIBLE_DEVICES, "0")
    assert own_runtime(slots_of(RuntimeConfig(), 2)) == {}


def test_messages_are_kept_and_the_last_one_is_the_reason(tmp_path):
    messages = tmp_path / "0000.log"
    messages.write_text("before\n")
    process = launch(["no_such_module"], {}, messages)
    assert process.wait() == 1
    assert messages.read_text().startswith("before\n")
    assert "no_such_module" in last_line(messages)


def test_a_reason_is_one_printable_line(tmp_path):
    messages = tmp_path / "0000.log"
    messages.write_bytes(b"x" * 100_000 + b"\n\x1b[2J \xff and\ttabs\n\n")
    assert last_line(messages).isprintable()
    assert last_line(messages).startswith("\\x1b[2J")
    assert last_line(tmp_path / "absent") == ""
