"""The command as a person at a terminal has it: a real process on a pseudo-terminal of its own."""

import codecs
import functools
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from transformerlm.cli.interactive import Session
from transformerlm.config import GenerationConfig, RuntimeConfig
from transformerlm.language_model import LanguageModel

SECONDS = 300


class Person:
    """Types, and reads what the terminal shows."""

    def __init__(self, words, mode="--interactive"):
        self.leader, follower = pty.openpty()
        command = [sys.executable, "-m", "transformerlm.cli.infer", mode, *words]
        self.process = subprocess.Popen(
            command,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TERM": "dumb"},
            # In a session of its own, so that its terminal makes a SIGINT of Ctrl-C.
            preexec_fn=functools.partial(os.login_tty, follower),
        )
        os.close(follower)
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.shown = ""

    def types(self, keys):
        os.write(self.leader, keys.encode())

    def reads(self, until):
        """What is shown up to the first match of `until`, that included."""
        end = time.monotonic() + SECONDS
        while not (found := re.search(until, self.shown)):
            is_ready, _, _ = select.select([self.leader], [], [], max(0, end - time.monotonic()))
            assert is_ready, f"waited for {until!r}, saw {self.shown[-300:]!r}"
            assert self._more(), f"waited for {until!r}, saw the end after {self.shown[-300:]!r}"
        before, self.shown = self.shown[: found.end()], self.shown[found.end() :]
        return before

    def until_it_waits(self):
        """Return once the process sleeps, as it does while it waits for a key."""
        stat = Path(f"/proc/{self.process.pid}/stat")
        if not stat.exists():  # no Linux
            time.sleep(0.5)
            return
        while stat.read_text().rpartition(")")[2].split()[0] != "S":
            time.sleep(0.01)

    def leaves(self):
        """The exit status, and what was shown last."""
        while self._more():
            pass
        return self.process.wait(SECONDS), self.shown

    def ends(self):
        self.process.kill()
        self.process.wait()
        os.close(self.leader)

    def _more(self):
        try:
            block = os.read(self.leader, 4096)
        except OSError:  # Linux's way to say that the other end is closed
            return False
        # The end of a line may be cut in two.
        self.shown = (self.shown + self.decoder.decode(block)).replace("\r\n", "\n")
        return bool(block)


@pytest.fixture
def person(words):
    """One who has just started the command, and sees its first prompt."""
    person = Person(words)
    try:
        person.reads("parameters, on cpu.*\n> ")
        yield person
    finally:
        person.ends()


@pytest.fixture
def words(trained):
    return [
        f"--infer.checkpoint={trained}/runs/fables",
        *("--runtime.device=cpu", "--runtime.dtype=float32", "--runtime.seed=5"),
        *("--generation.eos_token=", "--generation.max_new_tokens=8"),
    ]


@pytest.fixture(scope="module")
def lm(trained):
    return LanguageModel.load(trained / "runs/fables", RuntimeConfig(device="cpu", dtype="float32"))


@pytest.mark.slow
def test_a_conversation_with_ctrl_c_in_the_middle_of_a_text(person, lm):
    def text(prompt, seed, **settings):
        return lm.generate(prompt, seed=seed, eos_token="", **{"max_new_tokens": 8, **settings})

    def printable(shown):
        """Without what an untrained model writes besides text, which terminals take for commands."""
        return re.sub(r"[^ -~]+", "", shown)

    person.types("The fox\n")
    assert printable("The fox" + text("The fox", 5)) in printable(
        person.reads(r"\[seed 5: 8 tokens.*length\]\n> ")
    )

    person.types("/max_new_tokens 1000000\n")
    person.reads("\n> ")
    person.types("A crow\n")
    person.reads("A crow\n(?s:.{50})")
    person.types("\x03")
    stopped = person.reads(r"\[seed 6: \d+ tokens, \d+ a second, stopped\]\n> ")
    assert int(re.search(r"(\d+) tokens", stopped)[1]) > 0

    person.types("/max_new_tokens 8\n/seed 5\nThe fox\n")
    assert printable("The fox" + text("The fox", 5)) in printable(person.reads(r"\[seed 5: 8 tokens.*\]\n> "))
    person.types("half a li")
    person.reads("half a li")
    # A Ctrl-C in the instant before Python waits for the next key would be heeded only with that key.
    person.until_it_waits()
    person.types("\x03")
    person.reads("\n> ")
    person.types("/again\n")
    assert printable("The fox" + text("The fox", 6)) in printable(person.reads(r"\[seed 6: 8 tokens.*\]\n> "))
    person.types("\x04")
    status, shown = person.leaves()
    assert (status, shown) == (0, "\n")


