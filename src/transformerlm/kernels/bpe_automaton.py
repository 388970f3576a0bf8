"""Kernels that divide a text by an automaton of a pre-tokenisation pattern; `kernels/bpe.py` uses them.

First into stretches: what lies between two neighbouring safe cuts (`safe_cuts`). These show in pairs of
characters, which needs no state, and what is known of a stretch holds wherever it occurs. Only a stretch
that is new is divided into pre-tokens (`divide`), by a machine that reads each character once. Where that has
to go back by more than a character, or where there is no match, the loop is left for `match_end`.

The table and its entries are described in `bpe_layout.py`, their origin in `tokenizer/patterns/table.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from transformerlm.kernels.bpe_layout import ACCEPTS, BEYOND, EMITS, EMITS_BACK, GOES_BACK, ROW
from transformerlm.kernels.bpe_memory import equal_in_64, load16, load64, lowest_bit

u32 = np.uint32
i64 = np.int64
u8 = np.uint8

ONE, NOT_ASCII = np.uint64(1), np.uint64(0x8080808080808080)

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
    safe: Any
    """u8: [end, end]: 1 if a text may be cut between two symbols."""
    safe_ascii: Any
    """u8: the same for two ASCII characters, first | second << 8."""
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
def symbol_before(classes, text, begin, at):
    """Return the symbol of the character that ends at `at`, in a text that begins at `begin` < `at`."""
    for length in range(1, 5):
        if at - length >= begin:
            symbol, found = symbol_at(classes, text, at - length, at)
            if found == length and (length > 1 or text[at - 1] < 0x80):
                return symbol
    return 0


@njit
def start_after(automaton, text, begin, first_row, at):
    """Return the row in which a match begins at `at`: `first_row` at `begin`, before which is nothing."""
    if at <= begin:
        return i64(first_row)
    return i64(automaton.starts[symbol_before(automaton.classes, text, begin, at)])


@njit
def is_safe_cut(automaton, text, begin, at, stop):
    """Return True if the text that begins at `begin` may be cut at `at`."""
    if at <= begin:
        return True
    left = symbol_before(automaton.classes, text, begin, at)
    symbol, _ = symbol_at(automaton.classes, text, at, stop)
    return automaton.safe[left * automaton.end + symbol] != 0


@njit
def safe_cuts(automaton, text, stop, is_end, flags, starts):
    """Write the starts of the stretches of text[0 : stop], and the end of the last one; return their number.

    Those that are certain, whatever follows if not `is_end`. The text begins at a safe cut. `flags`: scratch.
    """
    checked = mark_safe_cuts(automaton, text, stop if is_end else stop - 3, stop, flags)
    for i in range(checked, checked + 64):
        flags[i] = 0
    starts[0] = number = 0
    for block in range(0, checked, 64):
        found = ~equal_in_64(flags, block, u8(0))
        while found:
            number += 1
            starts[number] = block + lowest_bit(found)
            found &= found - ONE
    if is_end:
        number += 1
        starts[number] = stop
    return number


@njit
def mark_safe_cuts(automaton, text, limit, stop, flags):
    """Write 1 to `flags` for each byte before `limit` at which a cut is safe, else 0; return how many."""
    left, at = symbol_at(automaton.classes, text, 0, stop)
    for i in range(at):
        flags[i] = 0
    while at < limit:
        if at + 8 <= limit and (load64(text, at - 1) | load64(text, at)) & NOT_ASCII == 0:
            for i in range(at, at + 8):
                flags[i] = automaton.safe_ascii[load16(text, i - 1)]
            at += 8
            left = i64(automaton.classes[text[at - 1]])
            continue
        for _ in range(8):
            if at >= limit:
                break
            symbol, length = symbol_at(automaton.classes, text, at, stop)
            flags[at] = automaton.safe[left * automaton.end + symbol]
            for i in range(at + 1, at + length):
                flags[i] = 0
            left = symbol
            at += length
    return at


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
def divide(automaton, text, begin, first_row, stop, is_end, starts):
    """Write the starts of the pre-tokens of text[begin : stop], and the end of the last one.

    Returns the number of pre-tokens that are certain, whatever follows if not `is_end`. A match at `begin`
    begins in `first_row`.
    """
    limit = stop if is_end else stop - 3  # the last character may be incomplete
    at = before = last = starts[0] = begin
    number = 0
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
        start = i64(starts[number])
        if last <= start:
            row = start_after(automaton, text, begin, first_row, start)
            last = unit_end(automaton, text, row, start, stop, is_end)
            if last == UNDECIDED:
                return number
        number += 1
        starts[number] = at = before = last
        row = start_after(automaton, text, begin, first_row, at)
