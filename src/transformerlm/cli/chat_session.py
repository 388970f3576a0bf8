"""A conversation in a terminal: a message in, an answer out, until Ctrl-D."""

from __future__ import annotations

import dataclasses
from typing import Any

from transformerlm.cli.interactive import Session
from transformerlm.config import InferConfig
from transformerlm.infer import cut_prompts_warning
from transformerlm.infer.chat import ChatFormat, Conversation
from transformerlm.infer.completion import start_encoded
from transformerlm.language_model import LanguageModel
from transformerlm.logging.terminal import say

HELP = """\
a line        is a message; one that ends in \\ goes on in the next; "//" begins one that begins with "/"
/again        another answer to the last message
/more         go on with the last answer
/new          begin another conversation
/system TEXT  what the model is told first; begins another conversation
/seed N       of the next answer; each answer after it has the next one
/KEY VALUE    change a setting; /KEY alone says what it is and means
/help  /quit  this; the end, as Ctrl-D. Ctrl-C stops an answer, which stays part of the conversation"""


class ChatSession(Session):
    """A model, and the conversation with it."""

    help = HELP

    def __init__(self, lm: LanguageModel, chat: ChatFormat, config: InferConfig) -> None:
        super().__init__(lm, chat.settings(config.generation), config.runtime.seed)
        self._chat = chat
        self._system = config.infer.system_prompt
        self._variables = config.infer.template_variables() or {}
        self.messages: list[dict[str, Any]] = []
        self.commands |= {
            "again": lambda value: self._again(),
            "more": lambda value: self._more(),
            "new": lambda value: self._begin(self._system),
            "system": self._begin,
        }

    def write(self, prompt: str) -> None:
        """Answer a message on stdout, with the next seed; Ctrl-C ends the answer.

        Raises:
            ConfigError: the template refuses the message, which is then forgotten.
        """
        self._answer([*self.messages, {"role": "user", "content": prompt}])

    def _answer(self, messages: list[dict[str, Any]]) -> None:
        """Answer, or go on with the last message if it is an answer; remember both."""
        conversation = Conversation(messages, variables=self._variables).behind(self._system)
        prompt = self._chat.encode(conversation)
        generation = dataclasses.replace(self.generation, prompts=("",))
        texts = start_encoded(self.lm.tokenizer, generation, [prompt])
        if warning := cut_prompts_warning(texts, self.lm.model.config.context_length):
            say(f"{warning}; /new begins another conversation")
        begun = messages.pop()["content"] if conversation.goes_on else ""
        text = self.show(generation, texts[0], begun)
        self.messages = [*messages, {"role": "assistant", "content": begun + text}]

    def _again(self) -> None:
        if not self.messages:
            say("/again: expected a message before it, got none")
            return
        self._answer(self.messages[:-1])

    def _more(self) -> None:
        if not self.messages:
            say("/more: expected an answer before it, got none")
            return
        self._answer(list(self.messages))

    def _begin(self, system: str) -> None:
        self._system, self.messages = system, []
        say(f"another conversation{f', after: {system}' if system else ''}")
