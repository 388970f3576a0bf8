"""Training texts and texts of all kinds, as lists of ids: (training, text, vocabulary size) by name."""

import random

from transformerlm.kernels.ngrams_layout import LONGEST

Case = tuple[list[int], list[int], int]


def noise(seed: int, length: int, vocab_size: int) -> list[int]:
    return random.Random(seed).choices(range(vocab_size), k=length)


def phrases(seed: int, length: int, vocab_size: int) -> list[int]:
    """Phrases of up to 50 tokens, each of which comes again and again."""
    rng = random.Random(seed)
    known = [noise(100 + number, rng.randint(2, 50), vocab_size) for number in range(4)]
    found: list[int] = []
    while len(found) < length:
        found += rng.choice(known)
    return found[:length]


def cases() -> dict[str, Case]:
    passage = noise(1, 60, 9)
    return {
        **{f"noise of {size} ids": (noise(2, 90, size), noise(3, 50, size), size) for size in (2, 3, 9, 300)},
        **{f"phrases {seed}": (phrases(seed, 200, 12), phrases(seed + 9, 120, 12), 12) for seed in range(3)},
        "one token only": ([0] * 70, [0] * 60, 1),
        "one of two tokens only": ([1] * 40, [1] * 60, 2),
        "two in turn": ([0, 1] * 40, [1, 0] * 30, 2),
        "no training text": ([], passage + passage, 9),
        "one training token": ([3], [3, 3, 4, 3], 9),
        "two training tokens": ([3, 4], [3, 4, 3, 3], 9),
        "ids at the edge": ([0, 65535, 0, 65534, 0, 65535], [65535, 0, 65535, 0, 65535, 0], 65536),
        "nothing in common": ([0, 1, 2] * 9, [3, 4, 5] * 9, 6),
        "longer than the longest context": ([*passage, 7, *passage, 8], passage, 9),
        "the beginning of the training text": (passage, passage[: LONGEST + 8], 9),
        "ends where the training text ends": ([5, *passage], passage[-LONGEST - 4 :], 9),
    }
