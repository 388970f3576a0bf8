"""A request on its way: its texts, and what the model has said of them so far."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from transformerlm.config import GenerationConfig
from transformerlm.errors import ConfigError
from transformerlm.evaluation.tokens import TokenScore
from transformerlm.infer.batch import window_start
from transformerlm.infer.completion import Continuation, decoding_settings, ids_before
from transformerlm.infer.generate import DecodingSettings, NewToken
from transformerlm.infer.stopping import FinishReason, StopConditions, special_id
from transformerlm.language_model import LanguageModel
from transformerlm.serve.errors import ApiError, bad_request
from transformerlm.serve.request import CompletionRequest, Fields, Prompt

MAX_SEED = 2**31
"""Seeds that are drawn for requests without one are below it."""


@dataclass(frozen=True, slots=True)
class Event:
    """News of one text of a job, from the model's thread; or of the whole job, if it has failed."""

    index: int
    """Of the text among those of its job."""
    piece: str = ""
    """Characters that became final."""
    token: NewToken | None = None
    finish_reason: FinishReason | None = None
    scores: Sequence[TokenScore] | None = None
    """Of all tokens of its prompt but the first."""
    error: ApiError | None = None

    @property
    def is_last(self) -> bool:
        """True for the last event of a text, and for scores, which come at once."""
        return self.finish_reason is not None or self.scores is not None


@dataclass(frozen=True, slots=True)
class PromptIds:
    """The prompt of a text, as tokens."""

    text: str
    ids: list[int]
    """What the model reads: the prompt's own tokens, possibly behind the token that begins texts."""
    num_before: int
    """Tokens of `ids` that are not the prompt's own."""


@dataclass(eq=False)
class Job:
    """The texts of a request.

    Events are put in by the event loop's thread alone, and taken out there.
    """

    request: CompletionRequest
    prompts: list[PromptIds]
    """Of each text."""
    texts: list[Continuation]
    """Empty if nothing is to be written."""
    settings: list[DecodingSettings]
    """Of each text."""
    seed: int
    num_open: int = 0
    """Texts and scores that are still to come."""
    events: list[Event] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while there is something to answer: the end of the job or an error, or, unless events are to
    gather, any event."""
    is_gathering: bool = False
    """True while events gather."""

    @property
    def fields(self) -> Fields:
        """The fields of the request."""
        return self.request.fields

    @property
    def wants_scores(self) -> bool:
        """True if the prompts are to be scored."""
        return self.fields.echo and self.fields.logprobs is not None

    @property
    def num_texts(self) -> int:
        """Number of texts, written or only scored."""
        return len(self.prompts)

    def put(self, event: Event) -> None:
        """Add an event, and wake up whoever answers the request, unless events are to gather."""
        self.events.append(event)
        self.num_open -= event.is_last
        if not self.is_gathering or not self.num_open or event.error is not None:
            self.news.set()

    def gather_for(self, seconds: float) -> None:
        """Let events gather for some time, or until the end of the job."""
        self.is_gathering = True
        asyncio.get_running_loop().call_later(seconds, self._end_gathering)

    def _end_gathering(self) -> None:
        self.is_gathering = False
        if self.events:
            self.news.set()

    def take(self) -> list[Event]:
        """Return the events since the last call."""
        events, self.events = self.events, []
        self.news.clear()
        return events


def make_job(lm: LanguageModel, generation: GenerationConfig, request: CompletionRequest) -> Job:
    """Encode the prompts of a request, and prepare its texts.

    Text i is written with row i of the seed: it is what `transformerlm-infer` writes with these settings.

    Args:
        generation: of the run: the tokens that begin and end its texts.

    Raises:
        ApiError: a prompt that the model cannot start from.
    """
    fields = request.fields
    seed = secrets.randbelow(MAX_SEED) if fields.seed is None else fields.seed
    generation = settings_of(fields, generation)
    prompts = [prompt_ids(lm, generation, prompt) for prompt in request.prompts for _ in range(fields.n)]
    job = Job(request, prompts, [], [], seed)
    if fields.max_tokens:
        own = decoding_settings(lm.tokenizer, generation, seed, lm.runtime.kernels, lm.ngrams)
        own = dataclasses.replace(own, num_alternatives=fields.logprobs or 0)
        job.settings = [dataclasses.replace(own, first_row=row) for row in range(len(prompts))]
        job.texts = [_continuation(lm, generation, prompt, row) for row, prompt in enumerate(prompts)]
    job.num_open = len(job.texts) + (len(prompts) if job.wants_scores else 0)
    return job


def settings_of(fields: Fields, generation: GenerationConfig) -> GenerationConfig:
    """Return [generation] with the settings of a request."""
    return dataclasses.replace(
        generation,
        prompts=("",),
        num_samples=1,
        max_new_tokens=max(1, fields.max_tokens),
        temperature=fields.temperature,
        top_p=fields.top_p,
        top_k=fields.top_k,
        min_p=fields.min_p,
        repetition_penalty=fields.repetition_penalty,
        stop=fields.stop_strings,
        log_probs=fields.logprobs is not None,
    )


def prompt_ids(lm: LanguageModel, generation: GenerationConfig, prompt: Prompt) -> PromptIds:
    """Return a prompt as text and as tokens.

    Raises:
        ApiError: unknown ids, or no text where no token begins texts.
    """
    tokenizer = lm.tokenizer
    if not isinstance(prompt, str):
        if not 0 <= min(prompt) <= max(prompt) < tokenizer.vocab_size:
            got = f"{min(prompt)} to {max(prompt)}"
            raise bad_request(
                f"prompt: expected ids from 0 to {tokenizer.vocab_size - 1}, got {got}", "prompt"
            )
        return PromptIds(tokenizer.decode(prompt), list(prompt), 0)
    eos = StopConditions.from_config(generation, tokenizer).eos_token_id
    bos = special_id(tokenizer, "bos_token", generation.bos_token) if generation.bos_token else None
    own = tokenizer.encode(prompt)
    try:
        before = ids_before(own, eos, bos, tokenizer.encode(generation.start_text))
    except ConfigError as error:
        raise bad_request(f"prompt: {error.problems[0].what}", "prompt") from None
    return PromptIds(prompt, before + own, len(before))


def num_unseen(lm: LanguageModel, prompts: Sequence[PromptIds]) -> int:
    """Return how many tokens of prompts are not seen, since the model's context is shorter."""
    return sum(window_start(len(prompt.ids), lm.model.config.context_length) for prompt in prompts)


def _continuation(
    lm: LanguageModel, generation: GenerationConfig, prompt: PromptIds, row: int
) -> Continuation:
    special_ids = lm.tokenizer.special_token_ids.values()
    skipped = frozenset(special_ids if generation.skip_special_tokens else ())
    conditions = StopConditions.from_config(generation, lm.tokenizer)
    return Continuation(lm.tokenizer, conditions, prompt.text, prompt.ids, row, row, skipped)
