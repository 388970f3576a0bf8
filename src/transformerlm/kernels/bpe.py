"""The tokenizer's compiled kernels, on raw memory.

The readable equivalents are `pretokenize.py`, `bpe.py` and `encode.py` in `tokenizer/`; read them first.
Sections: dividing text by GPT-2's pattern; hash tables of words; encoding; decoding; counting words; learning
merges. A kernel neither allocates nor raises: the caller provides the memory
(`tokenizer/kernel_memory.py`), and a kernel that needs more of it returns a status and is called again.

Importing this module imports numba, which is needed to compile only: see `tokenizer/kernel_library.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from transformerlm.kernels.bpe_automaton import (
    UNDECIDED,
    Automaton,
    divide,
    is_safe_cut,
    safe_cuts,
    start_after,
    unit_end,
)
from transformerlm.kernels.bpe_layout import (
    ARENA_BYTES,
    BATCH,
    BEGIN,
    DONE,
    ENTRY,
    FULL,
    GAP,
    GONE,
    HEAP_SIZE,
    ID_BITS,
    INLINE_IDS,
    LETTER,
    LONG,
    MASKS,
    MAX_STRETCH,
    NEEDED,
    NONE,
    NUM_PAIRS,
    NUM_PLACES,
    NUM_TOKENS,
    NUM_WORDS,
    NUMBER,
    OTHER,
    OUTPUT,
    PADDING,
    PAIR,
    POSITION,
    RANK_BITS,
    SHORT_BYTES,
    SHORT_MERGE,
    SPACE,
    SPILLED,
    TAG,
    TOO_LONG,
    WINDOW,
    WORD_BYTES,
)
from transformerlm.kernels.bpe_memory import (
    classes_of_64,
    equal_in_64,
    load64,
    lowest_bit,
    prefetch,
    store64,
)

u64 = np.uint64
i64 = np.int64

ONE, TOP, WORD = u64(1), u64(63), u64(64)
LOW32, LOW56, RANKS = u64(0xFFFFFFFF), u64((1 << 56) - 1), u64((1 << RANK_BITS) - 1)
PRETOKEN, NO_TAG = u64(TAG), u64(0)
MIX1, MIX2 = u64(0x9E3779B97F4A7C15), u64(0xD6E8FEB86659FD93)

# ---- dividing text into pre-tokens -----------------------------------------------------------------

LETTERS, NUMBERS, SPACES, BLANKS, QUOTES, HIGH, STARTS = range(7)
"""Columns of masks, one bit per byte of 64: classes of characters, and starts of pre-tokens."""


class Window(NamedTuple):
    """The part of a text that is being divided."""

    bytes: Any
    """u8[WINDOW + PADDING]: copy of the text, followed by zeros."""
    masks: Any
    """u64[MASKS] for each 64 bytes."""
    flags: Any
    """u8[WINDOW + PADDING]: scratch."""
    starts: Any
    """i32: starts of the pre-tokens or stretches, and the end of the last one."""
    pieces: Any
    """i32: starts of the pre-tokens of one stretch, and its end."""
    classes: Any
    """u8: class of each code point, of GPT-2's pattern."""
    automaton: Any
    """Automaton of the pattern; with `end` 0 the pattern is GPT-2's, which needs none."""


class Specials(NamedTuple):
    """The special tokens, longest first."""

    text: Any
    """u8: their bytes, concatenated."""
    bounds: Any
    """i64: start of each in `text`, and the end of the last one."""
    ids: Any
    """i32."""
    firsts: Any
    """u8: their distinct first bytes."""
    number: Any
    num_firsts: Any
    num_shared: Any
    """Length of their common prefix in bytes."""


@njit
def bytes_equal(one, at, other, other_at, length):
    """Return True if `length` bytes are equal."""
    for i in range(length):
        if one[at + i] != other[other_at + i]:
            return False
    return True


@njit
def special_at(specials, text, position, stop):
    """Return the index of the special token at `position`, -1 without one."""
    shared = specials.num_shared
    if position + shared > stop or not bytes_equal(text, position, specials.text, 0, shared):
        return -1
    for index in range(specials.number):
        begin, length = specials.bounds[index], specials.bounds[index + 1] - specials.bounds[index]
        if position + length <= stop and bytes_equal(text, position, specials.text, begin, length):
            return index
    return -1


@njit
def next_special(specials, text, position, limit, stop):
    """Return the start of the next special token after `position` and before `limit`, else `limit`."""
    at = position + 1
    if specials.number == 0:
        return limit
    while at < limit:
        if at + 64 > stop:  # bytes after the text must not be read
            if special_at(specials, text, at, stop) >= 0:
                return at
            at += 1
            continue
        found = u64(0)
        for i in range(specials.num_firsts):
            found |= equal_in_64(text, at, specials.firsts[i])
        while found:
            place = at + lowest_bit(found)
            if place < limit and special_at(specials, text, place, stop) >= 0:
                return place
            found &= found - ONE
        at += 64
    return limit


@njit
def fill_window(window, text, position, stop):
    """Copy the next bytes of the text, add zeros, and return the number of bytes copied."""
    num_bytes = min(WINDOW, stop - position)
    for i in range(num_bytes):
        window.bytes[i] = text[position + i]
    for i in range(num_bytes, num_bytes + PADDING):
        window.bytes[i] = 0
    return num_bytes


@njit
def character_class(classes, text, at, stop):
    """Return class and length in bytes of the character at `at`; OTHER and 1 if it is invalid UTF-8."""
    byte = i64(text[at])
    if byte < 0x80:
        return classes[byte], 1
    length = 2 + (byte >= 0xE0) + (byte >= 0xF0)
    if byte < 0xC2 or byte >= 0xF8 or at + length > stop:
        return OTHER, 1
    code, signs = byte & (0x7F >> length), 0
    for i in range(1, length):
        signs |= i64(text[at + i]) ^ 0x80
        code = code << 6 | i64(text[at + i] & 63)
    # A byte that is no continuation, or an overlong encoding. Codes beyond Unicode have the class OTHER.
    if signs >= 0x40 or code >> (5 * length - 4) == 0:
        return OTHER, 1
    return classes[code], length


@njit
def classify(window, num_blocks):
    """Fill the masks of character classes."""
    masks = window.masks
    for block in range(num_blocks):
        letters, numbers, spaces, blanks, quotes, high = classes_of_64(window.bytes, block * 64)
        row = block * MASKS
        masks[row + LETTERS], masks[row + NUMBERS], masks[row + SPACES] = letters, numbers, spaces
        masks[row + BLANKS], masks[row + QUOTES], masks[row + HIGH] = blanks, quotes, high
    for block in range(num_blocks):
        high = masks[block * MASKS + HIGH]
        while high:
            classify_character(window, block * 64 + lowest_bit(high))
            high &= high - ONE


@njit
def classify_character(window, at):
    """Mark all bytes of the non-ASCII character that begins at `at`, if one begins there."""
    if window.bytes[at] < 0xC0:
        return
    kind, length = character_class(window.classes, window.bytes, at, WINDOW + PADDING)
    if kind == OTHER:
        return
    column = LETTERS if kind == LETTER else (NUMBERS if kind == NUMBER else SPACES)
    for i in range(at, at + length):
        window.masks[(i >> 6) * MASKS + column] |= ONE << u64(i & 63)


