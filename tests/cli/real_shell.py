"""A real interactive shell on a terminal, in which a line is typed and completed with the Tab key."""

import os
import pty
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

PATIENCE_SECONDS = 60
START = {
    "bash": (
        ["bash", "--noprofile", "--norc", "-i"],
        'source "{script}"; bind -x \'"\\C-t": printf %s "$READLINE_LINE" >"{line}"\'; bind \'"\\C-k": kill-whole-line\'\n',
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        'autoload -U compinit; compinit -D -u; source "{script}"; show() {{ print -rn -- "$BUFFER" >"{line}" }}; '
        "zle -N show; bindkey '^T' show; bindkey '^K' kill-whole-line\n",
    ),
}
"""Shell -> its command without the user's settings, and what it is told first: Control-T then writes the line
that is being typed to a file."""


class RealShell:
    """An interactive shell that has read a completion script.

    Args:
        name: "bash" or "zsh".
        folder: the current folder of the shell; must be empty of a file called `line`.
    """

    def __init__(self, name: str, script: Path, folder: Path) -> None:
        if shutil.which(name) is None:
            pytest.skip(f"no {name} here")
        self.line = folder.parent / f"{folder.name}-{name}-line"
        words, first = START[name]
        self.leader, follower = pty.openpty()
        environment = {**os.environ, "TERM": "dumb", "PS1": "> ", "INPUTRC": os.devnull}
        self.process = subprocess.Popen(
            words,
            stdin=follower,
            stdout=follower,
            stderr=follower,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
        os.close(follower)
        self.shown = b""
        self._type(first.format(script=script, line=self.line))
        assert self.after("ready") == "ready"

    def completed(self, text: str) -> str:
        """Return the line after `text` and a Tab."""
        return self.after(text + "\t")

    def after(self, keys: str) -> str:
        """Return the line after these keys, and begin a new one."""
        self.line.unlink(missing_ok=True)
        self._type(keys + "\x14")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (self.line.exists() and self.line.stat().st_size):
            assert time.monotonic() < deadline, self.shown.decode()
            self._read(0.01)
        time.sleep(0.01)
        self._type("\x0b")
        return self.line.read_text()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.leader)

    def _type(self, keys: str) -> None:
        os.write(self.leader, keys.encode())

    def _read(self, seconds: float) -> None:
        if select.select([self.leader], [], [], seconds)[0]:
            self.shown += os.read(self.leader, 65536)
