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
from transformerlm.data.chunks import SafeCut
from transformerlm.data.corpus import Corpora, find_corpora
from transformerlm.data.documents import TRAIN, VAL, Chunk, Split, documents_of
from transformerlm.data.matches import find_leaks
from transformerlm.data.mixture import corpora_of, pass_size, shares_of
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
COPY_BYTES = 32
"""Length of the shortest run that counts as copied: longer ones than n-grams know, and than chance makes."""
VOCABULARIES = (257, 512, 1024, 2048, 4096, 8192, 16384)
"""Sizes of vocabularies to choose from; 257 are the bytes and the separator of documents."""


NO_PILOT = Pilot(bits_per_byte=1.0, read_bytes=1e6, vocab_size=PILOT_IDS)
"""Stands for a pilot before there is one; another changes what is expected of all models by one factor."""


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
    copied: float = 0.0
    """Share of the validation text that stands in the sample of the training text: see `copied_share`."""
    shortest_bytes: int | None = None
    """Training text of the shortest corpus of a mixture, into which a context has to fit; else None."""

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
    safe_cut = Pretokenizer(config.pattern, config.special_tokens).safe_cut
    if data.mixture:
        sample, sizes = sample_mixture(data, safe_cut)
    else:
        sample = sample_corpus(data, safe_cut)
        sizes = Sizes.of(sample)
    train, validation = bytes_of(sample.train), bytes_of(sample.validation)
    learned = list(vocabularies(sample.train, config))
    part = sample.train[:NUM_CHARACTERS]
    tried = [tokenizer] if tokenizer else learned
    bits = ngram_bits(train, validation[:NUM_CHARACTERS] or train[-NUM_CHARACTERS:])
    facts = TextFacts(
        train_bytes=sizes.train,
        validation_bytes=sizes.validation,
        ngram_bits=min(bits),
        pilot=NO_PILOT,
        bytes_per_token={each.vocab_size: len(bytes_of(part)) / len(each.encode(part)) for each in tried},
        copied=copied_share(train, validation[:NUM_CHARACTERS]),
        shortest_bytes=sizes.shortest,
    )
    return Survey(
        facts, pilot_text(sample, next(each for each in reversed(learned) if each.vocab_size <= PILOT_IDS))
    )


def copied_share(train: bytes, text: bytes) -> float:
    """Return the share of the bytes of `text` in runs of at least COPY_BYTES that stand in `train` too."""
    seen, unseen = (np.frombuffer(each, np.uint8) for each in (train, text))
    return float(find_leaks(seen, unseen, end_id=None, length=COPY_BYTES).is_leaked.mean()) if text else 0.0


class Sizes(NamedTuple):
    """Estimated sizes of whole splits, in bytes."""

    train: int
    """Of a mixture as `pass_size` counts them."""
    validation: int
    shortest: int | None = None
    """Training text of the shortest corpus of a mixture."""

    @classmethod
    def of(cls, sample: Sample) -> Sizes:
        """Return the sizes of the corpus of a sample."""
        train, validation = (len(bytes_of(text)) / sample.share for text in (sample.train, sample.validation))
        return cls(round(train), round(validation))


def sample_corpus(data: CorpusConfig, safe_cut: SafeCut, max_bytes: int | None = None) -> Sample:
    """Read a sample of one corpus, of up to `max_bytes` (None: SAMPLE_BYTES).

    Raises:
        DataError: a corpus that cannot be read, or has nothing to train on.
    """
    corpora = find_corpora(data)
    sample = read_sample(data, corpora, corpus_items(data, corpora, safe_cut), max_bytes)
    if not sample.train:
        raise empty_split_error(data, corpora, TRAIN, is_blank=not sample.validation)
    return sample


def sample_mixture(data: CorpusConfig, safe_cut: SafeCut) -> tuple[Sample, Sizes]:
    """Read a sample of each corpus of a mixture, of the size of its share; return them joined, and the sizes.

    A corpus that is smaller than its part of the sample is there once, as a whole.
    """
    assert data.mixture
    parts = corpora_of(data)
    num_bytes = {name: find_corpora(own).num_bytes for name, own in parts.items()}
    shares = shares_of(data.mixture, num_bytes)
    samples = {
        name: sample_corpus(own, safe_cut, max(1, round(SAMPLE_BYTES * shares[name])))
        for name, own in parts.items()
    }
    sizes = {name: Sizes.of(sample) for name, sample in samples.items()}
    train = {name: size.train for name, size in sizes.items()}
    text = "".join(sample.train for sample in samples.values())
    validation = "".join(sample.validation for sample in samples.values())
    whole = Sizes(
        round(pass_size(shares, train)),
        sum(size.validation for size in sizes.values()),
        min(train.values()),
    )
    return Sample(text, validation, share=1.0), whole


def pilot_text(sample: Sample, tokenizer: Tokenizer) -> PilotText:
    """Return a sample as tokens, and no more of the validation text than is needed."""
    ids = np.array(tokenizer.encode(sample.train))
    validation = np.array(tokenizer.encode(sample.validation or sample.train[-NUM_CHARACTERS // 10 :]))
    some = validation[: MAX_VALIDATION_TOKENS + 1]
    sizes = len(bytes_of(sample.train)), len(tokenizer.decode_bytes(some))
    return PilotText(ids, some, *sizes, tokenizer.vocab_size)


def read_sample(
    data: CorpusConfig,
    corpora: Corpora,
    items: Iterable[tuple[Chunk, ...]],
    max_bytes: int | None = None,
) -> Sample:
    """Read all items of a small corpus, or some that are spread evenly over a large one.

    The last one is always read: the end of a corpus that is one document is its validation text.
    """
    chosen = chosen_items(items, max(1, corpora.estimated_text_bytes // (max_bytes or SAMPLE_BYTES)))
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
