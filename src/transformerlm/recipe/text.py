"""Facts about a text that the choice needs: its size, how hard it is to predict, bytes per token."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from transformerlm.config import CorpusConfig, RuntimeConfig, TokenizerConfig
from transformerlm.data.build import corpus_items
from transformerlm.data.corpus import Corpora, find_corpora
from transformerlm.data.documents import TRAIN, VAL, Chunk, Split, documents_of
from transformerlm.data.split import empty_split_error
from transformerlm.recipe.ngram import ngram_bits
from transformerlm.recipe.pilot import MAX_VALIDATION_TOKENS, Pilot, PilotText, run_pilot
from transformerlm.recipe.pilot import VOCAB_SIZE as PILOT_IDS
from transformerlm.runtime import Runtime
from transformerlm.tokenizer import Pretokenizer, Tokenizer
from transformerlm.tokenizer.bpe import NUM_BYTES
from transformerlm.tokenizer.pretokenize import bytes_of
from transformerlm.tokenizer.train import count_words, learn_merges

SAMPLE_BYTES = 4 * 10**6
"""Training text that is looked at; of a larger corpus, parts that are spread over all of it."""
NUM_CHARACTERS = 2**18
"""Text that is encoded with each vocabulary, or scored by the n-grams."""
_MAX_SAMPLE = 8  # times SAMPLE_BYTES: where the estimate of a corpus' size is far too small
VOCABULARIES = (257, 512, 1024, 2048, 4096, 8192, 16384)
"""Sizes of vocabularies to choose from; 257 are the bytes and the separator of documents."""


NO_PILOT = Pilot(math.nan, math.nan, PILOT_IDS)


@dataclass(frozen=True)
class TextFacts:
    """Facts about a corpus."""

    train_bytes: int
    validation_bytes: int
    ngram_bits: float
    """Bits per byte of validation text, by the best n-gram model of bytes that has read the sample."""
    pilot: Pilot
    """A short training on the text."""
    bytes_per_token: Mapping[int, float]
    """Size of a vocabulary -> bytes per token."""

    def bytes_in_token(self, vocab_size: int) -> float:
        """Return the bytes per token with a vocabulary, also one of another size than those tried."""
        nearest = min(self.bytes_per_token, key=lambda size: abs(math.log(size / vocab_size)))
        return self.bytes_per_token[nearest]


class Survey(NamedTuple):
    """Facts about a corpus, and some of its text for the pilot."""

    facts: TextFacts
    """Without a pilot."""
    pilot_text: PilotText

    def measured(self, num_tokens: float, runtime: Runtime, config: RuntimeConfig) -> TextFacts:
        """Return the facts with a pilot of about `num_tokens`; see `run_pilot`."""
        return dataclasses.replace(self.facts, pilot=run_pilot(self.pilot_text, num_tokens, runtime, config))


class Sample(NamedTuple):
    """Some text of a corpus, and the share of the whole that it is."""

    train: str
    validation: str
    share: float


def survey(data: CorpusConfig, config: TokenizerConfig, tokenizer: Tokenizer | None = None) -> Survey:
    """Look at a corpus: read a sample of it, count n-grams, learn and try vocabularies.

    Args:
        data: [data].
        config: [tokenizer]: pattern and special tokens of a tokenizer that is to be made.
        tokenizer: the tokenizer, if there is one: only its vocabulary is tried.

    Raises:
        DataError: a corpus that cannot be read.
    """
    corpora = find_corpora(data)
    safe_cut = Pretokenizer(config.pattern, config.special_tokens).safe_cut
    sample = read_sample(data, corpora, corpus_items(data, corpora, safe_cut))
    if not sample.train:
        raise empty_split_error(data, corpora, TRAIN, is_blank=not sample.validation)
    train, validation = bytes_of(sample.train), bytes_of(sample.validation)
    learned = list(vocabularies(sample.train, config))
    part = sample.train[:NUM_CHARACTERS]
    tried = [tokenizer] if tokenizer else learned
    bits = ngram_bits(train, validation[:NUM_CHARACTERS] or train[-NUM_CHARACTERS:])
    facts = TextFacts(
        train_bytes=round(len(train) / sample.share),
        validation_bytes=round(len(validation) / sample.share),
        ngram_bits=min(bits),
        pilot=NO_PILOT,
        bytes_per_token={each.vocab_size: len(bytes_of(part)) / len(each.encode(part)) for each in tried},
    )
    return Survey(
        facts, pilot_text(sample, next(each for each in reversed(learned) if each.vocab_size <= PILOT_IDS))
    )


def pilot_text(sample: Sample, tokenizer: Tokenizer) -> PilotText:
    """Return a sample as tokens, and no more of the validation text than is needed."""
    ids = np.array(tokenizer.encode(sample.train))
    validation = np.array(tokenizer.encode(sample.validation or sample.train[-NUM_CHARACTERS // 10 :]))
    some = validation[: MAX_VALIDATION_TOKENS + 1]
    sizes = len(bytes_of(sample.train)), len(tokenizer.decode_bytes(some))
    return PilotText(ids, some, *sizes, tokenizer.vocab_size)


def read_sample(data: CorpusConfig, corpora: Corpora, items: Iterable[tuple[Chunk, ...]]) -> Sample:
    """Read all items of a small corpus, or some that are spread evenly over a large one.

    The last one is always read: the end of a corpus that is one document is its validation text.
    """
    chosen = chosen_items(items, max(1, corpora.estimated_text_bytes // SAMPLE_BYTES))
    texts: dict[Split, list[str]] = {TRAIN: [], VAL: []}
    for chunk in chosen:
        for document in documents_of(chunk, data):
            texts[document.split].append(document.text)
    num_bytes = sum(chunk.num_read for chunk in chosen)
    return Sample("".join(texts[TRAIN]), "".join(texts[VAL]), num_bytes / max(1, corpora.num_bytes))


def chosen_items(items: Iterable[tuple[Chunk, ...]], every: int) -> list[Chunk]:
    """Return the chunks of every so many items, and of the last.

    Where the text is much larger than estimated, fewer are: those of compressed files carry their text.
    """
    chosen: list[tuple[Chunk, ...]] = []
    place, last = -1, None
    for place, last in enumerate(items):
        if place % every == 0:
            chosen.append(last)
            if sum(chunk.num_bytes for item in chosen for chunk in item) > _MAX_SAMPLE * SAMPLE_BYTES:
                chosen, every = chosen[::2], 2 * every
    if last is not None and place % every:
        chosen.append(last)
    return [chunk for item in chosen for chunk in item]


def vocabularies(text: str, config: TokenizerConfig) -> Iterator[Tokenizer]:
    """Yield a tokenizer for each size in VOCABULARIES for which the text has enough merges.

    Merges are learned one after the other: a smaller vocabulary has the first ones of a larger one.
    """
    special, pattern = config.special_tokens, config.pattern
    words = count_words([text], special, pattern=pattern)
    tokens, merges = learn_merges(words, max(VOCABULARIES), special)
    for size in VOCABULARIES:
        number = max(0, size - NUM_BYTES - len(special))
        if number <= len(merges):
            some = {token_id: tokens[token_id] for token_id in range(NUM_BYTES + number)}
            yield Tokenizer(some, merges[:number], special, pattern=pattern)