@njit
def mark_starts(window, num_bytes, num_blocks):
    """Fill the masks of starts without regard to contractions; keep the QUOTES that may begin one."""
    masks = window.masks
    letters_before = numbers_before = others_before = spaces_before = blanks_before = u64(0)
    for block in range(num_blocks):
        row = block * MASKS
        left = num_bytes - block * 64
        valid = ~u64(0) if left >= 64 else (ONE << u64(left)) - ONE
        letters, numbers, spaces = masks[row + LETTERS], masks[row + NUMBERS], masks[row + SPACES]
        others = valid & ~(letters | numbers | spaces)
        blanks = masks[row + BLANKS]
        runs = letters & ~(letters << ONE | letters_before)
        runs |= numbers & ~(numbers << ONE | numbers_before)
        runs |= others & ~(others << ONE | others_before)
        runs &= ~(blanks << ONE | blanks_before)  # a blank belongs to the run that follows it
        follows = valid >> ONE
        spaces_behind = spaces >> ONE
        if left > 64:
            follows |= ONE << TOP
            spaces_behind |= masks[row + MASKS + SPACES] << TOP
        ends = spaces & follows & ~spaces_behind  # the last space of a run is a pre-token of its own
        if ends & masks[row + HIGH]:
            ends = move_to_first_bytes(window, block, ends)
        masks[row + QUOTES] &= runs
        masks[row + STARTS] = runs | ends | (spaces & ~(spaces << ONE | spaces_before))
        letters_before, numbers_before, others_before = letters >> TOP, numbers >> TOP, others >> TOP
        spaces_before, blanks_before = spaces >> TOP, blanks >> TOP


@njit
def move_to_first_bytes(window, block, ends):
    """Move each bit of `ends` from the last byte of a character to its first, also into the block before."""
    moved = u64(0)
    while ends:
        at = block * 64 + lowest_bit(ends)
        while window.bytes[at] & 0xC0 == 0x80:
            at -= 1
        if at >> 6 == block:
            moved |= ONE << u64(at & 63)
        else:
            window.masks[(at >> 6) * MASKS + STARTS] |= ONE << u64(at & 63)
        ends &= ends - ONE
    return moved


@njit
def mark_contractions(window, num_blocks):
    """Correct the starts after the contractions 's, 'd, 'm, 't, 'll, 've and 're."""
    for block in range(num_blocks):
        quotes = window.masks[block * MASKS + QUOTES]
        while quotes:
            at = block * 64 + lowest_bit(quotes)
            quotes &= quotes - ONE
            length = contraction_length(window.bytes, at)
            if length:
                window.masks[((at + 1) >> 6) * MASKS + STARTS] &= ~(ONE << u64((at + 1) & 63))
                end = at + length
                window.masks[(end >> 6) * MASKS + STARTS] |= ONE << u64(end & 63)


@njit
def contraction_length(text, at):
    """Return the length of the contraction that begins with the quote at `at`, 0 if there is none."""
    first, second = text[at + 1], text[at + 2]
    if first == 115 or first == 100 or first == 109 or first == 116:  # s d m t
        return 2
    if (first == 108 and second == 108) or ((first == 118 or first == 114) and second == 101):  # ll ve re
        return 3
    return 0


@njit
def find_pretokens(window, num_bytes, is_end):
    """Find the pre-tokens in the window and return the number of those that are certain to be complete.

    If the text continues after the window, those near its end may change with what follows.
    """
    num_blocks = (num_bytes + 63) >> 6
    for i in range(MASKS):
        window.masks[num_blocks * MASKS + i] = 0
    classify(window, num_blocks)
    mark_starts(window, num_bytes, num_blocks)
    mark_contractions(window, num_blocks)
    number = 0
    for block in range(num_blocks):
        starts = window.masks[block * MASKS + STARTS]
        while starts:
            window.starts[number] = block * 64 + lowest_bit(starts)
            number += 1
            starts &= starts - ONE
    limit = num_bytes if is_end else num_bytes - 8
    while number > 0 and window.starts[number - 1] >= limit:
        number -= 1
    if not is_end:
        return number - 1
    window.starts[number] = num_bytes
    return number


@njit
def long_pretoken_end(classes, text, position, stop):
    """Return the end of the pre-token at `position`, which may have any length; ignores contractions."""
    at = position
    if text[at] == 32 and at + 1 < stop:
        kind, length = character_class(classes, text, at + 1, stop)
        if kind != SPACE:
            at += 1
    kind, length = character_class(classes, text, at, stop)
    last = at
    while at < stop:
        found, length = character_class(classes, text, at, stop)
        if found != kind:
            # The last character of a run of white space belongs to the next pre-token.
            return last if kind == SPACE and last > position else at
        last = at
        at += length
    return stop


@njit
def divide_window(text, position, end, is_end, window, begin):
    """Divide text[position : end], which the window holds.

    Returns the number of parts that are certain, and True if they are stretches, False if pre-tokens. The
    text, or the part of it that is without special tokens, begins at `begin`.
    """
    num_bytes = fill_window(window, text, position, end)
    automaton = window.automaton
    if automaton.end == 0:
        return find_pretokens(window, num_bytes, is_end), False
    if is_safe_cut(automaton, text, begin, position, end):
        number = safe_cuts(automaton, window.bytes, num_bytes, is_end, window.flags, window.starts)
        if number > 0:
            return number, True
    row = start_after(automaton, text, begin, automaton.starts[automaton.end], position)
    return divide(automaton, window.bytes, 0, row, num_bytes, is_end, window.starts), False


@njit
def divide_stretch(window, start, end):
    """Find the pre-tokens of a stretch in the window, and return their number."""
    automaton = window.automaton
    row = automaton.starts[automaton.end]  # begins as at the beginning of a text, since the cut is safe
    return divide(automaton, window.bytes, start, row, end, True, window.pieces)


@njit
def long_unit_end(text, position, stop, window, specials, begin):
    """Return the end of the pre-token at `position`, which may have any length."""
    automaton = window.automaton
    if automaton.end == 0:
        end = long_pretoken_end(window.classes, text, position, stop)
        # One character further, because a run of white space ends differently before a special token.
        limit = min(stop, end + 8)
        special_begin = next_special(specials, text, position, limit, stop)
        if special_begin < limit:
            end = long_pretoken_end(window.classes, text, position, special_begin)
        return end
    row = start_after(automaton, text, begin, automaton.starts[automaton.end], position)
    reach = 2 * WINDOW
    while True:
        limit = min(stop, position + reach)
        special_begin = next_special(specials, text, position, limit, stop)
        is_end = special_begin < limit or limit == stop
        end = unit_end(automaton, text, row, position, special_begin, is_end)
        if end != UNDECIDED:
            return end
        reach *= 2


def scanner(window_kernel: Callable[..., Any], long_kernel: Callable[..., Any], special_kernel: Any) -> Any:
    """Return a loop over a text that passes its parts, long pre-tokens and special tokens to kernels.

    Parts are stretches or pre-tokens, see `divide_window`. All kernels take `sink`. The loop stops when a
    kernel reports that it needs more memory.
    """

    @njit
    def scan(text, stop, sink, window, specials):
        state = sink.state
        while state[POSITION] < stop:
            position = state[POSITION]
            special = special_at(specials, text, position, stop)
            if special >= 0:
                special_kernel(sink, specials.ids[special])
                state[POSITION] += specials.bounds[special + 1] - specials.bounds[special]
                state[BEGIN] = state[POSITION]
                continue
            end = next_special(specials, text, position, min(stop, position + WINDOW), stop)
            # Before a special token a text ends; a full window may continue.
            is_end = end < position + WINDOW
            number, are_stretches = divide_window(text, position, end, is_end, window, state[BEGIN])
            if number == 0:
                end = long_unit_end(text, position, stop, window, specials, state[BEGIN])
                if end - position <= WINDOW:
                    window.starts[0], window.starts[1] = 0, fill_window(window, text, position, end)
                    number = 1
            if number > 0:
                done = window_kernel(sink, window, number, are_stretches)
                state[POSITION] += window.starts[done]
                if done < number:
                    return FULL
                continue
            status = long_kernel(sink, text, position, end)
            if status != DONE:
                return status
            state[POSITION] = end
        return DONE

    return scan


