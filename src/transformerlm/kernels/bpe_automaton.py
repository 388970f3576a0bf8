"""Kernels that divide a text by an automaton of a pre-tokenisation pattern; `kernels/bpe.py` uses them.

The table and its entries are described in `bpe_layout.py`, their origin in `tokenizer/patterns/table.py`. A
match is found as a machine does that reads each character once. Only where it has to go back by more than a
character, or where there is no match, the loop is left for `match_end`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from transformerlm.kernels.bpe_layout import ACCEPTS, BEYOND, EMITS, EMITS_BACK, GOES_BACK, ROW

u32 = np.uint32
i64 = np.int64

UNDECIDED = -1
"""Instead of a position: more of the text has to be known."""


class Automaton(NamedTuple):
    """An automaton; `end` is the symbol of the end of the text, and a row has end + 1 entries."""

    table: Any
    """u32."""
    starts: Any
    """i32: row in which a match begins after each symbol, and, last, at the beginning of the text."""
    classes: Any
    """u8: symbol of each code point."""
    groups: Any
    """u8: a number for each symbol. Text without a match is divided where the number changes."""
    end: Any


@njit
def symbol_at(classes, text, at, stop):
    """Return symbol and length in bytes of the character at `at`; 0 and 1 if it is invalid UTF-8."""
    byte = i64(text[at])
    if byte < 0x80:
        return i64(classes[byte]), 1
    length = 2 + (byte >= 0xE0) + (byte >= 0xF0)
    if byte < 0xC2 or byte >= 0xF8 or at + length > stop:
        return 0, 1
    code, signs = byte & (0x7F >> length), 0
    for i in range(1, length):
        signs |= i64(text[at + i]) ^ 0x80
        code = code << 6 | i64(text[at + i] & 63)
    # A byte that is no continuation, an overlong encoding, a surrogate, or beyond Unicode.
    if signs >= 0x40 or code >> (5 * length - 4) == 0 or classes[code] == BEYOND:
        return 0, 1
    return i64(classes[code]), length


@njit
def start_after(automaton, text, begin, first_row, at):
    """Return the row in which a match begins at `at`: `first_row` at `begin`, before which is nothing."""
    if at <= begin:
        return i64(first_row)
    for length in range(1, 5):
        if at - length >= begin:
            symbol, found = symbol_at(automaton.classes, text, at - length, at)
            if found == length and (length > 1 or text[at - 1] < 0x80):
                return i64(automaton.starts[symbol])
    return i64(automaton.starts[0])


@njit
def match_end(automaton, text, row, at, stop, is_end):
    """Return the end of the match that begins at `at` in a row, `at` if there is none, or UNDECIDED.

    The text ends at `stop` if `is_end`; else its last character may be incomplete.
    """
    limit = stop if is_end else stop - 3
    last = before = at
    while True:
        symbol, length = automaton.end, 0
        if at < limit:
            symbol, length = symbol_at(automaton.classes, text, at, stop)
        elif not is_end:
            return i64(UNDECIDED)
        entry = automaton.table[row + symbol]
        if entry & u32(EMITS_BACK):
            return before
        if entry & u32(ACCEPTS | EMITS):
            last = at
        if entry & u32(EMITS | GOES_BACK):
            return last
        row = i64(entry & u32(ROW))
        before = at
        at += length


@njit
def unit_end(automaton, text, row, at, stop, is_end):
    """Return the end of the match at `at`, or of the text without a match, or UNDECIDED."""
    end = match_end(automaton, text, row, at, stop, is_end)
    if end != at:
        return end
    symbol, length = symbol_at(automaton.classes, text, at, stop)
    group = automaton.groups[symbol]
    while at + length < (stop if is_end else stop - 3):
        at += length
        end = match_end(automaton, text, i64(automaton.starts[symbol]), at, stop, is_end)
        if end != at:
            return end if end == UNDECIDED else at
        symbol, length = symbol_at(automaton.classes, text, at, stop)
        if automaton.groups[symbol] != group:
            return at
    return stop if is_end else i64(UNDECIDED)


@njit
def divide(automaton, text, first_row, stop, is_end, starts):
    """Write the starts of the pre-tokens of text[0 : stop], and the end of the last one.

    Returns the number of pre-tokens that are certain, whatever follows if not `is_end`. A match at 0 begins
    in `first_row`.
    """
    limit = stop if is_end else stop - 3  # the last character may be incomplete
    at = before = last = number = 0
    starts[0] = 0
    row = first_row
    while True:
        while at < limit:
            byte = text[at]
            symbol, length = i64(automaton.classes[byte]), 1
            if byte >= 0x80:
                symbol, length = symbol_at(automaton.classes, text, at, stop)
            entry = automaton.table[row + symbol]
            last = at if entry & u32(ACCEPTS) else last
            if entry & u32(GOES_BACK):
                break
            # Both without a branch: a start that is not counted is overwritten by the next one.
            starts[number + 1] = before
            number += i64((entry & u32(EMITS_BACK)) != 0)
            starts[number + 1] = at
            number += i64((entry & u32(EMITS)) != 0)
            before = at
            at += length
            row = i64(entry & u32(ROW))
        else:
            if not is_end or i64(starts[number]) >= stop:
                return number
            if automaton.table[row + automaton.end] & u32(ACCEPTS):
                last = at
        begin = i64(starts[number])
        if last <= begin:
            row = start_after(automaton, text, 0, first_row, begin)
            last = unit_end(automaton, text, row, begin, stop, is_end)
            if last == UNDECIDED:
                return number
        number += 1
        starts[number] = at = before = last
        row = start_after(automaton, text, 0, first_row, at)
