"""A real interactive shell on a terminal, in which a line is typed and completed with the Tab key."""

import os
import pty
import select
import shutil
import subprocess
import time

import pytest

PATIENCE_SECONDS = 300
START = {
    "bash": (
        ["bash", "--noprofile", "--norc", "-i"],
        'bind -x \'"\\C-t": printf "%s\\n" "$READLINE_LINE" >"{line}"\'; bind \'"\\C-k": kill-whole-line\'',
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        'autoload -U compinit; compinit -D -u; show() {{ print -r -- "$BUFFER" >"{line}" }}; '
        "zle -N show; bindkey '^T' show; bindkey '^K' kill-whole-line",
    ),
}
"""Shell -> its command without the user's settings, and what it is told first: Control-T then writes the line
that is being typed to a file."""


def require(name):
    """Skip the test where there is no such shell."""
    if shutil.which(name) is None:
        pytest.skip(f"no {name} here")


class RealShell:
    """An interactive shell.

    Args:
        name: "bash" or "zsh".
        folder: the shell's current folder; a file beside it is used.
    """

    def __init__(self, name, folder):
        require(name)
        self.line = folder.with_name(f"{folder.name}-{name}.line")
        words, settings = START[name]
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
        self.run(settings.format(line=self.line))

    def run(self, line):
        """Run a line, and wait for its end."""
        self._type(f"{line}; echo >'{self.line}'\n")
        self._written()

    def completed(self, text):
        """Return the line after `text` and a Tab."""
        self._type(text + "\t\x14")
        line = self._written()
        self._type("\x0b")
        return line

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.leader)

    def _type(self, keys):
        os.write(self.leader, keys.encode())

    def _written(self):
        """Return the line that the shell writes to the file, and remove the file."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (self.line.exists() and self.line.read_text().endswith("\n")):
            assert time.monotonic() < deadline, self.shown.decode()
            if select.select([self.leader], [], [], 0.01)[0]:
                self.shown += os.read(self.leader, 65536)
        line = self.line.read_text().removesuffix("\n")
        self.line.unlink()
        return line