# ---- hash tables of words --------------------------------------------------------------------------


class Words(NamedTuple):
    """A hash table of pre-tokens; `bpe_layout.py` describes its entries."""

    table: Any
    capacity: Any
    """Number of entries, a power of two."""
    arena: Any
    """u8: length (eight bytes) and bytes of each long pre-token."""
    arena_size: Any
    keys: Any
    """u64[4 * BATCH]: scratch."""
    state: Any


@njit
def slot_of(key0, key1, capacity):
    """Return the preferred entry of a key in a table of `capacity` entries, a power of two."""
    product = (key0 ^ (key1 * MIX1)) * MIX2
    return i64(product >> (WORD - u64(lowest_bit(u64(capacity)))))


@njit
def hash_bytes(text, start, length):
    """Return a 64-bit hash of at least eight bytes."""
    value = u64(length)
    for i in range(start, start + length - 8, 8):
        value = (value ^ load64(text, i)) * MIX1
        value ^= value >> u64(29)
    value = (value ^ load64(text, start + length - 8)) * MIX2
    return value ^ (value >> u64(32))


@njit
def tag_of(window, are_stretches):
    """Return what marks the keys of the parts of a text: of a pre-token that may also be a stretch."""
    return PRETOKEN if window.automaton.end > 0 and not are_stretches else NO_TAG


@njit
def hash_batch(words, window, first, number, tag):
    """Compute keys and entries of `number` pre-tokens from `first` on, and prefetch the entries."""
    for i in range(number):
        start = i64(window.starts[first + i])
        length = i64(window.starts[first + i + 1]) - start
        key0, key1 = key_of(window.bytes, start, length, tag)
        slot = slot_of(key0, key1, words.capacity)
        words.keys[4 * i], words.keys[4 * i + 1], words.keys[4 * i + 2] = key0, key1, u64(slot)
        prefetch(words.table, slot * ENTRY)


@njit
def key_of(text, start, length, tag):
    """Return the key of a word; 16 bytes from its start must be readable."""
    if length > SHORT_BYTES:
        return hash_bytes(text, start, length) ^ tag, LONG
    # Shifts instead of branches on the length, which would be mispredicted.
    first = load64(text, start) & (~u64(0) >> (WORD - u64(min(length, 8) * 8)))
    rest = load64(text, start + 8) & ((ONE << u64(max(length - 8, 0) * 8)) - ONE)
    return first, rest | u64(length) << u64(56) | tag


@njit
def arena_equal(words, offset, text, start, length):
    """Return True if the arena holds this pre-token at `offset`."""
    arena = words.arena
    if load64(arena, offset - 8) != u64(length):
        return False
    for i in range(0, length - 8, 8):
        if load64(arena, offset + i) != load64(text, start + i):
            return False
    return load64(arena, offset + length - 8) == load64(text, start + length - 8)


@njit
def find_word(words, text, start, length, key0, key1, slot):
    """Return the entry of a pre-token, or the empty entry for it."""
    table = words.table
    while True:
        at = slot * ENTRY
        found = table[at + 1]
        if found == 0 or holds_short_word(table, at, key0, key1):
            return at
        may_be_equal = key1 == LONG and found > LONG and table[at] == key0
        if may_be_equal and arena_equal(words, i64(found & LOW56), text, start, length):
            return at
        slot = (slot + 1) & (words.capacity - 1)


@njit
def holds_short_word(table, at, key0, key1):
    """Return True if the entry is that of a short pre-token with this key; False for all long ones."""
    return ((table[at] ^ key0) | (table[at + 1] ^ key1)) == 0


@njit
def has_room(words, length):
    """Return True if the table has room for one more word of `length` bytes."""
    state = words.state
    if 2 * state[NUM_WORDS] >= words.capacity:
        return False
    return length <= SHORT_BYTES or state[ARENA_BYTES] + length + 16 <= words.arena_size


@njit
def add_word(words, at, text, start, length, key0, key1):
    """Insert a word at its empty entry."""
    state = words.state
    if key1 == LONG:
        offset = state[ARENA_BYTES] + 8
        store64(words.arena, offset - 8, u64(length))
        for i in range(0, length - 8, 8):
            store64(words.arena, offset + i, load64(text, start + i))
        store64(words.arena, offset + length - 8, load64(text, start + length - 8))
        state[ARENA_BYTES] = offset + length
        key1 = LONG | u64(offset)
    words.table[at], words.table[at + 1] = key0, key1
    state[NUM_WORDS] += 1
    state[WORD_BYTES] += length


# ---- encoding ---------------------------------------------------------------------------------------


class Rules(NamedTuple):
    """The merges."""

    pairs: Any
    """u64[capacity]: hash table of pairs and their ranks; `bpe_layout.py` describes its entries."""
    capacity: Any
    byte_ids: Any
    """i32[256]; -1 for a byte that is left out."""
    lengths: Any
    """i32: length of each token in bytes."""
    results: Any
    """i32: id of the result of each merge, by rank."""


class Encoder(NamedTuple):
    """Memory of an encoding thread."""

    words: Any
    rules: Any
    out16: Any
    out32: Any
    """The output memory as two types; `is_wide` selects ids of 16 or of 32 bits."""
    is_wide: Any
    spill: Any
    """i32: ids of words with more than INLINE_IDS ids."""
    spill_size: Any
    ids: Any
    """i32[scratch_size]."""
    heap: Any
    """u64[2 * scratch_size]."""
    links: Any
    """i32[2 * SHORT_MERGE]: place of the next token of each place, then of the previous one."""
    scratch_size: Any
    whole: Any
    """Words: tokens that a pre-token becomes as a whole, with their ids as the first value; may be empty."""
    state: Any


@njit
def find_pair(rules, left, right):
    """Return the rank of a pair of ids, NONE if it is not merged."""
    key = u64(left) << u64(ID_BITS) | u64(right)
    slot = slot_of(key, ONE, rules.capacity)
    while True:
        found = rules.pairs[slot]
        if found >> u64(RANK_BITS) == key:
            return found & RANKS
        if found == NONE:
            return NONE
        slot = (slot + 1) & (rules.capacity - 1)


@njit
def heap_push(heap, size, item):
    """Push an item onto a min-heap of `size` items."""
    while size > 0:
        parent = (size - 1) >> 1
        if heap[parent] <= item:
            break
        heap[size] = heap[parent]
        size = parent
    heap[size] = item


@njit
def heap_pop(heap, size):
    """Remove the least item from a min-heap of `size` items."""
    last = heap[size - 1]
    hole, child = 0, 1
    while child < size - 1:
        if child + 1 < size - 1 and heap[child + 1] < heap[child]:
            child += 1
        if last <= heap[child]:
            break
        heap[hole] = heap[child]
        hole, child = child, 2 * child + 1
    heap[hole] = last


