"""The sample of a corpus that the choice looks at."""

import gzip
from itertools import pairwise

from transformerlm.config import CorpusConfig, TokenizerConfig
from transformerlm.data.build import corpus_items
from transformerlm.data.corpus import find_corpora
from transformerlm.data.documents import Chunk
from transformerlm.recipe import text
from transformerlm.recipe.text import chosen_items, read_sample
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
