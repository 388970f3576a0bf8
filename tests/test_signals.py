import os
import signal
import threading

import pytest

from transformerlm.signals import StopSignals


@pytest.fixture(autouse=True)
def hangups_are_heeded():
    """Though the tests may have been started by `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_nohup_is_respected():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.received is None


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_the_first_signal_is_remembered(number, status):
    before = signal.getsignal(number)
    with StopSignals() as stop:
        assert stop.exit_status == 0
        os.kill(os.getpid(), number)
        assert stop.received == number
        assert stop.exit_status == status
    assert signal.getsignal(number) is before


@pytest.fixture
def python_s_own_handler():
    """Of SIGINT, which a job that a shell has started in the background ignores."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("python_s_own_handler")
def test_a_second_signal_acts_at_once():
    with pytest.raises(KeyboardInterrupt), StopSignals():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_outside_the_main_thread_it_changes_nothing():
    seen = []

    def enter():
        with StopSignals() as stop:
            seen.append(stop.received)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [None]
