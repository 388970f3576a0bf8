"""The thread in which the model runs: it steps the batch, scores prompts, and hands over the results.

The event loop never waits for it, and it never waits for a client: results of a text whose client reads
slowly are kept, at most `max_tokens` of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable

from transformerlm.config import ServeSection
from transformerlm.evaluation.tokens import ScoredText, TokenScore, TokenScorer
from transformerlm.infer.continuous import ContinuousBatch
from transformerlm.infer.generate import NewToken
from transformerlm.language_model import LanguageModel
from transformerlm.serve.errors import bad_request, overloaded, stopping, unexpected
from transformerlm.serve.job import Event, Job
from transformerlm.serve.statistics import Statistics
from transformerlm.serve.turns import Turns

MAX_DELIVERIES = 2
"""Steps whose results the event loop may not have taken yet: a fast model waits for it."""
EVENTS_AT_A_TIME = 8
"""Events that the event loop hands out before it looks for other work: sending one takes part of a
millisecond, and with many clients those of a step would keep it from everything else for too long."""
MAX_RETRY_SECONDS = 60

Key = tuple[Job, int]
"""A text: its job, and its index there."""


class _Scoring:
    """A prompt that is being scored, window by window."""

    def __init__(self, job: Job, index: int, text: ScoredText) -> None:
        self.job, self.index, self.text = job, index, text
        self.scores: list[TokenScore] = []


class Engine:
    """Runs jobs on a model.

    `submit`, `cancel`, `num_open` and `turns` belong to the event loop's thread.

    Args:
        lm: the model that writes.
        scorer: the model in the precision in which texts are scored.
    """

    def __init__(self, lm: LanguageModel, scorer: LanguageModel, limits: ServeSection) -> None:
        self.lm, self.limits, self.statistics, self.turns = lm, limits, Statistics(), Turns()
        self._scorer = TokenScorer(scorer)
        self._batch = self._new_batch()
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._scorings: deque[_Scoring] = deque()
        self._jobs: dict[Job, float] = {}
        """Open jobs, with the time at which they came; of the event loop's thread."""
        self._arrived: deque[tuple[Job, Event] | None] = deque()
        """Events that are to be handed out, a None behind those of each step."""
        self._num_open = 0
        """Texts of the open jobs."""
        self._running: dict[Job, int] = {}
        """Texts and scores of each open job that are still to come; of the model's thread."""
        self._outbox: list[tuple[Job, Event]] = []
        self._deliveries = threading.Semaphore(MAX_DELIVERIES)
        self._seconds_per_text = 1.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._is_stopping = False

    def start(self) -> None:
        """Start the model's thread; results go to the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """End the thread and all jobs, each with an error."""
        self._is_stopping = True
        self._commands.put(None)

    def join(self) -> None:
        """Wait for the end of the thread."""
        if self._thread.ident is not None:
            self._deliveries.release(MAX_DELIVERIES)
            self._thread.join()

    @property
    def is_alive(self) -> bool:
        """True while jobs are done."""
        return self._thread.is_alive() and not self._is_stopping

    @property
    def num_open(self) -> int:
        """Number of texts that have been asked for and have not ended."""
        return self._num_open

    def submit(self, job: Job) -> None:
        """Begin a job, or let it wait.

        Raises:
            ApiError: 400 for more texts than may ever wait, 429 for more than may wait now, 503 at the end.
        """
        limits = self.limits
        if not self.is_alive:
            raise stopping()
        if job.num_texts > limits.max_waiting:
            got = f"{job.num_texts} (prompts times n)"
            raise bad_request(f"n: expected at most {limits.max_waiting} texts in a request, got {got}", "n")
        num_waiting = self.num_open - limits.max_batch_size
        if num_waiting + job.num_texts > limits.max_waiting:
            seconds = self._seconds_per_text * max(1, num_waiting) / limits.max_batch_size
            raise overloaded(max(0, num_waiting), min(MAX_RETRY_SECONDS, math.ceil(seconds)))
        self._jobs[job] = time.monotonic()
        self._num_open += job.num_texts
        self.statistics.texts_open = self.num_open
        self.statistics.prompt_tokens += sum(len(prompt.ids) for prompt in job.prompts)
        self._commands.put(lambda: self._begin(job))

    def cancel(self, job: Job) -> None:
        """End a job, if it has not ended: its rows are free in the next step."""
        if self._closed(job) is not None:
            self._commands.put(lambda: self._end(job))

    def _closed(self, job: Job) -> float | None:
        """Remove a job, if it is open; return the time at which it came."""
        came = self._jobs.pop(job, None)
        self._num_open -= 0 if came is None else job.num_texts
        self.statistics.texts_open = self._num_open
        return came

    # The event loop's thread, called by the model's.

    def _hand_out(self, outbox: list[tuple[Job, Event]]) -> None:
        is_idle = not self._arrived
        self._arrived += [*outbox, None]
        if is_idle:
            self._hand_out_some()

    def _hand_out_some(self) -> None:
        """Hand out some events, and go on after whatever else the event loop has to do by then."""
        for _ in range(min(EVENTS_AT_A_TIME, len(self._arrived))):
            arrived = self._arrived.popleft()
            if arrived is None:
                self._deliveries.release()
            else:
                self._put(*arrived)
        if self._arrived:
            asyncio.get_running_loop().call_soon(self._hand_out_some)

    def _put(self, job: Job, event: Event) -> None:
        if job not in self._jobs:
            return
        job.put(event)
        came = self._closed(job) if event.error is not None or not job.num_open else None
        if came is not None:
            self._seconds_per_text += 0.1 * (time.monotonic() - came - self._seconds_per_text)

    def _end_all(self) -> None:
        for job in list(self._jobs):
            job.put(Event(0, error=stopping()))
            self._closed(job)

    # The model's thread.

    def _run(self) -> None:
        try:
            while self._take_commands():
                try:
                    self._step()
                except Exception as error:
                    self._fail(error)
                self._deliver()
        finally:
            self._is_stopping = True
            if self._loop is not None:
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    self._loop.call_soon_threadsafe(self._end_all)

    def _take_commands(self) -> bool:
        """Carry out what the event loop has asked for; wait if there is nothing else to do."""
        while True:
            is_idle = not len(self._batch) and not self._scorings
            try:
                command = self._commands.get(block=is_idle)
            except queue.Empty:
                return True
            if command is None:
                return False
            try:
                command()
            except Exception as error:
                self._fail(error)
                return True  # those whom it concerns are told before anything is waited for

    def _begin(self, job: Job) -> None:
        self._running[job] = job.num_open
        for index, (prompt, settings) in enumerate(zip(job.prompts, job.settings, strict=False)):
            self._batch.submit((job, index), prompt.ids, settings, owner=job)
        if job.wants_scores:
            for index, prompt in enumerate(job.prompts):
                self._scorings.append(_Scoring(job, index, self._scorer.text(prompt.ids)))

    def _end(self, job: Job) -> None:
        self._running.pop(job, None)
        for index in range(len(job.texts)):
            self._batch.remove((job, index))
        self._scorings = deque(one for one in self._scorings if one.job is not job)
        self.statistics.texts_writing = self._batch.num_writing

    def _step(self) -> None:
        """Write a token of each text, and score one window of the prompt whose turn it is."""
        statistics = self.statistics
        if len(self._batch):
            for key, token in self._batch.step().items():
                self._note(key, token)
            statistics.steps += 1
            statistics.shared_tokens = self._batch.num_shared
        statistics.texts_writing = self._batch.num_writing
        if self._scorings:
            self._score(self._scorings.popleft())

    def _note(self, key: Key, token: NewToken) -> None:
        """Note a new token of a text."""
        job, index = key
        text = job.texts[index]
        if not text.token_ids:
            self.statistics.first_tokens += 1
            self.statistics.seconds_to_first_token += token.seconds
        self.statistics.written_tokens += 1
        piece = text.add(token)
        if text.finish_reason is not None:
            self._batch.remove(key)
        elif key not in self._batch:
            piece += text.end()
        self._send(job, Event(index, piece, token, text.finish_reason))

    def _score(self, scoring: _Scoring) -> None:
        """Score the next window of a prompt; the others have their turns before the one after it."""
        if scoring.text.windows:
            found = self._scorer.score(scoring.text, scoring.job.fields.logprobs or 0)
            scoring.scores += found
            self.statistics.scored_tokens += len(found)
        if scoring.text.windows:
            self._scorings.append(scoring)
        else:
            self._send(scoring.job, Event(scoring.index, scores=scoring.scores))

    def _send(self, job: Job, event: Event) -> None:
        """Put an event into the outbox."""
        self._outbox.append((job, event))
        self._running[job] -= event.is_last
        if not self._running[job]:
            del self._running[job]

    def _deliver(self) -> None:
        """Hand the events to the event loop, once it has taken the earlier ones."""
        if not self._outbox or self._loop is None:
            return
        outbox, self._outbox = self._outbox, []
        self._deliveries.acquire()
        try:
            self._loop.call_soon_threadsafe(self._hand_out, outbox)
        except RuntimeError:  # the loop has ended
            self._is_stopping = True

    def _fail(self, error: Exception) -> None:
        """End all jobs with an error, and go on with an empty batch."""
        self.statistics.errors += 1
        answer = unexpected(error)
        self._outbox += [(job, Event(0, error=answer)) for job in self._running]
        self._running.clear()
        self._scorings.clear()
        self._batch = self._new_batch()

    def _new_batch(self) -> ContinuousBatch[Key]:
        return ContinuousBatch[Key](
            self.lm.model, self.limits.max_batch_size, kernels=self.lm.runtime.kernels
        )
