"""Automata against the regex package, character by character; their safe pairs against what is known."""

import itertools

import pytest
import regex

from benchmarking.pattern_families import FAMILIES
from transformerlm.tokenizer.patterns.automaton import Automaton
from transformerlm.tokenizer.patterns.characters import Alphabet
from transformerlm.tokenizer.patterns.program import program_of
from transformerlm.tokenizer.patterns.syntax import parse

PATTERNS = [
    r"a|ab|abc",
    r"(?:a|ab)(?:c|bcd)?",
    r"a*?b|a+",
    r"[ab]{1,2}c?|.",
    r"a++b|ab|c?+c|d",
    r"(?:a(?=b)|b(?!a))+|(?<=b)c|d",
    r"(?i:A(?:b|c)+)|\S{2,}?d",
]


def automaton_of(pattern):
    program = program_of(parse(pattern))
    return Automaton(program, Alphabet(program.sets()))


def match_end(automaton, symbols, start):
    """Return the end of the match at `start`, None if there is none."""
    state = automaton.start(symbols[start - 1] if start else automaton.end)
    end = None
    for position in range(start, len(symbols)):
        accepts, state = automaton.step(state, symbols[position])
        end = position if accepts else end
    return end


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_first_alternative_is_taken_as_by_backtracking(pattern):
    automaton, expression = automaton_of(pattern), regex.compile(pattern)
    table = automaton.alphabet.table()
    for length in range(1, 6):
        for letters in itertools.product("abcd", repeat=length):
            text = "".join(letters)
            symbols = [*(int(table[ord(letter)]) for letter in letters), automaton.end]
            for start in range(length):
                found = expression.match(text, start)
                assert match_end(automaton, symbols, start) == (found and found.end()), (text, start)


def test_safe_pairs_of_gpt2_are_those_that_are_known():
    automaton = automaton_of(FAMILIES["gpt2"])
    letter, number, space, other = (int(automaton.alphabet.table()[ord(one)]) for one in "z1\t!")
    known = {(letter, number), (letter, other), (letter, space), (number, letter), (number, other)}
    known |= {(number, space), (other, number), (other, space)}
    pairs = itertools.product((letter, number, space, other), repeat=2)
    # Between "!" and a letter that begins no contraction too: the letters of contractions are symbols of
    # their own.
    assert {pair for pair in pairs if automaton.safe_pairs[pair]} == known | {(other, letter)}
