"""Continuous batching: texts join and leave a running batch at every step.

A text that has ended gives its row to one that waits. Each text has settings of its own, and is what it would
be alone: its random numbers are those of its own seed and row (see generate.py).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

from transformerlm.errors import NumericalError
from transformerlm.infer.generate import (
    NOT_A_TOKEN,
    NUMBERS_AT_A_TIME,
    DecodingSettings,
    Ids,
    NewToken,
    check_memory,
    check_prompt_ids,
    evaluation_mode,
    fill_gaps,
    seen_ids,
)
from transformerlm.infer.running_batch import RunningBatch
from transformerlm.infer.sampling import RandomStream, Sampling, log_probabilities, sample_rows
from transformerlm.kernels.dispatch import compute_on_one_thread_after_forks
from transformerlm.ngrams import TextMemory, mixed_logits
from transformerlm.nn import TransformerLM
from transformerlm.nn.fused import uses_kernels, with_kernels

K = TypeVar("K", bound=Hashable)
LogProbs = dict[K, tuple[float, tuple[tuple[int, float], ...]]]
"""Log-probability of a text's new token, and of the likeliest ones, by the text's key."""


class _Text(Generic[K]):
    """A text that waits or is being written.

    Args:
        key: its name for the caller.
        owner: the request that it belongs to.
    """

    def __init__(self, key: K, owner: Hashable, prompt_ids: Ids, settings: DecodingSettings) -> None:
        self.key, self.owner, self.settings = key, owner, settings
        self.prompt_ids = [int(token_id) for token_id in prompt_ids]
        self.num_new = 0
        self.joined_at = 0.0
        """`time.perf_counter()` when it got its row."""
        self.seen: Tensor | None = None
        """BoolTensor [vocabulary]: ids that occur in it; None without a repetition penalty."""
        self.memory: TextMemory | None = None
        """What it has in memory; None without a memory of n-grams."""
        self._stream: RandomStream | None = None
        self._uniforms: list[float] = []

    def join(self, vocab_size: int, device: torch.device) -> None:
        """Prepare what is needed once it has a row."""
        self.joined_at = time.perf_counter()
        self._stream = RandomStream(self.settings.seed, self.settings.first_row)
        if self.settings.sampling.repetition_penalty != 1:
            self.seen = seen_ids([self.prompt_ids], vocab_size)[0].to(device)
        if self.settings.ngrams:
            self.memory = self.settings.ngrams.text(self.prompt_ids)

    def next_uniform(self) -> float:
        """Return the random number of the next step."""
        assert self._stream is not None
        if not self._uniforms:
            self._uniforms = self._stream.next(NUMBERS_AT_A_TIME).tolist()[::-1]
        return self._uniforms.pop()


class ContinuousBatch(Generic[K]):
    """Texts that are written together, while others wait for a row.

        batch = ContinuousBatch(model, 64)
        batch.submit("a", ids, DecodingSettings(max_new_tokens=100, seed=1))
        while batch:
            for key, token in batch.step().items(): ...

    Rows go to the owner that has the fewest, and among the texts of an owner to the one that came first: who
    asks for many texts at once does not keep others waiting for all of them.

    Args:
        model: in evaluation mode during each step, and otherwise unchanged.
        num_rows: largest number of texts that are written at a time.
        kernels: see `generate.Options`.
    """

    def __init__(self, model: TransformerLM, num_rows: int, *, kernels: bool = False) -> None:
        compute_on_one_thread_after_forks()
        if kernels and model.final_norm.weight.device.type == "cpu" and not uses_kernels(model):
            model = with_kernels(model)
        self._model, self._uses_kernels = model, uses_kernels(model)
        with torch.inference_mode():
            self._batch = RunningBatch(model, num_rows)
        self._waiting: dict[Hashable, deque[_Text[K]]] = {}
        self._num_rows_of: dict[Hashable, int] = {}
        self._joining: list[_Text[K]] = []
        """Texts whose prompts are being read."""
        self._writing: list[_Text[K]] = []
        """Texts in the order of the batch's rows."""
        self._texts: dict[K, _Text[K]] = {}
        self._new_ids: list[tuple[Tensor, list[int]]] = []
        """What the last steps have drawn, for all rows."""

    def __contains__(self, key: K) -> bool:
        """Return True while a text has not ended."""
        return key in self._texts

    def __len__(self) -> int:
        """Number of texts that have not ended."""
        return len(self._texts)

    @property
    def num_writing(self) -> int:
        """Number of texts that have a row."""
        return sum(map(self._goes_on, [*self._writing, *self._joining]))

    @property
    def num_shared(self) -> int:
        """Tokens of prompts that were not computed, since another text had begun with them."""
        return self._batch.num_shared

    def submit(
        self, key: K, prompt_ids: Ids, settings: DecodingSettings, owner: Hashable | None = None
    ) -> None:
        """Let a text wait for a row.

        Args:
            settings: of this text; `first_row` is its own row of random numbers. `use_cache` and `kernels`
                are those of the batch.

        Raises:
            ValueError: for a prompt without a token or with an unknown one, or no token to write.
        """
        check_prompt_ids([prompt_ids], self._model.config.vocabulary_rows)
        check_memory(settings.ngrams, self._model.config.vocabulary_rows)
        if settings.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens: expected at least 1, got {settings.max_new_tokens}")
        assert key not in self._texts, "a key names one text"
        self._texts[key] = text = _Text(key, owner, prompt_ids, settings)
        self._waiting.setdefault(owner, deque()).append(text)

    def remove(self, key: K) -> None:
        """End a text, wherever it is; its row is free in the next step. Does nothing if it has ended."""
        text = self._texts.pop(key, None)
        queue = self._waiting.get(text.owner) if text else None
        if text and queue and text in queue:
            queue.remove(text)
            if not queue:
                del self._waiting[text.owner]

    def step(self) -> dict[K, NewToken]:
        """Write one token of each text that has a row; return the new tokens. See `steps`."""
        return next(self.steps(), {})

    @torch.inference_mode()
    def steps(self, at_most: int = 1) -> Iterator[dict[K, NewToken]]:
        """Write some tokens of each text that has a row; yield the new tokens of each step. Take all of them.

        The last token of a text is the one that ended it, or number `max_new_tokens`. A text whose prompt is
        still being read has none. Several steps are taken where none is needed to go on: the host then waits
        for the device once. A text that ends among them keeps its row until the last.

        Args:
            at_most: largest number of steps.

        Raises:
            NumericalError: where the model's logits are NaN.
        """
        with evaluation_mode(self._model):
            self._leave()
            self._join()
            if not self._writing and not self._joining:
                return
            logits = self._batch.next_logits()
            num_joined = len(logits) - len(self._writing)
            self._writing += self._joining[:num_joined]
            del self._joining[:num_joined]
            if not self._writing:
                return
            log_probs = self._draw(mixed_logits(logits, self._memories()), at_most)
        now = time.perf_counter()
        for _, host_ids in self._new_ids:
            yield self._tokens(host_ids, log_probs, now)

    def _leave(self) -> None:
        """Free the rows of texts that have ended or were removed, and take in the others' new tokens."""
        for text in [text for text in self._joining if not self._goes_on(text)]:
            self._batch.cancel_reading()
            self._joining.remove(text)
            self._free_row(text)
        if not self._new_ids:
            return
        for text in self._writing:
            if not self._goes_on(text):
                self._free_row(text)
        *before, (new_ids, host_ids) = self._new_ids
        self._new_ids = []
        for earlier_ids, earlier_host_ids in before:  # the rows of all texts hold these already
            self._batch.append(earlier_ids, earlier_host_ids)
        going = fill_gaps([index for index, text in enumerate(self._writing) if self._goes_on(text)])
        self._batch.select(going)
        self._writing = [self._writing[index] for index in going]
        new_ids = new_ids if len(going) == len(host_ids) else new_ids[going]
        self._batch.append(new_ids, [host_ids[index] for index in going])

    def _goes_on(self, text: _Text[K]) -> bool:
        return self._texts.get(text.key) is text

    def _free_row(self, text: _Text[K]) -> None:
        self._num_rows_of[text.owner] -= 1
        if not self._num_rows_of[text.owner]:
            del self._num_rows_of[text.owner]

    def _join(self) -> None:
        """Let texts that wait join the batch, as many as it takes in this step."""
        self._batch.read_on()
        while self._waiting and self._batch.can_begin:
            owner = min(self._waiting, key=lambda owner: self._num_rows_of.get(owner, 0))
            queue = self._waiting[owner]
            if not self._batch.begin(queue[0].prompt_ids):
                return
            text = queue.popleft()
            if not queue:
                del self._waiting[owner]
            self._num_rows_of[owner] = self._num_rows_of.get(owner, 0) + 1
            text.join(self._model.config.vocabulary_rows, self._batch.device)
            self._joining.append(text)

    def _memories(self) -> list[TextMemory | None]:
        return [text.memory for text in self._writing]

    def _draw(self, logits: Tensor, at_most: int) -> LogProbs[K]:
        """Draw the next tokens of each text that is being written; return the log-probabilities of the
        first."""
        drawn = [self._drawn(logits)]
        for _ in range(1, self._steps_ahead(at_most)):
            # What is not a token is found below; looked up in the embedding it would end the process.
            drawn.append(self._drawn(self._batch.logits_after(drawn[-1].clamp(min=0))))
        host_ids: list[list[int]] = torch.stack(drawn).tolist()  # host sync: a text may end at its token
        if any(NOT_A_TOKEN in ids for ids in host_ids):
            raise NumericalError("the model's logits are not numbers (NaN): no text can be drawn from them")
        self._new_ids = [*zip(drawn, host_ids, strict=True)]
        return self._log_probs(logits, drawn[0])

    def _steps_ahead(self, at_most: int) -> int:
        """Return the steps, from 1, that need nothing from the host: no text could join or reaches its last
        token before, no window moves, and no text asks for what the host makes of each token."""
        could_join = self._joining or (self._waiting and len(self._writing) < self._batch.num_rows)
        settings = [text.settings for text in self._writing]
        if at_most == 1 or could_join or any(one.log_probs for one in settings):
            return 1
        if any(text.seen is not None or text.memory for text in self._writing):
            return 1
        left = min(text.settings.max_new_tokens - text.num_new for text in self._writing)
        return min(left, self._batch.steps_ahead(at_most))

    def _tokens(self, host_ids: list[int], log_probs: LogProbs[K], now: float) -> dict[K, NewToken]:
        """Return the new tokens of texts that have not ended, and end those that end with them."""
        tokens: dict[K, NewToken] = {}
        for text, token_id in zip(self._writing, host_ids, strict=True):
            if not self._goes_on(text):
                continue
            is_end = token_id in text.settings.end_ids
            log_prob, alternatives = log_probs.get(text.key, (None, ()))
            tokens[text.key] = NewToken(token_id, is_end, log_prob, alternatives, now - text.joined_at)
            text.num_new += 1
            if text.seen is not None:
                text.seen[token_id] = True
            if text.memory:
                text.memory.extend([token_id], counts=False)
            if is_end or text.num_new == text.settings.max_new_tokens:
                del self._texts[text.key]
        return tokens

    def _drawn(self, logits: Tensor) -> Tensor:
        """Return the new id of each text, drawn together for those with equal settings: [texts]."""
        uniforms = torch.tensor(
            [text.next_uniform() for text in self._writing], dtype=torch.float32, device=logits.device
        )
        groups: dict[tuple[Sampling, int | None], list[int]] = {}
        for index, text in enumerate(self._writing):
            groups.setdefault((text.settings.sampling, text.settings.vocab_size), []).append(index)
        if len(groups) == 1:  # all, without copying: a step of a small model takes a tenth of a millisecond
            ((sampling, vocab_size),) = groups
            return self._sampled(logits, sampling, vocab_size, uniforms, range(len(logits)))
        new_ids = torch.empty(len(logits), dtype=torch.long, device=logits.device)
        for (sampling, vocab_size), some in groups.items():
            new_ids[some] = self._sampled(logits[some], sampling, vocab_size, uniforms[some], some)
        return new_ids

    def _sampled(
        self,
        logits: Tensor,
        sampling: Sampling,
        vocab_size: int | None,
        uniforms: Tensor,
        texts: Sequence[int],
    ) -> Tensor:
        """Return the new ids of texts with equal settings: [texts]."""
        seen = self._seen(texts, vocab_size)
        candidates = logits[:, :vocab_size]
        return sample_rows(candidates, sampling, uniforms, seen, kernels=self._uses_kernels)

    def _seen(self, some: Sequence[int], vocab_size: int | None) -> Tensor | None:
        """Return the ids that occur in texts of equal settings, BoolTensor [texts, vocabulary]; or None."""
        rows = [seen[:vocab_size] for index in some if (seen := self._writing[index].seen) is not None]
        return torch.stack(rows) if rows else None

    def _log_probs(self, logits: Tensor, new_ids: Tensor) -> LogProbs[K]:
        """Return the log-probability of the new token, and of the likeliest ones, of texts that want them."""
        some = [index for index, text in enumerate(self._writing) if text.settings.log_probs]
        if not some:
            return {}
        own = logits[some]
        found = log_probabilities(own, new_ids[some]).tolist()
        most = max(self._writing[index].settings.num_alternatives for index in some)
        best = likeliest(own, most, self._writing[some[0]].settings.vocab_size)
        return {
            self._writing[index].key: (log_prob, pairs[: self._writing[index].settings.num_alternatives])
            for index, log_prob, pairs in zip(some, found, best, strict=True)
        }


def likeliest(logits: Tensor, number: int, vocab_size: int | None) -> list[tuple[tuple[int, float], ...]]:
    """Return the likeliest ids of each row with their log-probabilities, nats; all rows sum up to 1.

    Args:
        logits: [rows, vocabulary]; computed in float32 at least.
        vocab_size: only ids below it are returned; None: any.
    """
    if not number:
        return [()] * len(logits)
    scores = logits.float() if logits.dtype != torch.float64 else logits
    log_probs = torch.log_softmax(scores, -1)[:, :vocab_size]
    values, ids = log_probs.topk(min(number, log_probs.shape[-1]))
    return [tuple(zip(*row, strict=True)) for row in zip(ids.tolist(), values.tolist(), strict=True)]