@njit
def byte_tokens(rules, ids, text, start, length):
    """Write the tokens of bytes into ids and return their number; a byte without a token is left out."""
    number = 0
    for i in range(length):
        token = rules.byte_ids[text[start + i]]
        ids[number] = token
        if token >= 0:
            number += 1
    return number


@njit
def merge_short(encoder, text, start, length):
    """Encode a pre-token of at most SHORT_MERGE bytes into encoder.ids and return the number of ids.

    Searches all places for the least rank after each merge. ranks[place] is rank << 8 | place of the pair
    that begins there.
    """
    rules, ids, ranks = encoder.rules, encoder.ids, encoder.heap
    links = encoder.links
    length = byte_tokens(rules, ids, text, start, length)
    if length == 0:
        return 0
    for i in range(length):
        links[i] = i + 1
        links[SHORT_MERGE + i] = i - 1
    for i in range(length - 1):
        ranks[i] = rank_at(rules, ids, i, i + 1)
    ranks[length - 1] = NONE
    number = length
    while True:
        least = NONE
        for i in range(length):
            least = min(least, ranks[i])
        if least == NONE:
            break
        place = i64(least & u64(255))
        second = i64(links[place])
        behind = i64(links[second])
        ids[place] = rules.results[i64(least >> u64(8))]
        links[place] = behind
        ranks[second] = NONE
        number -= 1
        ranks[place] = NONE
        if behind < length:
            links[SHORT_MERGE + behind] = place
            ranks[place] = rank_at(rules, ids, place, behind)
        before = i64(links[SHORT_MERGE + place])
        if before >= 0:
            ranks[before] = rank_at(rules, ids, before, place)
    place = 0
    for i in range(number):
        ids[i] = ids[place]
        place = i64(links[place])
    return number


@njit
def rank_at(rules, ids, place, second):
    """Return rank << 8 | place of the pair at two places, NONE if it is not merged."""
    found = find_pair(rules, ids[place], ids[second])
    return found if found == NONE else found << u64(8) | u64(place)


@njit
def merge_long(encoder, text, start, length):
    """Encode a pre-token of any length into encoder.ids in O(n log n) time; return the number of ids.

    The id of a token is stored at its first and at its last byte, so that neighbours are found in both
    directions. The heap holds rank << 32 | place; an entry is out of date if the pair there has another rank.
    """
    rules, ids, heap = encoder.rules, encoder.ids, encoder.heap
    lengths = rules.lengths
    size = 0
    length = byte_tokens(rules, ids, text, start, length)
    for i in range(length - 1):
        size = push_pair(rules, heap, size, ids[i], ids[i + 1], i)
    while size > 0:
        item = heap[0]
        heap_pop(heap, size)
        size -= 1
        place = i64(item & LOW32)
        left = ids[place]
        if left < 0 or place + lengths[left] >= length:
            continue
        second = place + lengths[left]
        right = ids[second]
        if right < 0:
            continue
        found = find_pair(rules, left, right)
        if found != item >> u64(32):
            continue
        merged, behind = rules.results[i64(found)], second + lengths[right]
        ids[second] = GONE
        ids[behind - 1] = ids[place] = merged
        if place > 0:
            before = ids[place - 1]
            size = push_pair(rules, heap, size, before, merged, place - lengths[before])
        if behind < length:
            size = push_pair(rules, heap, size, merged, ids[behind], place)
    number = at = 0
    while at < length:
        token = ids[at]
        ids[number] = token
        number += 1
        at += lengths[token]
    return number


@njit
def push_pair(rules, heap, size, left, right, place):
    """Push a pair if it is ever merged, and return the heap's new size."""
    found = find_pair(rules, left, right)
    if found == NONE:
        return size
    heap_push(heap, size, found << u64(32) | u64(place))
    return size + 1


@njit
def merge_word(encoder, text, start, length):
    """Encode a pre-token into encoder.ids and return the number of ids."""
    whole = encoder.whole
    if whole.capacity > 1:
        key0, key1 = key_of(text, start, length, NO_TAG)
        at = find_word(whole, text, start, length, key0, key1, slot_of(key0, key1, whole.capacity))
        if whole.table[at + 1] != 0:
            encoder.ids[0] = whole.table[at + 2]
            return 1
    if length <= SHORT_MERGE:
        return merge_short(encoder, text, start, length)
    return merge_long(encoder, text, start, length)


@njit
def write_id(encoder, at, token):
    """Write one id to the output."""
    if encoder.is_wide:
        encoder.out32[at] = token
    else:
        encoder.out16[at] = token


@njit
def encode_stretch(encoder, window, start, length):
    """Encode a stretch into encoder.ids and return the number of ids; room for them in `spill` is used."""
    spill, first = encoder.spill, encoder.state[SPILLED]
    number = 0
    for i in range(divide_stretch(window, start, start + length)):
        begin = i64(window.pieces[i])
        added = merge_word(encoder, window.bytes, begin, i64(window.pieces[i + 1]) - begin)
        for j in range(added):
            spill[first + number + j] = encoder.ids[j]
        number += added
    for j in range(number):
        encoder.ids[j] = spill[first + j]
    return number


@njit
def encode_and_insert(encoder, at, window, start, length, key0, key1, is_stretch):
    """Encode a word or a stretch and insert it at its empty entry; False if there is no room."""
    state = encoder.state
    if not has_room(encoder.words, length) or state[SPILLED] + length > encoder.spill_size:
        return False
    if is_stretch:
        number = encode_stretch(encoder, window, start, length)
    else:
        number = merge_word(encoder, window.bytes, start, length)
    add_word(encoder.words, at, window.bytes, start, length, key0, key1)
    ids, table = encoder.ids, encoder.words.table
    if number <= INLINE_IDS:
        for i in range(number, INLINE_IDS):
            ids[i] = 0
        table[at + 2] = u64(ids[0]) | u64(ids[1]) << u64(32)
        table[at + 3] = u64(ids[2]) | u64(number) << u64(32)
    else:
        table[at + 2], table[at + 3] = u64(state[SPILLED]), u64(number) << u64(32)
        for i in range(number):
            encoder.spill[state[SPILLED] + i] = ids[i]
        state[SPILLED] += number
    return True


@njit
def write_word_ids(encoder, at, out):
    """Write the ids of the word at an entry and return the output position after them."""
    first, second = encoder.words.table[at + 2], encoder.words.table[at + 3]
    number = i64(second >> u64(32))
    if number <= INLINE_IDS:
        # Always three ids, without a branch: surplus ones are overwritten by the next word.
        write_id(encoder, out, first & LOW32)
        write_id(encoder, out + 1, first >> u64(32))
        write_id(encoder, out + 2, second & LOW32)
    else:
        for i in range(number):
            write_id(encoder, out + i, encoder.spill[i64(first) + i])
    return out + number


@njit
def encode_window(encoder, window, number, are_stretches):
    """Write the ids of the window's parts; return how many were encoded, fewer if a table is full."""
    state, words = encoder.state, encoder.words
    out = state[OUTPUT]
    tag = tag_of(window, are_stretches)
    for first in range(0, number, BATCH):
        size = min(BATCH, number - first)
        hash_batch(words, window, first, size, tag)
        for i in range(size):
            key0, key1, at = words.keys[4 * i], words.keys[4 * i + 1], i64(words.keys[4 * i + 2]) * ENTRY
            if holds_short_word(words.table, at, key0, key1):
                out = write_word_ids(encoder, at, out)
                continue
            start = i64(window.starts[first + i])
            length = i64(window.starts[first + i + 1]) - start
            if are_stretches and length > MAX_STRETCH:
                after = encode_long_stretch(encoder, window, start, length, out)
            else:
                slot = i64(words.keys[4 * i + 2])
                after = encode_part(encoder, window, start, length, key0, key1, slot, are_stretches, out)
            if after < 0:
                state[OUTPUT] = out
                return first + i
            out = after
    state[OUTPUT] = out
    return number


