"""One small tokenizer whose special tokens are as awkward as they come."""

import pytest

from transformerlm.tokenizer import Tokenizer, train_bpe_from_texts

SPECIAL_TOKENS = ("<|endoftext|>", "<|end", "\n\n", "aa", "。")
TEXT = "the cat's on the mat, isn't it? The 12 cats' hats — das Mädchen, 漢字。 " * 20


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    vocab, merges = train_bpe_from_texts([TEXT], 320, SPECIAL_TOKENS)
    return Tokenizer(vocab, merges, SPECIAL_TOKENS)


@pytest.fixture(scope="session")
def overlapping_tokenizer() -> Tokenizer:
    """A special token reaches from a text into the separator after it."""
    special_tokens = ("<|endoftext|>", "t<|endoftext|>", "at<|", "aa")
    vocab, merges = train_bpe_from_texts([TEXT], 300, special_tokens)
    return Tokenizer(vocab, merges, special_tokens)
