"""Shingles, similarities and clusters in the obvious way, and texts with copies in them."""

import json
import random
import re
from collections import defaultdict

import numpy as np

SPACE = re.compile(r"[ \t\n\r\v\f]+")


def shingles(text: str, length: int = 9) -> set[str]:
    """The set of all substrings of a length, each run of white space being one space."""
    text = SPACE.sub(" ", text)
    return {text[at : at + length] for at in range(len(text) - length + 1)}


def similarity(one: str, other: str) -> float:
    first, second = shingles(one), shingles(other)
    return len(first & second) / len(first | second) if first | second else 0.0


def near_pairs(texts: list[str], threshold: float) -> dict[tuple[int, int], float]:
    """Every pair of texts with at least this similarity, by counting the shingles that each pair shares."""
    sets, holders = list(map(shingles, texts)), defaultdict(list)
    for number, own in enumerate(sets):
        for shingle in own:
            holders[shingle].append(number)
    arrays = {shingle: np.array(own) for shingle, own in holders.items() if len(own) > 1}
    sizes, found = np.array(list(map(len, sets))), {}
    for number, own in enumerate(sets):
        shared = [arrays[shingle] for shingle in own if shingle in arrays]
        counts = np.bincount(np.concatenate(shared), minlength=len(texts)) if shared else np.zeros(len(texts))
        values = counts / np.maximum(1, sizes + sizes[number] - counts)
        found |= {
            (number, int(n)): float(values[n]) for n in np.flatnonzero(values >= threshold) if n > number
        }
    return found


def clusters(pairs) -> list[list[int]]:
    """The connected components of pairs, in order."""
    component = {}
    for one, other in pairs:
        joined = component.get(one, {one}) | component.get(other, {other})
        component |= dict.fromkeys(joined, joined)
    return sorted({tuple(sorted(own)) for own in component.values()})


SYLLABLES = [
    f"{a}{b}{c}" for a in ("k", "l", "m", "n", "r", "st") for b in "aeiou" for c in ("", "n", "sk", "t")
]
WORDS = [one + other for one in SYLLABLES for other in SYLLABLES[::2]]


def random_text(rng: random.Random, num_words: int = 40) -> str:
    return " ".join(rng.choices(WORDS, k=num_words))


def edited(rng: random.Random, text: str, num_edits: int) -> str:
    """A text with some words replaced."""
    words = text.split(" ")
    for _ in range(num_edits):
        words[rng.randrange(len(words))] = rng.choice(WORDS)
    return " ".join(words)


def write_jsonl(path, texts) -> None:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
