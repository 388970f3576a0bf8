"""Sets of characters against the regex package, on all code points."""

import numpy as np
import pytest
import regex

from transformerlm.tokenizer.patterns.characters import (
    NUM_CODES,
    SURROGATE,
    WHITE_SPACE,
    Alphabet,
    CharacterSet,
    case_variants,
    characters,
    matched_by,
    with_property,
)

EVERY = "".join(map(chr, range(NUM_CODES)))
SETS = {
    r"\p{L}": with_property("L"),
    r"\p{Han}": with_property("Han"),
    r"\P{Script=Latin}": with_property("Script=Latin").negated(),
    r"\w": matched_by(r"\w"),
    r"\p{Lu}": with_property("Lu"),
    r"\P{N}": with_property("N").negated(),
    r"\s": WHITE_SPACE,
    r"[ab中\p{Mn}]": CharacterSet(parts=(characters("ab中"), with_property("Mn"))),
    r"[^\s\u3040-\u30ff]": CharacterSet(((0x3040, 0x30FF),), parts=(WHITE_SPACE,), is_negated=True),
}


def test_symbols_tell_the_sets_apart():
    alphabet = Alphabet(list(SETS.values()))
    symbols = alphabet.table()
    assert symbols[SURROGATE] == 0
    assert alphabet.number == len(np.unique(symbols))
    for pattern, one in SETS.items():
        expected = np.zeros(NUM_CODES, bool)
        expected[[match.start() for match in regex.finditer(pattern, EVERY)]] = True
        assert np.array_equal(np.isin(symbols, list(alphabet.symbols_of(one))), expected), pattern


@pytest.mark.parametrize("letter", "asKi")
def test_case_variants_are_all_characters_that_match(letter):
    found = {(ord(match[0]),) * 2 for match in regex.finditer(f"(?i:{letter})", EVERY)}
    assert set(case_variants(letter).ranges) == found


def test_other_properties_are_unknown():
    for name in ("Q", "Xx", "Hanx"):
        with pytest.raises(regex.error):
            with_property(name)
