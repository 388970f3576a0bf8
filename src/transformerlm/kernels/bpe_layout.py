"""Memory layout that the tokenizer's kernels and their callers share; constants only."""

from __future__ import annotations

WINDOW = 1 << 14
"""Bytes of text that are divided at a time; a window fits the first-level cache."""
PADDING = 128
"""Bytes after a window, or after other buffers, that kernels may access."""
MASKS = 8
"""Number of 64-bit masks for each 64 bytes of a window."""
BATCH = 64
"""Pre-tokens that are looked up together, so that their memory accesses overlap."""

OTHER, LETTER, NUMBER, SPACE = range(4)
"""Classes of characters."""

# An automaton of a pattern is a table of 32-bit entries: the row of a state has an entry for each symbol (a
# class of characters; the last one is the end of the text). An entry holds the position of the next row, and
# what is known when the symbol has been read.
ROW = (1 << 24) - 1
EMITS = 1 << 31
"""A match ends before the symbol, and the next one begins there."""
EMITS_BACK = 1 << 30
"""A match ends before the character before the symbol; the first of two, if EMITS is set too."""
ACCEPTS = 1 << 29
"""A match may end before the symbol, or further on."""
GOES_BACK = 1 << 28
"""The match ends where one could end last. It may be far back, or there is none."""
BEYOND = 255
"""Instead of the symbol of a code that is no character: a surrogate, or one that is beyond Unicode."""

# A table of words is an open-addressing hash table. An entry is four 64-bit words: the first eight bytes of
# the pre-token; up to seven more bytes, with the length in the top byte; two values. The entry of a longer
# pre-token holds a hash and LONG | offset of its bytes in the arena instead. The arena stores the length
# before the bytes: the offset is never 0, so the second word is never LONG itself.
ENTRY = 4
SHORT_BYTES = 15
LONG = 255 << 56
TAG = 1 << 62
"""Marks a pre-token in a table of stretches, by which its key differs from that of an equal stretch."""
MAX_STRETCH = 48
"""Longest stretch, in bytes, that is remembered as a whole."""

# Values of an encoder's table: up to three ids, or the position of more ids in `spill`; the number of ids in
# the top half of the second value.
INLINE_IDS = 3

SHORT_MERGE = 64
"""Length in bytes up to which a pre-token is encoded by linear search for the next merge, without a heap."""

# An entry of an encoder's table of pairs holds left id, right id and rank in one 64-bit word.
ID_BITS, RANK_BITS = 20, 24
NONE = (1 << 64) - 1
"""Marks an empty entry, and the rank of a pair that is not merged."""

# Indices of `state`, in which a kernel keeps numbers between calls: for encoding and counting, for learning.
POSITION, OUTPUT, NUM_WORDS, ARENA_BYTES, SPILLED, WORD_BYTES, NEEDED, BEGIN = range(8)
NUM_TOKENS, NUM_PAIRS, NUM_PLACES, HEAP_SIZE = range(4)
STATE = 8

DONE, FULL, TOO_LONG = range(3)
"""Status of a kernel: finished; a table is full; a pre-token is longer than the scratch memory."""

# Ids in a corpus that merges are learned from: between two words; a place at which no token begins any more.
GAP, GONE = -1, -2

# An entry of a trainer's table of pairs: key, count, start of its places << 32 | number of places.
PAIR = 3