@njit
def encode_part(encoder, window, start, length, key0, key1, slot, is_stretch, out):
    """Write the ids of a part of the window; return the output position after them, -1 if a table is full."""
    words = encoder.words
    at = find_word(words, window.bytes, start, length, key0, key1, slot)
    if words.table[at + 1] == 0 and not encode_and_insert(
        encoder, at, window, start, length, key0, key1, is_stretch
    ):
        return -1
    return write_word_ids(encoder, at, out)


@njit
def encode_long_stretch(encoder, window, start, length, out):
    """Write the ids of a stretch too long to be remembered as a whole; results as of `encode_part`."""
    for i in range(divide_stretch(window, start, start + length)):
        begin = i64(window.pieces[i])
        size = i64(window.pieces[i + 1]) - begin
        key0, key1 = key_of(window.bytes, begin, size, PRETOKEN)
        slot = slot_of(key0, key1, encoder.words.capacity)
        out = encode_part(encoder, window, begin, size, key0, key1, slot, False, out)
        if out < 0:
            break
    return out


@njit
def encode_long(encoder, text, start, end):
    """Write the ids of one long pre-token, without the table."""
    state = encoder.state
    if end - start > encoder.scratch_size:
        state[NEEDED] = end - start
        return TOO_LONG
    for i in range(merge_word(encoder, text, start, end - start)):
        write_id(encoder, state[OUTPUT], encoder.ids[i])
        state[OUTPUT] += 1
    return DONE


@njit
def encode_special(encoder, token):
    """Write the id of a special token."""
    write_id(encoder, encoder.state[OUTPUT], token)
    encoder.state[OUTPUT] += 1


scan_and_encode = scanner(encode_window, encode_long, encode_special)


def encode(
    text,
    stop,
    out16,
    out32,
    is_wide,
    state,
    table,
    capacity,
    arena,
    arena_size,
    spill,
    spill_size,
    ids,
    heap,
    links,
    scratch_size,
    keys,
    window,
    masks,
    flags,
    starts,
    pieces,
    classes,
    automaton,
    start_rows,
    groups_of_symbols,
    safe_pairs,
    safe_ascii,
    end_symbol,
    whole_table,
    whole_capacity,
    whole_arena,
    pairs,
    pairs_capacity,
    byte_ids,
    lengths,
    results,
    special_text,
    special_bounds,
    special_ids,
    firsts,
    num_specials,
    num_firsts,
    num_shared,
):
    """Encode text[state[POSITION] : stop]."""
    words = Words(table, capacity, arena, arena_size, keys, state)
    rules = Rules(pairs, pairs_capacity, byte_ids, lengths, results)
    whole = Words(whole_table, whole_capacity, whole_arena, 0, keys, state)
    encoder = Encoder(
        words, rules, out16, out32, is_wide, spill, spill_size, ids, heap, links, scratch_size, whole, state
    )
    specials = Specials(
        special_text, special_bounds, special_ids, firsts, num_specials, num_firsts, num_shared
    )
    tables = Automaton(automaton, start_rows, classes, groups_of_symbols, safe_pairs, safe_ascii, end_symbol)
    parts = Window(window, masks, flags, starts, pieces, classes, tables)
    return scan_and_encode(text, stop, encoder, parts, specials)


def rehash_words(old, old_capacity, table, capacity):
    """Insert all words of a table into an empty, larger one with the same arena."""
    for entry in range(0, old_capacity * ENTRY, ENTRY):
        if old[entry + 1]:
            slot = slot_of(old[entry], min(old[entry + 1], LONG), capacity)
            while table[slot * ENTRY + 1]:
                slot = (slot + 1) & (capacity - 1)
            for i in range(ENTRY):
                table[slot * ENTRY + i] = old[entry + i]
    return DONE


def fill_whole_words(text, begins, ends, ids, number, state, table, capacity, arena, arena_size, keys):
    """Fill an empty table of words with tokens and their ids; 16 bytes after each token must be readable."""
    words = Words(table, capacity, arena, arena_size, keys, state)
    for i in range(number):
        start, length = begins[i], ends[i] - begins[i]
        key0, key1 = key_of(text, start, length, NO_TAG)
        at = find_word(words, text, start, length, key0, key1, slot_of(key0, key1, capacity))
        if table[at + 1] == 0:
            add_word(words, at, text, start, length, key0, key1)
        table[at + 2] = u64(ids[i])
    return DONE


def fill_pair_table(keys, number, pairs, pairs_capacity):
    """Fill an empty table of pairs; `keys` holds left << ID_BITS | right of each rank."""
    for rank in range(number):
        slot = slot_of(keys[rank], ONE, pairs_capacity)
        while pairs[slot] != NONE:
            slot = (slot + 1) & (pairs_capacity - 1)
        pairs[slot] = keys[rank] << u64(RANK_BITS) | u64(rank)
    return DONE


# ---- decoding ---------------------------------------------------------------------------------------


def decoded_size(ids16, ids32, is_wide, number, spans, num_tokens):
    """Return the length in bytes of the text of `number` ids, or -1 - index of the first invalid id."""
    total = 0
    for i in range(number):
        token = i64(ids32[i]) if is_wide else i64(ids16[i])
        if token >= num_tokens:
            return -1 - i
        total += i64(spans[token] & LOW32)
    return total


def decode(ids16, ids32, is_wide, row_ends, num_rows, spans, text, out, byte_ends):
    """Write the bytes of rows of ids, and where each row ends in them: byte_ends[num_rows].

    Returns the number of bytes; up to 15 bytes after them are overwritten. A row ends at ids[row_ends[row]],
    exclusive, where the next begins.
    """
    at, first = 0, 0
    for row in range(num_rows):
        for i in range(first, row_ends[row]):
            token = i64(ids32[i]) if is_wide else i64(ids16[i])
            span = spans[token]
            begin, length = i64(span >> u64(32)), i64(span & LOW32)
            for j in range(0, length, 16):
                store64(out, at + j, load64(text, begin + j))
                store64(out, at + j + 8, load64(text, begin + j + 8))
            at += length
        first = row_ends[row]
        byte_ends[row] = at
    return at


# ---- counting words ---------------------------------------------------------------------------------


class Counts(NamedTuple):
    """Tables of words and of stretches, with their counts as the first value."""

    words: Any
    stretches: Any
    state: Any


@njit
def count_word(words, text, start, length, key0, key1, slot, weight):
    """Count a word `weight` times; False if it is new and does not fit."""
    at = find_word(words, text, start, length, key0, key1, slot)
    if words.table[at + 1] == 0:
        if not has_room(words, length):
            return False
        add_word(words, at, text, start, length, key0, key1)
    words.table[at + 2] += u64(weight)
    return True


@njit
def count_window(counts, window, number, are_stretches):
    """Count the window's parts; return how many were counted, fewer if a table is full."""
    if are_stretches:
        return count_parts(counts, counts.stretches, window, number, MAX_STRETCH)
    return count_parts(counts, counts.words, window, number, WINDOW)


