import dataclasses

import pytest
import torch

from tests.small_models import END, language_model
from transformerlm.config import CorpusConfig, EvalSection, GenerationConfig
from transformerlm.errors import NumericalError
from transformerlm.evaluation import windows
from transformerlm.evaluation.documents import score
from transformerlm.evaluation.text import Text
from transformerlm.evaluation.tokens import TokenScorer
from transformerlm.ngrams import NgramIndex, NgramMemory
from transformerlm.progress import SilentReporter

TEXTS = ["The fox", "中文 text, they've said. " * 30, "x"]


def scores_of(scorer, ids, **options):
    text = scorer.text(ids)
    return [score for _ in range(len(text.windows)) for score in scorer.score(text, **options)]


def memory_of(lm, text):
    tokens = lm.tokenizer.encode_array(text)
    return NgramMemory(NgramIndex.build([tokens], lm.model.config.vocabulary_rows))


@pytest.mark.parametrize(
    ("with_memory", "block_batches"), [(False, 64), (True, 64), (True, 3)], ids=["alone", "whole", "blocks"]
)
@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_scores_of_tokens_add_up_to_those_of_documents(
    kernels, dtype, with_memory, block_batches, tmp_path, monkeypatch
):
    monkeypatch.setattr(windows, "BLOCK_BATCHES", block_batches)
    lm = language_model(kernels=kernels)
    if with_memory:
        lm = dataclasses.replace(lm, ngrams=memory_of(lm, TEXTS[1][:400]))
    lm = dataclasses.replace(lm, runtime=dataclasses.replace(lm.runtime, dtype=dtype))
    for number, text in enumerate(TEXTS):
        (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8")
    settings = EvalSection(bos_token=END, eos_token=END, batch_size=1)
    expected = score(lm, Text.find(CorpusConfig(), str(tmp_path)), settings, SilentReporter())
    scorer, end = TokenScorer(lm), lm.tokenizer.special_token_ids[END]
    for number, text in enumerate(TEXTS):
        found = scores_of(scorer, [end, *lm.tokenizer.encode(text), end])
        assert len(found) == expected.num_tokens[number]
        nats = -sum(one.log_prob for one in found)
        assert nats == pytest.approx(expected.nats[number], rel=1e-5 if dtype == torch.float32 else 1e-2)


def test_a_document_that_begins_as_the_models_texts_do_is_scored_as_without_it(tmp_path):
    lm = language_model(generation=GenerationConfig(bos_token="<|user|>"))
    for folder, begun in (("with", "<|user|>"), ("without", "")):
        (tmp_path / folder).mkdir()
        for number, text in enumerate(TEXTS):
            (tmp_path / folder / f"{number}.txt").write_text(begun + text, encoding="utf-8")
    given, without = (
        score(lm, Text.find(CorpusConfig(), str(tmp_path / folder)), EvalSection(), SilentReporter())
        for folder in ("with", "without")
    )
    assert given.nats.tolist() == without.nats.tolist()
    assert given.num_tokens.tolist() == without.num_tokens.tolist()


def test_alternatives_are_the_likeliest_ids_that_are_tokens():
    lm = language_model(vocab_size=352)  # more rows than the tokenizer has ids
    ids = lm.tokenizer.encode(TEXTS[0])
    with torch.no_grad():
        lm.model.head.weight[lm.tokenizer.vocab_size :] *= 10
        log_probs = torch.log_softmax(lm.model(torch.tensor([ids]))[0, :-1], -1)
    found = scores_of(TokenScorer(lm), ids, num_alternatives=4)
    assert [one.log_prob for one in found] == pytest.approx(log_probs[range(len(ids) - 1), ids[1:]].tolist())
    values, best = log_probs[:, : lm.tokenizer.vocab_size].topk(4)
    assert [[token for token, _ in one.alternatives] for one in found] == best.tolist()
    assert [value for one in found for _, value in one.alternatives] == pytest.approx(
        values.flatten().tolist()
    )


def test_a_text_of_one_token_has_nothing_to_score_and_nan_is_an_error():
    lm = language_model()
    assert scores_of(TokenScorer(lm), [5]) == []
    with torch.no_grad():
        lm.model.final_norm.weight.fill_(float("nan"))
    with pytest.raises(NumericalError):
        scores_of(TokenScorer(lm), [5, 6])
