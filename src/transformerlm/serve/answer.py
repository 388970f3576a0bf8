"""Answers: from the events of a job to OpenAI's JSON, piece by piece or whole.

A whole answer is what the pieces of a stream make together.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from transformerlm.evaluation.tokens import TokenScore
from transformerlm.language_model import LanguageModel
from transformerlm.serve.job import Event, Job, num_unseen
from transformerlm.tokenizer import StreamDecoder, Tokenizer

Json = dict[str, Any]


class Answer:
    """The answer to a request, while it grows.

    Args:
        name: of the model.
    """

    prefix, kind, kind_of_chunk = "cmpl", "text_completion", "text_completion"
    """Beginning of the answer's id; its kind, whole and in pieces."""

    @property
    def choice_class(self) -> type[Choice]:
        """The class of its choices."""
        return Choice

    def __init__(self, job: Job, lm: LanguageModel, name: str) -> None:
        self._job, self._lm = job, lm
        self._head: Json = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "object": self.kind,
            "created": int(time.time()),
            "model": name,
            "seed": job.seed,
        }
        self._chunk_head = {**self._head, "object": self.kind_of_chunk}
        self._choices = [self.choice_class(job, index, lm.tokenizer) for index in range(job.num_texts)]

    def beginning(self) -> list[Json]:
        """Return the pieces that need nothing of the model: prompts without scores."""
        return [piece for choice in self._choices for piece in choice.beginning()]

    def pieces(self, events: Iterable[Event]) -> list[Json]:
        """Return the choices of the next chunks."""
        return [piece for event in events for piece in self._choices[event.index].pieces(event)]

    def chunk(self, piece: Json) -> Json:
        """Return an event of the stream."""
        return {**self._chunk_head, "choices": [piece]}

    def usage_chunk(self) -> Json:
        """Return the last event of a stream whose client wants the numbers of tokens."""
        return {**self._chunk_head, "choices": [], "usage": self.usage()}

    def whole(self, pieces: Iterable[Json]) -> Json:
        """Return the whole answer that pieces make."""
        choices = [self.joined(index, own) for index, own in enumerate(self._by_choice(pieces))]
        return {**self._head, "choices": choices, "usage": self.usage()}

    def joined(self, index: int, pieces: Sequence[Json]) -> Json:
        """Return a choice made of its pieces."""
        return joined(index, pieces)

    def usage(self) -> Json:
        """Return the numbers of tokens; those of a prompt count once, however many texts it has."""
        prompts = self._job.prompts[:: self._job.fields.n]
        num_read = sum(len(prompt.ids) - prompt.num_before for prompt in prompts)
        num_written = sum(len(text.token_ids) for text in self._job.texts)
        usage = {
            "prompt_tokens": num_read,
            "completion_tokens": num_written,
            "total_tokens": num_read + num_written,
        }
        unseen = num_unseen(self._lm, prompts) if self._job.texts else 0
        return {**usage, "prompt_tokens_unseen": unseen} if unseen else usage

    def _by_choice(self, pieces: Iterable[Json]) -> list[list[Json]]:
        own: list[list[Json]] = [[] for _ in self._choices]
        for piece in pieces:
            own[piece["index"]].append(piece)
        return own


def joined(index: int, pieces: Sequence[Json]) -> Json:
    """Return a choice made of its pieces."""
    logs = [piece["logprobs"] for piece in pieces if piece["logprobs"] is not None]
    log = {key: [value for one in logs for value in one[key]] for key in logs[0]} if logs else None
    text = "".join(piece["text"] for piece in pieces)
    return choice_piece(index, text, log, pieces[-1]["finish_reason"] if pieces else "length")


def choice_piece(index: int, text: str, log: Json | None, finish_reason: str | None) -> Json:
    """Return a choice, or a piece of one, in OpenAI's form."""
    return {"text": text, "index": index, "logprobs": log, "finish_reason": finish_reason}


class Choice:
    """One text of an answer."""

    def __init__(self, job: Job, index: int, tokenizer: Tokenizer) -> None:
        self._job, self._index = job, index
        self._prompt = job.prompts[index]
        self._log = TokenLog(tokenizer) if job.fields.logprobs is not None else None
        self._is_scored = not job.wants_scores
        self._held: list[Event] = []
        """Events of the text that came before the scores of its prompt."""

    def beginning(self) -> Iterator[Json]:
        """Yield the prompt, if it is wanted and needs no scores."""
        if self._job.fields.echo and not self._job.wants_scores:
            yield choice_piece(self._index, self._prompt.text, None, self._prompt_finish)

    def pieces(self, event: Event) -> Iterator[Json]:
        """Yield what an event adds to the text."""
        if event.scores is not None:
            self._is_scored = True
            yield self._scored_prompt(event.scores)
            for held in self._held:
                yield from self._written(held)
        elif self._is_scored:
            yield from self._written(event)
        else:
            self._held.append(event)

    @property
    def _prompt_finish(self) -> str | None:
        return None if self._job.texts else "length"

    def _scored_prompt(self, scores: Sequence[TokenScore]) -> Json:
        assert self._log is not None
        ids, num_before = self._prompt.ids, self._prompt.num_before
        all_scores = [TokenScore(0.0, ()), *scores]
        entries = [
            self._log.entry(token_id, score if place else None)
            for place, (token_id, score) in enumerate(zip(ids, all_scores, strict=True))
            if place >= num_before
        ]
        return choice_piece(self._index, self._prompt.text, as_columns(entries), self._prompt_finish)

    def _written(self, event: Event) -> Iterator[Json]:
        log = None
        if self._log is not None and event.token is not None and event.token.log_prob is not None:
            score = TokenScore(event.token.log_prob, event.token.alternatives)
            log = as_columns([self._log.entry(event.token.id, score)])
        reason = "stop" if event.finish_reason == "eos" else event.finish_reason
        if event.piece or log or reason:
            yield choice_piece(self._index, event.piece, log, reason)


Entry = tuple[str, float | None, dict[str, float] | None, int]
"""A token's text, its log-probability, those of the likeliest ones, and its place in the text."""


class TokenLog:
    """Tokens of one text, in the order in which they come, with their places in it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._decoder = tokenizer, StreamDecoder(tokenizer)
        self._offset = 0

    def entry(self, token_id: int, score: TokenScore | None) -> Entry:
        """Return what the answer says of a token; without a score, for the first one of a prompt."""
        offset, text = self._offset, token_text(self._tokenizer, token_id)
        self._offset += len(self._decoder.feed(token_id))
        if score is None:
            return text, None, None, offset
        best = dict(score.alternatives)
        # As among the alternatives, to the last bit: a client may look for the largest.
        log_prob = best.setdefault(token_id, score.log_prob)
        return text, log_prob, {token_text(self._tokenizer, one): p for one, p in best.items()}, offset


def as_columns(entries: Sequence[Entry]) -> Json:
    """Return OpenAI's `logprobs`."""
    names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    return dict(zip(names, map(list, zip(*entries, strict=True)), strict=True)) if entries else {
        name: [] for name in names
    }  # fmt: skip


def token_text(tokenizer: Tokenizer, token_id: int) -> str:
    r"""Return a token as text; one that is no text by itself as OpenAI writes it, "bytes:\xe2\x98"."""
    content = tokenizer.decode_bytes([token_id])
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)