@njit
def count_parts(counts, table, window, number, most):
    """Count parts of up to `most` bytes in a table; longer ones are stretches, of which words are counted."""
    for first in range(0, number, BATCH):
        size = min(BATCH, number - first)
        hash_batch(table, window, first, size, NO_TAG)
        for i in range(size):
            key0, key1, slot = table.keys[4 * i], table.keys[4 * i + 1], i64(table.keys[4 * i + 2])
            start = i64(window.starts[first + i])
            length = i64(window.starts[first + i + 1]) - start
            if length > most:
                is_counted = count_words_of(counts, window, start, length, 1)
            else:
                is_counted = count_word(table, window.bytes, start, length, key0, key1, slot, 1)
            if not is_counted:
                return first + i
    return number


@njit
def count_words_of(counts, window, start, length, weight):
    """Count the words of a stretch in the window `weight` times; False, and nothing counted, without room."""
    words, state = counts.words, counts.state
    number = divide_stretch(window, start, start + length)
    # A word of the arena has at least 16 bytes, and takes 8 more for its length.
    needed = 2 * length + 16
    if 2 * (state[NUM_WORDS] + number) > words.capacity or state[ARENA_BYTES] + needed > words.arena_size:
        state[NEEDED] = needed
        return False
    for i in range(number):
        begin = i64(window.pieces[i])
        size = i64(window.pieces[i + 1]) - begin
        key0, key1 = key_of(window.bytes, begin, size, NO_TAG)
        slot = slot_of(key0, key1, words.capacity)
        count_word(words, window.bytes, begin, size, key0, key1, slot, weight)
    return True


@njit
def count_long(counts, text, start, end):
    """Count one long pre-token."""
    key0, key1 = key_of(text, start, end - start, NO_TAG)
    slot = slot_of(key0, key1, counts.words.capacity)
    counts.state[NEEDED] = end - start
    return DONE if count_word(counts.words, text, start, end - start, key0, key1, slot, 1) else FULL


@njit
def count_special(counts, token):
    """Do nothing: special tokens are not counted."""


scan_and_count = scanner(count_window, count_long, count_special)


def count(
    text,
    stop,
    state,
    table,
    capacity,
    arena,
    arena_size,
    stretch_state,
    stretch_table,
    stretch_capacity,
    stretch_arena,
    stretch_arena_size,
    keys,
    window,
    masks,
    flags,
    starts,
    pieces,
    classes,
    automaton,
    start_rows,
    groups_of_symbols,
    safe_pairs,
    safe_ascii,
    end_symbol,
    special_text,
    special_bounds,
    special_ids,
    firsts,
    num_specials,
    num_firsts,
    num_shared,
):
    """Count the stretches of text[state[POSITION] : stop], and the pre-tokens that are not in stretches."""
    words = Words(table, capacity, arena, arena_size, keys, state)
    stretches = Words(stretch_table, stretch_capacity, stretch_arena, stretch_arena_size, keys, stretch_state)
    specials = Specials(
        special_text, special_bounds, special_ids, firsts, num_specials, num_firsts, num_shared
    )
    tables = Automaton(automaton, start_rows, classes, groups_of_symbols, safe_pairs, safe_ascii, end_symbol)
    parts = Window(window, masks, flags, starts, pieces, classes, tables)
    return scan_and_count(text, stop, Counts(words, stretches, state), parts, specials)


def settle(
    state,
    table,
    capacity,
    arena,
    arena_size,
    stretch_table,
    stretch_capacity,
    stretch_arena,
    keys,
    window,
    masks,
    flags,
    starts,
    pieces,
    classes,
    automaton,
    start_rows,
    groups_of_symbols,
    safe_pairs,
    safe_ascii,
    end_symbol,
):
    """Count the pre-tokens of all stretches from entry state[POSITION] on, as often as those were counted."""
    words = Words(table, capacity, arena, arena_size, keys, state)
    tables = Automaton(automaton, start_rows, classes, groups_of_symbols, safe_pairs, safe_ascii, end_symbol)
    parts = Window(window, masks, flags, starts, pieces, classes, tables)
    counts = Counts(words, words, state)
    while state[POSITION] < stretch_capacity:
        entry = state[POSITION] * ENTRY
        if stretch_table[entry + 1]:
            length = copy_word(stretch_table, entry, stretch_arena, window, 0)
            if not count_words_of(counts, parts, 0, length, stretch_table[entry + 2]):
                return FULL
        state[POSITION] += 1
    return DONE


@njit
def copy_word(table, entry, arena, text, at):
    """Copy the bytes of a word to text[at:], with up to 15 more after them; return their number."""
    key0, key1 = table[entry], table[entry + 1]
    if key1 <= LONG:
        store64(text, at, key0)
        store64(text, at + 8, key1)
        return i64(key1 >> u64(56))
    start = i64(key1 & LOW56)
    length = i64(load64(arena, start - 8))
    for i in range(length):
        text[at + i] = arena[start + i]
    return length


def add_counts(other, other_capacity, other_arena, state, table, capacity, arena, arena_size, keys):
    """Add the counts of another table to one that has room for its words."""
    words = Words(table, capacity, arena, arena_size, keys, state)
    for entry in range(0, other_capacity * ENTRY, ENTRY):
        key0, key1 = other[entry], other[entry + 1]
        if key1:
            start, length = 0, i64(key1 >> u64(56))
            if key1 > LONG:
                start = i64(key1 & LOW56)
                length, key1 = i64(load64(other_arena, start - 8)), LONG
            slot = slot_of(key0, key1, capacity)
            at = find_word(words, other_arena, start, length, key0, key1, slot)
            if table[at + 1] == 0:
                add_word(words, at, other_arena, start, length, key0, key1)
            table[at + 2] += other[entry + 2]
    return DONE


def list_words(table, capacity, entries, counts):
    """List entries and counts of the words of at least two bytes; return their number."""
    number = 0
    for entry in range(0, capacity * ENTRY, ENTRY):
        if table[entry + 1] and table[entry + 1] >> u64(56) != ONE:
            entries[number], counts[number] = entry, i64(table[entry + 2])
            number += 1
    return number


def write_words(table, arena, entries, number, text, gaps):
    """Write the words of some entries in a row, with a gap of one byte before and after each."""
    text[0], gaps[0] = 0, 0
    at = 1
    for i in range(number):
        at += copy_word(table, entries[i], arena, text, at)
        text[at], gaps[i + 1] = 0, at
        at += 1
    return at


# ---- learning merges --------------------------------------------------------------------------------


class Corpus(NamedTuple):
    """All words as bytes and as tokens, in order of falling counts, with GAPs between them.

    The id of a token is stored at its first and at its last byte, as in `merge_long`.
    """

    text: Any
    ids: Any
    """i32."""
    groups: Any
    """i64: starts of the groups of words with equal counts, and the end of the last group."""
    weights: Any
    """i64: count of the words of each group."""
    num_groups: Any


class Tokens(NamedTuple):
    """Bytes of each token."""

    lengths: Any
    """i32: length in bytes."""
    examples: Any
    """i64: an offset at which its bytes stand in the corpus."""
    prefixes: Any
    """u64: its first eight bytes, big-endian: numbers compare as byte strings do."""


