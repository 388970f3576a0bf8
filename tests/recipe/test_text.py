"""The sample of a corpus that the choice looks at."""

import functools
import gzip
import random
from itertools import pairwise

import pytest

from transformerlm.config import CorpusConfig, MixtureConfig, TokenizerConfig
from transformerlm.data.build import corpus_items
from transformerlm.data.corpus import find_corpora
from transformerlm.data.documents import Chunk
from transformerlm.recipe import text
from transformerlm.recipe.text import chosen_items, copied_share, read_sample, sample_mixture
from transformerlm.tokenizer import Pretokenizer


def test_the_sample_of_one_large_document_holds_its_end_which_is_the_validation_text(tmp_path, monkeypatch):
    lines = [f"{number} lines of one long document\n" for number in range(2000)]
    (tmp_path / "text.txt").write_text("".join(lines))
    monkeypatch.setattr(text, "SAMPLE_BYTES", 10_000)
    data, config = CorpusConfig(corpus=str(tmp_path / "text.txt")), TokenizerConfig()
    corpora = find_corpora(data)
    safe_cut = Pretokenizer(config.pattern, config.special_tokens).safe_cut
    items = list(corpus_items(data, corpora, safe_cut, 1000))
    sample = read_sample(data, corpora, items)
    assert sample.train.startswith(lines[0])
    assert sample.validation.endswith(lines[-1])
    assert len(sample.train + sample.validation) < 20_000
    read = "".join([sample.train, sample.validation])
    assert sample.share * corpora.num_bytes == len(read)


def test_of_a_mixture_each_corpus_is_sampled_by_its_share(tmp_path, monkeypatch):
    (tmp_path / "large.txt").write_text("".join(f"{number} large\n" for number in range(40_000)))
    (tmp_path / "small.txt").write_text("".join(f"{number} small\n" for number in range(4_000)))
    monkeypatch.setattr(text, "SAMPLE_BYTES", 100_000)
    parts = [MixtureConfig(path=f"{tmp_path}/{name}.txt", weight=1) for name in ("large", "small")]
    data, config = CorpusConfig(mixture=tuple(parts)), TokenizerConfig()
    safe_cut = Pretokenizer(config.pattern, config.special_tokens).safe_cut
    monkeypatch.setattr(text, "corpus_items", functools.partial(corpus_items, chunk_bytes=10_000))
    sample, sizes = sample_mixture(data, safe_cut)
    large, small = sample.train.count("large"), sample.train.count("small")
    assert 0.5 < large / small < 2
    assert sample.validation.count("small") > 0
    train = [0.95 * (tmp_path / f"{name}.txt").stat().st_size for name in ("large", "small")]
    assert sizes.shortest == pytest.approx(train[1], rel=0.1)
    # Half of what is drawn comes from each: a pass is twice the harmonic mean of the sizes.
    assert sizes.train == pytest.approx(4 / (1 / train[0] + 1 / train[1]), rel=0.1)
    facts = text.survey(data, config).facts
    assert (facts.train_bytes, facts.shortest_bytes) == (sizes.train, sizes.shortest)


def test_passes_make_the_shares_of_a_sample(tmp_path):
    for name, size in (("a", 3000), ("b", 1000)):
        (tmp_path / f"{name}.txt").write_text(f"text of {name}\n" * size)
    parts = [MixtureConfig(path=f"{tmp_path}/{name}.txt", passes=n) for name, n in (("a", 2), ("b", 2))]
    facts = text.survey(CorpusConfig(mixture=tuple(parts)), TokenizerConfig()).facts
    together = text.survey(CorpusConfig(corpus=f"{tmp_path}/*.txt"), TokenizerConfig()).facts
    assert facts.train_bytes == pytest.approx(together.train_bytes, rel=0.05)


def test_a_compressed_corpus_has_the_sample_of_the_text_in_it(tmp_path, monkeypatch):
    lines = [f"{number} lines of one long document\n" for number in range(2000)]
    (tmp_path / "text.txt").write_text("".join(lines))
    (tmp_path / "text.txt.gz").write_bytes(gzip.compress("".join(lines).encode()))
    safe_cut = Pretokenizer().safe_cut
    monkeypatch.setattr(text, "SAMPLE_BYTES", 10**6)
    samples = []
    for name in ("text.txt", "text.txt.gz"):
        data = CorpusConfig(corpus=str(tmp_path / name))
        corpora = find_corpora(data)
        samples.append(read_sample(data, corpora, corpus_items(data, corpora, safe_cut, 1000)))
    assert samples[0][:2] == samples[1][:2]
    assert samples[0].share > 0.99 <= samples[1].share


def test_the_sample_stays_small_where_the_text_is_much_larger_than_it_seems(monkeypatch):
    monkeypatch.setattr(text, "SAMPLE_BYTES", 1000)
    items = [(Chunk("a", 100 * n, 100 * n + 100, None),) for n in range(1000)]
    for number in (1, 5, 80, 81, 1000):
        chosen = chosen_items(iter(items[:number]), 1)
        assert sum(chunk.num_bytes for chunk in chosen) <= text._MAX_SAMPLE * 1000 + 100
        assert (chosen[0], chosen[-1]) == (items[0][0], items[number - 1][0])
        steps = {two.start - one.start for one, two in pairwise(chosen[:-1])}
        assert len(steps) <= 1  # evenly
    assert chosen_items(iter([]), 1) == []


def copied_share_slowly(train: bytes, text: bytes, length: int) -> float:
    copied = set()
    for start in range(len(text) - length + 1):
        if text[start : start + length] in train:
            copied.update(range(start, start + length))
    return len(copied) / len(text)


def test_the_share_of_copied_text_is_that_of_a_search_at_every_byte(monkeypatch):
    monkeypatch.setattr(text, "COPY_BYTES", 6)
    rng = random.Random(0)
    shares = set()
    for size in (0, 5, 50, 500):
        train, other = (bytes(rng.choices(b"abc", k=number)) for number in (size, 300))
        other += train[3:40] + train[:5]
        share = copied_share(train, other)
        assert share == copied_share_slowly(train, other, 6)
        shares.add(share)
    assert len(shares) > 2
    assert copied_share(b"a" * 50, b"") == 0


def test_a_survey_tells_how_much_of_the_validation_text_is_copied(tmp_path):
    rng = random.Random(1)
    lines = ["".join(rng.choices("abcdefgh", k=60)) + "\n" for _ in range(400)]
    for name, all_lines in (("other", lines), ("copied", [*lines, *lines])):
        (tmp_path / f"{name}.txt").write_text("".join(all_lines))
    found = [
        text.survey(CorpusConfig(corpus=str(tmp_path / f"{name}.txt")), TokenizerConfig()).facts.copied
        for name in ("other", "copied")
    ]
    assert found == [0, 1]
