"""The sample of a corpus that the choice looks at."""

from transformerlm.config import CorpusConfig, TokenizerConfig
from transformerlm.data.build import corpus_items
from transformerlm.data.corpus import find_corpora
from transformerlm.recipe import text
from transformerlm.recipe.text import read_sample
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
