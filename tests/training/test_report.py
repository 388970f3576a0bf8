"""Messages of a run: the comparison of its last validation with xz."""

import lzma
import re
from types import SimpleNamespace

import pytest

from transformerlm.config import DataConfig, TokenizerConfig, TrainConfig
from transformerlm.data import prepare_data, prepare_tokenizer
from transformerlm.evaluation.loss import MeanLoss, Validation
from transformerlm.progress import SilentReporter
from transformerlm.training.report import XZ_MIN_BYTES, compare_with_xz


class Heard(SilentReporter):
    def __init__(self):
        self.messages = []

    def say(self, message):
        self.messages.append(message)


@pytest.mark.parametrize("num_bytes", [1, XZ_MIN_BYTES - 1, XZ_MIN_BYTES])
def test_xz_is_compared_where_its_format_does_not_decide(tmp_path, num_bytes):
    content = "".join(f"{number} " for number in range(num_bytes))[:num_bytes]
    (tmp_path / "train.txt").write_text(f"The text to train on, {content}")
    (tmp_path / "val.txt").write_text(content)
    data = DataConfig(
        corpus=str(tmp_path / "train.txt"),
        validation_corpus=str(tmp_path / "val.txt"),
        token_dir=str(tmp_path / "tokens"),
    )
    config = TokenizerConfig(vocab_size=260, tokenizer_dir=str(tmp_path / "tokenizer"))
    tokenizer = prepare_tokenizer(data, config)
    trainer = SimpleNamespace(
        data=prepare_data(data, config, tokenizer),
        newest=Validation(1, MeanLoss(2.0, 1.5)),
        config=TrainConfig(data=data),
    )
    heard = Heard()
    compare_with_xz(trainer, tokenizer, heard)
    assert heard.messages[0].startswith("validation: 1.500 bits per byte")
    assert len(heard.messages) == (2 if num_bytes >= XZ_MIN_BYTES else 1)
    if num_bytes >= XZ_MIN_BYTES:
        size = len(lzma.compress(content.encode(), preset=9 | lzma.PRESET_EXTREME))
        (alone, after) = re.findall(r"\d+\.\d{3}", heard.messages[1])
        assert alone == f"{8 * size / num_bytes:.3f}"
        assert float(after) < float(alone) / 10