@pytest.fixture
def session(lm):
    return Session(
        lm, GenerationConfig(eos_token="", max_new_tokens=6, num_samples=3, log_probs=True), seed=2
    )


def answer(session, line, capfd):
    session.answer(line)
    return capfd.readouterr()


def test_every_text_has_its_seed_and_can_be_had_again(session, lm, capfd):
    def text(prompt, seed, **settings):
        return prompt + lm.generate(prompt, seed=seed, eos_token="", max_new_tokens=6, **settings)

    out, err = answer(session, "A fox", capfd)
    assert out.rstrip("\n") == text("A fox", 2).rstrip("\n")
    assert re.fullmatch(r"\[seed 2: 6 tokens, \d+ a second, length\]\n", err)
    assert answer(session, "/again", capfd).out.startswith(text("A fox", 3))
    longer = text("A fox", 3)
    assert answer(session, "/more", capfd).out.startswith(text(longer, 4))
    answer(session, "/seed 2", capfd)
    assert answer(session, "//A", capfd).out.startswith(text("/A", 2))
    answer(session, "/temperature 0", capfd)
    assert answer(session, "A\nB", capfd).out.startswith(text("A\nB", 99, temperature=0))
    assert session.generation.num_samples == 1
    assert answer(session, "", capfd) == ("", "")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/temperature hot", '/temperature: expected a number of at least 0, got "hot"'),
        ("/top_p 2", "/top_p: expected a number above 0 and at most 1, got 2"),
        ("/temprature 1", '/temprature: unknown command; did you mean "temperature"?'),
        ("/num_samples 3", "/num_samples: unknown command; "),
        ("/eos_token <x>", "[generation].eos_token: expected a special token of the tokenizer"),
        ("/stop_tokens <x>", "[generation].stop_tokens: expected a special token of the tokenizer"),
        ('/stop ["a", ""]', "/stop: expected strings of at least one character"),
        ("/seed -1", "/seed: expected a whole number of at least 0, got -1"),
        ("/again", '[generation].prompts: expected some text, got ""'),
        ("a\udcff", "/prompts: expected a list, each text, got "),
    ],
)
def test_what_is_asked_wrongly_is_said_in_a_line_and_changes_nothing(session, line, said, capfd):
    before = (session.generation, session.seed)
    out, err = answer(session, line, capfd)
    assert out == ""
    assert err.startswith(said)
    assert err.count("\n") == 1
    assert (session.generation, session.seed) == before


def test_settings_are_shown_and_changed(session, capfd):
    for line, key, value in [
        ("/temperature 0.5", "temperature", 0.5),
        ("/top_k 7", "top_k", 7),
        ("/top_k None", "top_k", None),
        ('/stop ["\\n", "b"]', "stop", ("\n", "b")),
        ("/stop c", "stop", ("c",)),
        ("/eos_token <|endoftext|>", "eos_token", "<|endoftext|>"),
        ('/eos_token ""', "eos_token", ""),
    ]:
        assert answer(session, line, capfd) == ("", "")
        assert getattr(session.generation, key) == value
        assert answer(session, f"/{key}", capfd).err.startswith(f"{key} = {value!r}: ")
    shown = answer(session, "/help", capfd).err
    assert "stop = ('c',)" in shown
    assert "/again" in shown
    assert answer(session, "/seed", capfd).err == "seed = 2\n"


def test_lines_that_end_in_a_backslash_are_one_prompt(session, monkeypatch):
    lines = iter(["one\\", "two\\\\", "three", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    prompts = []
    monkeypatch.setattr(session, "write", prompts.append)
    session.run()
    assert prompts == ["one\ntwo\\\nthree"]