class Neighbours(NamedTuple):
    """Scratch: the tokens on one side of the occurrences of a merge."""

    touched: Any
    """i32: list of these tokens."""
    weights: Any
    """i64: by token, the summed counts of the words."""
    numbers: Any
    """i64: by token, the number of occurrences; later the position in the list of places."""


class Trainer(NamedTuple):
    """State of learning merges."""

    corpus: Any
    tokens: Any
    pairs: Any
    """u64[PAIR * capacity]: hash table of pairs."""
    capacity: Any
    places: Any
    """u32: places of each pair, ascending; some are out of date."""
    heap: Any
    """u64[2 * capacity]: max-heap of (count, pair); a count may since have become lower."""
    stash: Any
    """i64[3 * number]: scratch."""
    left: Any
    right: Any
    state: Any


@njit
def compare_tokens(trainer, one, other):
    """Compare two tokens as byte strings: -1, 0 or 1."""
    if one == other:
        return 0
    tokens, text = trainer.tokens, trainer.corpus.text
    if tokens.prefixes[one] != tokens.prefixes[other]:
        return -1 if tokens.prefixes[one] < tokens.prefixes[other] else 1
    length, other_length = tokens.lengths[one], tokens.lengths[other]
    for i in range(8, min(length, other_length)):
        byte, other_byte = text[tokens.examples[one] + i], text[tokens.examples[other] + i]
        if byte != other_byte:
            return -1 if byte < other_byte else 1
    return -1 if length < other_length else 1


@njit
def comes_first(trainer, count, pair, other_count, other_pair):
    """Return True if a pair precedes another: greater count, for equal counts greater byte strings."""
    if count != other_count:
        return count > other_count
    order = compare_tokens(trainer, i64(pair >> u64(32)), i64(other_pair >> u64(32)))
    if order == 0:
        order = compare_tokens(trainer, i64(pair & LOW32), i64(other_pair & LOW32))
    return order > 0


@njit
def push_pair_candidate(trainer, count, pair):
    """Push a pair onto the heap."""
    heap = trainer.heap
    hole = trainer.state[HEAP_SIZE]
    trainer.state[HEAP_SIZE] += 1
    while hole > 0:
        parent = (hole - 1) >> 1
        if not comes_first(trainer, count, pair, heap[2 * parent], heap[2 * parent + 1]):
            break
        heap[2 * hole], heap[2 * hole + 1] = heap[2 * parent], heap[2 * parent + 1]
        hole = parent
    heap[2 * hole], heap[2 * hole + 1] = count, pair


@njit
def pop_pair_candidate(trainer):
    """Remove the first pair from the heap."""
    heap = trainer.heap
    size = trainer.state[HEAP_SIZE] - 1
    trainer.state[HEAP_SIZE] = size
    count, pair = heap[2 * size], heap[2 * size + 1]
    hole, child = 0, 1
    while child < size:
        at = 2 * child
        if child + 1 < size and comes_first(trainer, heap[at + 2], heap[at + 3], heap[at], heap[at + 1]):
            child += 1
            at += 2
        if not comes_first(trainer, heap[at], heap[at + 1], count, pair):
            break
        heap[2 * hole], heap[2 * hole + 1] = heap[at], heap[at + 1]
        hole, child = child, 2 * child + 1
    heap[2 * hole], heap[2 * hole + 1] = count, pair


@njit
def pair_entry(pairs, capacity, pair):
    """Return the entry of a pair, or the empty entry for it."""
    slot = slot_of(pair, ONE, capacity)
    while pairs[slot * PAIR] != pair and pairs[slot * PAIR] != NONE:
        slot = (slot + 1) & (capacity - 1)
    return slot * PAIR


@njit
def add_pair(trainer, left, right, weight, first, number):
    """Insert a new pair with its count and its range of places."""
    pair = u64(left) << u64(32) | u64(right)
    entry = pair_entry(trainer.pairs, trainer.capacity, pair)
    trainer.pairs[entry], trainer.pairs[entry + 1] = pair, u64(weight)
    trainer.pairs[entry + 2] = u64(first) << u64(32) | u64(number)
    trainer.state[NUM_PAIRS] += 1


@njit
def group_of(corpus, group, place):
    """Return the group of words that contains `place`, which is `group` or a later one."""
    if place < corpus.groups[group + 1]:
        return group
    first, last = group + 1, corpus.num_groups - 1
    while first < last:
        middle = (first + last) >> 1
        if place < corpus.groups[middle + 1]:
            last = middle
        else:
            first = middle + 1
    return first


@njit
def count_byte_pairs(trainer, length, counts, numbers):
    """Insert the pairs of bytes with their counts and places."""
    ids, state = trainer.corpus.ids, trainer.state
    group = 0
    for place in range(length - 1):
        if ids[place] >= 0 and ids[place + 1] >= 0:
            group = group_of(trainer.corpus, group, place)
            pair = ids[place] << 8 | ids[place + 1]
            counts[pair] += trainer.corpus.weights[group]
            numbers[pair] += 1
    for pair in range(1 << 16):
        if numbers[pair]:
            left, right = pair >> 8, pair & 255
            add_pair(trainer, left, right, counts[pair], state[NUM_PLACES], numbers[pair])
            push_pair_candidate(trainer, u64(counts[pair]), u64(left) << u64(32) | u64(right))
            first = state[NUM_PLACES]
            state[NUM_PLACES] += numbers[pair]
            numbers[pair] = first
    for place in range(length - 1):
        if ids[place] >= 0 and ids[place + 1] >= 0:
            pair = ids[place] << 8 | ids[place + 1]
            trainer.places[numbers[pair]] = place
            numbers[pair] += 1


@njit
def next_pair(trainer):
    """Return the pair to merge next, which stays on the heap; NONE if no pair is left."""
    while trainer.state[HEAP_SIZE] > 0:
        count, pair = trainer.heap[0], trainer.heap[1]
        now = trainer.pairs[pair_entry(trainer.pairs, trainer.capacity, pair) + 1]
        if now == count and count > 0:
            return pair
        pop_pair_candidate(trainer)
        if now > 0:
            push_pair_candidate(trainer, now, pair)
    return NONE


@njit
def add_neighbour(side, number, token, weight):
    """Add an occurrence of `token` as neighbour of a merge; return the number of distinct neighbours."""
    if side.numbers[token] == 0:
        side.touched[number] = token
        number += 1
    side.numbers[token] += 1
    side.weights[token] += weight
    return number


@njit
def subtract_counts(trainer, side, number, with_token, is_left):
    """Subtract the counts of the pairs that a merge has removed on one side."""
    for i in range(number):
        token = side.touched[i]
        left, right = (token, with_token) if is_left else (with_token, token)
        pair = u64(left) << u64(32) | u64(right)
        entry = pair_entry(trainer.pairs, trainer.capacity, pair)
        trainer.pairs[entry + 1] -= u64(side.weights[token])
        side.weights[token] = side.numbers[token] = 0


@njit
def insert_pairs(trainer, side, number, merged, is_left, first):
    """Insert the new pairs of one side with room for their places from `first` on; return its end."""
    for i in range(number):
        token = side.touched[i]
        left, right = (token, merged) if is_left else (merged, token)
        add_pair(trainer, left, right, side.weights[token], first, side.numbers[token])
        push_pair_candidate(trainer, u64(side.weights[token]), u64(left) << u64(32) | u64(right))
        next_first = first + side.numbers[token]
        side.numbers[token], side.weights[token] = first, 0
        first = next_first
    return first


