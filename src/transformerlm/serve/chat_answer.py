"""Answers in a conversation: from the events of a job to OpenAI's JSON in chat form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from transformerlm.evaluation.tokens import TokenScore
from transformerlm.serve.answer import Answer, Choice, Json, token_text
from transformerlm.serve.job import Event, Job
from transformerlm.tokenizer import Tokenizer


class ChatChoice(Choice):
    """One answer of several."""

    def __init__(self, job: Job, index: int, tokenizer: Tokenizer) -> None:
        super().__init__(job, index, tokenizer)
        self._tokenizer, self._is_begun = tokenizer, False

    def pieces(self, event: Event) -> Iterator[Json]:
        """Yield what an event adds to the answer; before the first one, the role."""
        # Not before there is an event: until the first one, an error has a status of its own.
        if not self._is_begun:
            self._is_begun = True
            yield chat_piece(self._index, {"role": "assistant", "content": ""}, None, None)
        token, log = event.token, None
        # The token that ends an answer is no part of it.
        if token is not None and token.log_prob is not None and not token.is_end:
            log = [token_log(self._tokenizer, token.id, TokenScore(token.log_prob, token.alternatives))]
        reason = "stop" if event.finish_reason == "eos" else event.finish_reason
        if event.piece or log or reason:
            delta = {"content": event.piece} if event.piece else {}
            yield chat_piece(self._index, delta, log, reason)


class ChatAnswer(Answer):
    """The answer to a request in chat form, while it grows."""

    prefix, kind, kind_of_chunk = "chatcmpl", "chat.completion", "chat.completion.chunk"

    @property
    def choice_class(self) -> type[Choice]:
        """The class of its choices."""
        return ChatChoice

    def joined(self, index: int, pieces: Sequence[Json]) -> Json:
        """Return a choice made of its pieces."""
        content = "".join(piece["delta"].get("content", "") for piece in pieces)
        logs = [piece["logprobs"]["content"] for piece in pieces if piece["logprobs"] is not None]
        is_logged = self._job.fields.logprobs is not None
        log = {"content": [entry for one in logs for entry in one], "refusal": None} if is_logged else None
        message = {"role": "assistant", "content": content, "refusal": None}
        reason = pieces[-1]["finish_reason"]
        return {"index": index, "message": message, "logprobs": log, "finish_reason": reason}


def chat_piece(index: int, delta: Json, log: list[Json] | None, finish_reason: str | None) -> Json:
    """Return a piece of a choice in OpenAI's form."""
    logprobs = None if log is None else {"content": log, "refusal": None}
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}


def token_log(tokenizer: Tokenizer, token_id: int, score: TokenScore) -> Json:
    """Return what the answer says of a token, and of the likeliest ones at its place."""

    def entry(own_id: int, log_prob: float) -> dict[str, Any]:
        content = list(tokenizer.decode_bytes([own_id]))
        return {"token": token_text(tokenizer, own_id), "logprob": log_prob, "bytes": content}

    best = [entry(*one) for one in score.alternatives]
    return {**entry(token_id, score.log_prob), "top_logprobs": best}
