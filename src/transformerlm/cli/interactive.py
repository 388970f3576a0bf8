"""Interactive generation in a terminal: a prompt in, a text out, until Ctrl-D.

Ctrl-C ends the text that is being written, or discards the line that is being typed, never the program.
Lines are edited with Python's readline module where it exists; pasted texts may have several lines.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import signal
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

from transformerlm.cli.arguments import parse_value
from transformerlm.cli.standard_streams import print_text
from transformerlm.config import GenerationConfig
from transformerlm.errors import ConfigError
from transformerlm.infer import Completion, Continuation, check_prompts, cut_prompts_warning, start
from transformerlm.language_model import LanguageModel
from transformerlm.logging.terminal import say
from transformerlm.nn import num_parameters
from transformerlm.schema import NonNegativeInt, SchemaError, field_docs, field_types, unknown
from transformerlm.schema.values import convert

FIXED: dict[str, Any] = {"prompts": (), "num_samples": 1, "log_probs": False}
"""Keys of [generation] that have no effect here."""

HELP = """\
a line        is continued; one that ends in \\ goes on in the next; "//" begins one that begins with "/"
/again        another text after the same prompt
/more         go on where the last text ends
/seed N       of the next text; each text after it has the next one
/KEY VALUE    change a setting; /KEY alone says what it is and means
/help  /quit  this; the end, as Ctrl-D. Ctrl-C stops a text"""


class Interrupts:
    """Ctrl-C handler: raises KeyboardInterrupt while a line is being read, and otherwise only notes it.

    Attributes:
        came: whether Ctrl-C came since the last line was read.
    """

    def __init__(self) -> None:
        self.came = False
        self._is_reading = False

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handle SIGINT until the block ends."""
        previous = signal.signal(signal.SIGINT, self._note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def read_line(self, prompt: str) -> str | None:
        """Return a line of stdin, or None if Ctrl-C discarded it.

        Raises:
            EOFError: at the end of stdin.
        """
        try:
            self.came, self._is_reading = False, True
            line = input(prompt)
            self._is_reading = False
        except KeyboardInterrupt:
            return None
        finally:
            self._is_reading = False
        return line

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        self.came = True
        if self._is_reading:
            raise KeyboardInterrupt


class Session:
    """A model, its settings of generation, and the last prompt and text.

    Args:
        seed: seed of the first text; each further text has the next one.
    """

    help = HELP

    def __init__(self, lm: LanguageModel, generation: GenerationConfig, seed: int) -> None:
        self.lm = lm
        self.generation = dataclasses.replace(generation, **FIXED)
        self.seed = seed
        self.prompt = self.text = ""
        self.interrupts = Interrupts()
        self.commands: dict[str, Callable[[str], None]] = {
            "help": self._help,
            "again": lambda value: self.write(self.prompt),
            "more": lambda value: self.write(self.prompt + self.text),
            "seed": self._set_seed,
        }

    def run(self) -> None:
        """Read and answer lines until the end of stdin, or /quit.

        Raises:
            ConfigError: a setting names a special token that the tokenizer does not have.
        """
        check_prompts(self.lm.tokenizer, self.generation)
        with contextlib.suppress(ImportError):  # `input` uses it once it is imported
            importlib.import_module("readline")
        say(f"{num_parameters(self.lm.model.config):,} parameters, on {self.lm.runtime}; /help, /quit")
        with self.interrupts.handled(), contextlib.suppress(EOFError):
            while (line := self._read()) not in ("/quit", "/exit"):
                self.answer(line)
            return
        print_text("\n")

    def answer(self, line: str) -> None:
        """Carry out one line; print what is wrong with it."""
        try:
            if line.startswith("/") and not line.startswith("//"):
                self._command(*line[1:].rstrip().partition(" ")[::2])
            elif line:
                self.write(line.removeprefix("/") if line.startswith("//") else line)
        except SchemaError as error:
            say("\n".join(f"/{problem.key[-1]}: {problem.what}" for problem in error.problems))
        except ConfigError as error:
            say(str(error))

    def write(self, prompt: str) -> None:
        """Continue a prompt on stdout, with the next seed; Ctrl-C ends the text."""
        generation = dataclasses.replace(self.generation, prompts=(prompt,))
        texts = start(self.lm.tokenizer, generation)
        if warning := cut_prompts_warning(texts, self.lm.model.config.context_length):
            say(warning)
        self.prompt, self.text = prompt, self.show(generation, texts[0], prompt)

    def show(self, generation: GenerationConfig, text: Continuation, begun: str) -> str:
        """Write a text on stdout behind its beginning, with the next seed; return what came behind it."""
        started, seed = time.perf_counter(), self.seed
        self.seed = seed + 1
        print_text(begun)
        for _, piece in self.lm.extend(generation, [text], seed):
            print_text(piece)
            if self.interrupts.came:
                print_text(text.end())
                break
        completion = text.completion()
        print_text("" if (begun + completion.text).endswith("\n") else "\n")
        say(_summary(completion, self.interrupts.came, seed, time.perf_counter() - started))
        return completion.text

    def _read(self) -> str:
        """Return the next line with its continuation lines; "" if Ctrl-C discarded it."""
        line, lead = "", "> "
        while True:
            part = self.interrupts.read_line(lead)
            if part is None:
                print_text("\n")
                return ""
            line += part
            if not line.endswith("\\"):
                return line
            line, lead = line[:-1] + "\n", ". "

    def _command(self, name: str, value: str) -> None:
        keys = [key for key in field_types(GenerationConfig) if key not in FIXED]
        if name in self.commands:
            self.commands[name](value.strip())
        elif name not in keys:
            say(f"/{name}: {unknown(name, [*self.commands, 'quit', *keys], 'command')}")
        elif value:
            self._set(name, value)
        else:
            say(f"{name} = {getattr(self.generation, name)!r}: {field_docs(GenerationConfig)[name]}")

    def _set(self, key: str, value: str) -> None:
        given: Any = "" if value == '""' else parse_value(value, field_types(GenerationConfig)[key])
        changed = dataclasses.replace(self.generation, **{key: given})
        check_prompts(self.lm.tokenizer, changed)
        self.generation = changed

    def _set_seed(self, value: str) -> None:
        seed, what = convert(parse_value(value, NonNegativeInt), NonNegativeInt)
        if value and what:
            say(f"/seed: {what}")
            return
        self.seed = seed if value else self.seed
        say(f"seed = {self.seed}")

    def _help(self, value: str) -> None:
        keys = [key for key in field_types(GenerationConfig) if key not in FIXED]
        settings = [f"{key} = {getattr(self.generation, key)!r}" for key in keys]
        say("\n".join([self.help, "", f"seed = {self.seed}", *settings]))


def _summary(completion: Completion, was_stopped: bool, seed: int, seconds: float) -> str:
    reason = "stopped" if was_stopped else completion.finish_reason
    num_tokens = len(completion.token_ids)
    return f"[seed {seed}: {num_tokens} tokens, {num_tokens / seconds:.0f} a second, {reason}]"