@njit
def merge_pair(trainer, pair, merged, first, number):
    """Replace each occurrence of a pair by one token, and subtract the counts of the pairs around it.

    Returns the number of occurrences; `stash` holds place and count of each.
    """
    ids, corpus = trainer.corpus.ids, trainer.corpus
    left, right = i64(pair >> u64(32)), i64(pair & LOW32)
    left_length = trainer.tokens.lengths[left]
    length = left_length + trainer.tokens.lengths[right]
    kept = num_left = num_right = group = 0
    for i in range(number):
        prefetch(ids, i64(trainer.places[first + i + 24]))
        place = i64(trainer.places[first + i])
        if ids[place] != left or ids[place + left_length] != right:
            continue  # out of date
        group = group_of(corpus, group, place)
        before, behind = ids[place - 1], ids[place + length]
        if before >= 0 and before != merged:
            num_left = add_neighbour(trainer.left, num_left, before, corpus.weights[group])
        if behind >= 0:
            num_right = add_neighbour(trainer.right, num_right, behind, corpus.weights[group])
        ids[place + left_length] = GONE
        ids[place + length - 1] = ids[place] = merged
        trainer.stash[3 * kept], trainer.stash[3 * kept + 1] = place, corpus.weights[group]
        kept += 1
    subtract_counts(trainer, trainer.left, num_left, left, True)
    subtract_counts(trainer, trainer.right, num_right, right, False)
    return kept


@njit
def index_new_pairs(trainer, merged, first, kept):
    """Insert the pairs of the new token with its left and right neighbours, with counts and places."""
    ids, stash, lengths, places = trainer.corpus.ids, trainer.stash, trainer.tokens.lengths, trainer.places
    length = lengths[merged]
    num_left = num_right = 0
    for i in range(kept):
        place, weight = stash[3 * i], stash[3 * i + 1]
        before, behind = ids[place - 1], ids[place + length]
        if behind == merged:
            behind = GAP  # this pair is counted at its right token
        stash[3 * i + 1], stash[3 * i + 2] = before, behind
        if before >= 0:
            num_left = add_neighbour(trainer.left, num_left, before, weight)
        if behind >= 0:
            num_right = add_neighbour(trainer.right, num_right, behind, weight)
    # The list of the merged pair's places is free now, and has room for those of all left neighbours.
    insert_pairs(trainer, trainer.left, num_left, merged, True, first)
    begin = trainer.state[NUM_PLACES]
    trainer.state[NUM_PLACES] = insert_pairs(trainer, trainer.right, num_right, merged, False, begin)
    for i in range(kept):
        place, before, behind = stash[3 * i], stash[3 * i + 1], stash[3 * i + 2]
        if before >= 0:
            places[trainer.left.numbers[before]] = place - lengths[before]
            trainer.left.numbers[before] += 1
        if behind >= 0:
            places[trainer.right.numbers[behind]] = place
            trainer.right.numbers[behind] += 1
    for i in range(num_left):
        trainer.left.numbers[trainer.left.touched[i]] = 0
    for i in range(num_right):
        trainer.right.numbers[trainer.right.touched[i]] = 0


@njit
def add_token(trainer, place, length):
    """Add the token whose bytes stand at `place`, and return its id."""
    tokens, merged = trainer.tokens, trainer.state[NUM_TOKENS]
    prefix = u64(0)
    for i in range(8):
        byte = trainer.corpus.text[place + i] if i < length else 0
        prefix = prefix << u64(8) | u64(byte)
    tokens.lengths[merged], tokens.examples[merged], tokens.prefixes[merged] = length, place, prefix
    trainer.state[NUM_TOKENS] += 1
    return merged


def learn_merges(
    state,
    wanted,
    text,
    ids,
    length,
    groups,
    weights,
    num_groups,
    pairs,
    capacity,
    places,
    heap,
    stash,
    lengths,
    examples,
    prefixes,
    merges,
    left_touched,
    left_weights,
    left_numbers,
    right_touched,
    right_weights,
    right_numbers,
):
    """Learn merges until there are `wanted` tokens or no pair is left; FULL if `pairs` has to grow."""
    corpus = Corpus(text, ids, groups, weights, num_groups)
    left = Neighbours(left_touched, left_weights, left_numbers)
    right = Neighbours(right_touched, right_weights, right_numbers)
    tokens = Tokens(lengths, examples, prefixes)
    trainer = Trainer(corpus, tokens, pairs, capacity, places, heap, stash, left, right, state)
    if state[NUM_TOKENS] == 0:
        for byte in range(256):
            tokens.prefixes[byte] = u64(byte) << u64(56)
            tokens.lengths[byte] = 1
        state[NUM_TOKENS] = 256
        count_byte_pairs(trainer, length, left_weights, left_numbers)
        for i in range(1 << 16):
            left_weights[i] = left_numbers[i] = 0
    while state[NUM_TOKENS] < wanted:
        if state[NUM_PAIRS] + 2 * state[NUM_TOKENS] + 2 > capacity - (capacity >> 2):
            return FULL
        pair = next_pair(trainer)
        if pair == NONE:
            return DONE
        entry = pair_entry(pairs, capacity, pair)
        first, number = i64(pairs[entry + 2] >> u64(32)), i64(pairs[entry + 2] & LOW32)
        kept = merge_pair(trainer, pair, state[NUM_TOKENS], first, number)
        pairs[entry + 1] = u64(0)
        pop_pair_candidate(trainer)
        merges[state[NUM_TOKENS]] = pair
        both = lengths[i64(pair >> u64(32))] + lengths[i64(pair & LOW32)]
        merged = add_token(trainer, stash[0], both)
        index_new_pairs(trainer, merged, first, kept)
    return DONE


def rehash_pairs(old, old_capacity, pairs, capacity):
    """Insert all pairs of a table into an empty, larger one."""
    for entry in range(0, old_capacity * PAIR, PAIR):
        if old[entry] != NONE:
            at = pair_entry(pairs, capacity, old[entry])
            for i in range(PAIR):
                pairs[at + i] = old[entry + i]
    return DONE


# ---- the library's entries -------------------------------------------------------------------------

_TYPES = {
    "u8*": "text out arena other_arena whole_arena stretch_arena window flags classes groups_of_symbols"
    " safe_pairs safe_ascii special_text firsts",
    "u16*": "out16 ids16",
    "u32*": "out32 ids32 places automaton",
    "i32*": "spill ids starts pieces byte_ids lengths results links special_ids start_rows"
    " left_touched right_touched",
    "u64*": "table whole_table stretch_table other heap keys masks pairs old spans prefixes merges",
    "i64*": "state stretch_state special_bounds begins ends row_ends byte_ends entries counts gaps groups"
    " weights stash examples left_weights left_numbers right_weights right_numbers",
}
_TYPE_OF = {name: kind for kind, names in _TYPES.items() for name in names.split()}

ENTRIES = {
    function.__name__: function
    for function in (
        *(encode, rehash_words, fill_whole_words, fill_pair_table, decoded_size, decode),
        *(count, settle, add_counts, list_words, write_words, learn_merges, rehash_pairs),
    )
}
"""Kernels by name. Each returns an integer."""


OPTIONS: dict[str, object] = {}
"""Options of numba's compiler."""


def parameters(name: str) -> dict[str, str]:
    """Return the parameters of a kernel in order with their types: "u8*" is an array, "i64" a number."""
    return {parameter: _TYPE_OF.get(parameter, "i64") for parameter in signature(ENTRIES[name]).parameters}
