"""The compressor xz as a baseline: its figures are lzma's, and are computed once for a text."""

import lzma
import random

import pytest

from transformerlm.config import DataConfig, TokenizerConfig
from transformerlm.data import prepare_data, prepare_tokenizer
from transformerlm.evaluation import xz
from transformerlm.evaluation.xz import MIN_BYTES, RECORD_FILE, XzBaseline, xz_baseline, xz_bits_per_byte
from transformerlm.progress import SilentReporter


def test_xz():
    text = b"to be or not to be, " * 100
    assert xz_bits_per_byte(text) == 8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) / 2000


def test_xz_says_how_far_it_has_come():
    text, steps = bytes(2**20 + 9), []
    whole = 8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) / len(text)
    assert xz_bits_per_byte(text, progress=steps.append) == whole
    assert steps == [2**20, 9]


def test_xz_that_has_read_another_text():
    text, other = (random.Random(seed).randbytes(3000) for seed in range(2))
    assert xz_bits_per_byte(text) > 8
    assert xz_bits_per_byte(text, after=other) == pytest.approx(8, abs=0.2)
    assert xz_bits_per_byte(text, after=other + text + other) < 0.2


def token_data(folder, content, training_text="The text to train on, "):
    """Token files of a validation text, and of a training text that contains it; their tokenizer."""
    folder.mkdir(exist_ok=True)
    (folder / "train.txt").write_text(training_text + content)
    (folder / "val.txt").write_text(content)
    data = DataConfig(
        corpus=str(folder / "train.txt"),
        validation_corpus=str(folder / "val.txt"),
        token_dir=str(folder / "tokens"),
        on_change="remake",
    )
    config = TokenizerConfig(vocab_size=260, tokenizer_dir=str(folder / "tokenizer"))
    tokenizer = prepare_tokenizer(data, config)
    return prepare_data(data, config, tokenizer), tokenizer


def baseline(data, tokenizer) -> XzBaseline | None:
    return xz_baseline(data, tokenizer, DataConfig().document_separator, SilentReporter())


def numbers(size: int) -> str:
    return "".join(f"{number} " for number in range(size))[:size]


@pytest.mark.parametrize("num_bytes", [1, MIN_BYTES - 1, MIN_BYTES])
def test_xz_is_compared_where_its_format_does_not_decide(tmp_path, num_bytes):
    content = numbers(num_bytes)
    found = baseline(*token_data(tmp_path, content))
    if num_bytes < MIN_BYTES:
        assert found is None
        return
    size = len(lzma.compress(content.encode(), preset=9 | lzma.PRESET_EXTREME))
    assert found.alone == 8 * size / num_bytes
    assert found.after_training_text < found.alone / 10
    assert str(found) == (
        f"xz -9e on the same text: {found.alone:.3f} bits per byte; "
        f"{found.after_training_text:.3f} when it has read the training text"
    )


def test_a_text_is_compressed_once_and_another_one_anew(tmp_path, monkeypatch):
    content = numbers(MIN_BYTES)
    first = baseline(*token_data(tmp_path, content))
    with monkeypatch.context() as patch:
        patch.setattr(xz, "xz_bits_per_byte", lambda *arguments, **options: pytest.fail("compressed again"))
        assert baseline(*token_data(tmp_path, content)) == first
    other = baseline(*token_data(tmp_path, content[::-1]))
    assert other.alone != first.alone
    (tmp_path / "tokens" / RECORD_FILE).write_bytes(b"{}")
    assert baseline(*token_data(tmp_path, content[::-1])) == other


def test_a_training_text_that_is_too_long_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(xz, "LIMIT_BYTES", MIN_BYTES + 5)
    found = baseline(*token_data(tmp_path, numbers(MIN_BYTES)))
    assert found.after_training_text is None
    assert str(found).endswith(f"{found.alone:.3f} bits per byte")
    assert baseline(*token_data(tmp_path, numbers(MIN_BYTES))) == found
