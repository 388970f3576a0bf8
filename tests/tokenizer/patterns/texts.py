"""Texts in which everything occurs that the patterns of tokenizers tell apart."""

import random
from collections import Counter

from transformerlm.tokenizer.pretokenize import Pretokenizer, bytes_of, text_of

FRAGMENTS = [
    *"abcdsSZ1٣'!< \n\t\r|>é中ſKtTlLvVreEmMDd0123,/。،ア・゠゛\u3040_²Ⅷ\u3000\x00\u200b\x1c\u00a0\u0301",
    *("👍", "🏽", "ll", "'s", "'S", "'re", "  ", "   ", "\r\n", "ǅ", "ʰ", "𝒜", "<|e|>"),
    *("\udc80", "\udcff", "\udced\udca0\udc80"),
]


def random_text(draw: random.Random, most=40):
    """Return a text of up to so many fragments, with bytes that are no UTF-8 in it."""
    return text_of(bytes_of("".join(draw.choices(FRAGMENTS, k=draw.randrange(1, most)))))


def plainly_counted(pattern, special_tokens, text):
    """Return the pre-tokens of at least two bytes, with their numbers."""
    pretokenizer = Pretokenizer(pattern, special_tokens)
    counts = Counter()
    for segment, is_special in pretokenizer.split_special(text):
        if not is_special:
            counts.update(map(bytes_of, pretokenizer.pretokens(segment)))
    return {word: count for word, count in counts.items() if len(word) > 1}
