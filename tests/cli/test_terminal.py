import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

SCRIPT = """
import time
from transformerlm.cli.terminal import Terminal

terminal = Terminal()
with terminal.bar(2_000_000, "B", "encoding") as bar:
    bar.update(1_000_000)
    time.sleep(0.2)
    terminal.say("half of it")
    bar.update(1_000_000)
"""


def test_a_pipe_gets_the_messages_and_no_bar():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "half of it\n")


def test_a_terminal_gets_a_bar_in_bytes_per_second_and_messages_above_it():
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=follower) as process:
        os.close(follower)
        shown = b""
        while True:
            try:
                block = os.read(leader, 4096)
            except OSError:  # Linux's way to say that the other end is closed
                block = b""
            if not block:
                break
            shown += block
        assert process.stdout.read() == b""
    os.close(leader)
    text = shown.decode()
    assert "half of it\r\n" in text
    assert "encoding: 100%" in text
    assert "MB/s" in text
    assert "2.00M" in text
