import faulthandler
import os
import signal
import subprocess
import sys
import threading

import pytest

from transformerlm.signals import StopSignals, warnings_ignored

WARNING_NUMBERS = [signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU]


@pytest.fixture(autouse=True)
def default_actions():
    """Though the tests may have been started by `nohup`, or by what ignores other signals."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGHUP, *WARNING_NUMBERS)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_nohup_is_respected():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.received is None


@pytest.mark.parametrize(
    ("number", "status"),
    [
        *[(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
        *[(number, 128 + number) for number in WARNING_NUMBERS],
    ],
)
def test_the_first_signal_is_remembered(number, status):
    before = signal.getsignal(number)
    with StopSignals() as stop:
        assert stop.exit_status == 0
        os.kill(os.getpid(), number)
        assert stop.received == number
        assert stop.exit_status == status
    assert signal.getsignal(number) is before


IN_A_PROCESS = """
import os, signal
from transformerlm.signals import StopSignals, interrupts_noted
signal.signal(signal.SIGINT, signal.default_int_handler)
"""


def run(code):
    done = subprocess.run([sys.executable, "-c", IN_A_PROCESS + code], capture_output=True, text=True)
    return done.returncode, done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_ends_the_process(number):
    code = f"""
with StopSignals():
    os.kill(os.getpid(), {int(number)})
    print("once", flush=True)
    os.kill(os.getpid(), {int(number)})
    print("twice", flush=True)
"""
    assert run(code) == (-number, "once\n")


def test_warnings_may_be_repeated_and_are_not_the_first_of_two_stops():
    with StopSignals() as stop:
        for number in (signal.SIGUSR2, signal.SIGXCPU, signal.SIGXCPU, signal.SIGTERM, signal.SIGUSR1):
            os.kill(os.getpid(), number)
        assert stop.received == signal.SIGUSR2


def test_a_stop_after_a_warning_and_a_stop_ends_the_process():
    code = """
with StopSignals():
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGTERM)
    print("warned, stopped", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    print("stopped twice", flush=True)
"""
    assert run(code) == (-signal.SIGINT, "warned, stopped\n")


@pytest.mark.parametrize("number", WARNING_NUMBERS)
def test_a_warning_that_the_host_handles_is_its_own(number):
    heard = []
    signal.signal(number, lambda *_: heard.append(number))
    with StopSignals() as stop, warnings_ignored():
        os.kill(os.getpid(), number)
    assert (heard, stop.received) == ([number], None)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_handler_that_python_does_not_know_stays(tmp_path):
    with (tmp_path / "stacks").open("w+") as file:
        faulthandler.register(signal.SIGUSR1, file)
        try:
            for _ in range(2):
                with StopSignals() as stop, warnings_ignored():
                    os.kill(os.getpid(), signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGUSR1)
        finally:
            faulthandler.unregister(signal.SIGUSR1)
        file.seek(0)
        assert (file.read().count("Current thread"), stop.received) == (3, None)


def test_what_is_left_after_a_warning_is_not_cut_short():
    with warnings_ignored():
        for number in WARNING_NUMBERS:
            os.kill(os.getpid(), number)
    assert {signal.getsignal(number) for number in WARNING_NUMBERS} == {signal.SIG_DFL}


def test_afterwards_signals_are_what_they_were():
    code = """
with StopSignals() as stop:
    os.kill(os.getpid(), signal.SIGINT)
print(stop.exit_status, signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""
    assert run(code) == (0, "130 True\n")


def test_an_interrupt_is_noted_also_where_something_else_comes_of_it():
    code = """
with interrupts_noted() as noted:
    try:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            raise RuntimeError("release unlocked lock")
    except RuntimeError:
        print(noted == [signal.SIGINT])
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""
    assert run(code) == (0, "True\nTrue\n")


def test_outside_the_main_thread_it_changes_nothing():
    seen = []

    def enter():
        with StopSignals() as stop:
            seen.append(stop.received)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [None]
