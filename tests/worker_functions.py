"""Functions for worker processes, in a module that is quick to import."""

import os
import signal
import time


def square(x: int) -> int:
    return x * x


def own_process(_: int) -> int:
    return os.getpid()


def own_process_later(_: int) -> int:
    time.sleep(0.05)
    return os.getpid()


def fail_at_three(x: int) -> int:
    if x == 3:
        raise ValueError("three")
    return x


def die(x: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return x
