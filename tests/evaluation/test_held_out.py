"""The interval of bits per byte, against the definition computed token by token."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from tests.small_models import END, bytes_only, language_model
from transformerlm.config import DataConfig, TrainConfig
from transformerlm.data import TokenFile, TokenWriter
from transformerlm.evaluation.held_out import held_out_estimate, max_tokens
from transformerlm.evaluation.statistics import ratio
from transformerlm.schema import to_dict

TEXTS = [f"The fox, they've said, met {n} crows; naïve 中文.\n" * (1 + n % 4) for n in range(14)]


def with_separator(lm, separator=END):
    config = TrainConfig(model=lm.model.config, data=DataConfig(document_separator=separator))
    return dataclasses.replace(
        lm, checkpoint=dataclasses.replace(lm.checkpoint, about={"config": to_dict(config)})
    )


def token_file(folder, lm, texts, separator=END) -> TokenFile:
    ends = [lm.tokenizer.special_token_ids[separator]] if separator else []
    ids = [np.array([*lm.tokenizer.encode(text), *ends], np.uint16) for text in texts]
    path = folder / "val.memmap"
    with TokenWriter.create(path, lm.tokenizer.vocab_size, lm.tokenizer.fingerprint) as writer:
        for text, own in zip(texts, ids, strict=True):
            writer.write(own, num_documents=1, num_bytes=len(text.encode()))
    return TokenFile.open(path)


def by_definition(lm, tokens, is_end):
    """Nats and bytes of each document, each target computed alone within its window of the file."""
    length, vocab = lm.model.config.context_length, lm.tokenizer.vocab
    documents = [[0.0, 0]]
    for target in range(1, len(tokens)):
        first = (target - 1) // length * length
        with torch.inference_mode():
            logits = lm.model(torch.tensor([tokens[first:target].tolist()]))[0, -1]
        token = int(tokens[target])
        documents[-1][0] -= torch.log_softmax(logits.double(), -1)[token].item() / math.log(2)
        documents[-1][1] += 0 if is_end(token) else len(vocab[token])
        if is_end(token) and target + 1 < len(tokens):
            documents.append([0.0, 0])
    return np.array(documents).T


def test_documents_are_the_units(tmp_path):
    lm = with_separator(language_model())
    file = token_file(tmp_path, lm, TEXTS)
    found = held_out_estimate(lm, file)
    end = lm.tokenizer.special_token_ids[END]
    expected = ratio(*by_definition(lm, file.tokens, lambda token: token == end))
    assert (found.num_units, found.unit, found.is_whole) == (len(TEXTS), "documents", True)
    assert found.bits_per_byte.value == pytest.approx(expected.value, rel=1e-5)
    assert found.bits_per_byte.standard_error == pytest.approx(expected.standard_error, rel=1e-4)


def test_of_few_documents_windows_are_the_units(tmp_path):
    lm = with_separator(language_model(bytes_only(), vocab_size=256), "")
    file = token_file(tmp_path, lm, ["".join(TEXTS[:5])], "")
    found = held_out_estimate(lm, file)
    assert (found.unit, found.num_units) == ("sections", math.ceil((file.num_tokens - 1) / 48))
    nats, num_bytes = by_definition(lm, file.tokens, lambda token: False)
    assert found.bits_per_byte.value == pytest.approx(nats[0] / num_bytes[0], rel=1e-5)
    assert 0 < found.bits_per_byte.standard_error < found.bits_per_byte.value


def test_of_much_text_the_first_part_is_scored(tmp_path):
    lm = with_separator(language_model())
    file = token_file(tmp_path, lm, TEXTS)
    flops = next(work for work in range(0, 10**9, 10**5) if max_tokens(lm, work) >= 200)
    found = held_out_estimate(lm, file, flops)
    assert (found.is_whole, found.num_tokens) == (False, max_tokens(lm, flops))
    assert found.num_tokens < file.num_tokens


def test_too_little_text_has_no_interval(tmp_path):
    lm = with_separator(language_model())
    assert held_out_estimate(lm, token_file(tmp_path, lm, ["The fox"])) is None
    with torch.no_grad():
        lm.model.head.weight.fill_(math.nan)
    assert held_out_estimate(lm, token_file(tmp_path, lm, TEXTS)) is None
