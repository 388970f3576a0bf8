"""The files of the benchmark are what both contestants read alike."""

import json

import pytest
import tokenizers

from benchmarking.tokenizer_files import LOADED, OF_CHARACTERS, Learned
from transformerlm.tokenizer import Tokenizer, train_bpe_from_texts

TEXT = "The quick brown fox's tail, it's 12 345 feet long; naïve café 日本語 👍🏽\n\n    return  x\n"


@pytest.fixture(scope="module")
def learned():
    return Learned(*train_bpe_from_texts([TEXT * 3], 330, [], num_workers=1))


@pytest.mark.parametrize("shape", {**LOADED, **OF_CHARACTERS})
def test_both_read_a_shape_alike(shape, learned, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**LOADED, **OF_CHARACTERS}[shape](learned)), encoding="utf-8")
    ours, theirs = Tokenizer.from_file(path), tokenizers.Tokenizer.from_file(str(path))
    ids = theirs.encode(TEXT, add_special_tokens=False).ids
    assert ours.encode(TEXT) == ids
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)
    assert len(ids) < len(TEXT.encode())
