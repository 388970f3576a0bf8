"""Layout of the memory that bpe.py and its callers share; numbers only."""

from __future__ import annotations

WINDOW = 1 << 14
"""Bytes of text that are looked at together: small enough for the first-level cache."""
PADDING = 128
"""Bytes behind a window that may be read."""
MASKS = 8
"""64-bit masks for each 64 bytes of a window."""
BATCH = 64
"""Pre-tokens that are looked up together, so that one's wait for memory is the others' time to work."""

OTHER, LETTER, NUMBER, SPACE = range(4)
"""Classes of characters."""

# A table of words is an open-addressing hash table; an entry is four 64-bit words: the first eight
# bytes of the pre-token; up to seven more, with the number of bytes at the top; and two values. Of a
# longer pre-token there are instead a hash, and LONG | where in the arena its bytes are; before them stands
# their number, so that this is never LONG itself.
ENTRY = 4
SHORT_BYTES = 15
LONG = 255 << 56

# Values of an encoder's table: up to three ids, or where they are in `spill`; number of ids at the top.
INLINE_IDS = 3

SHORT_MERGE = 64
"""Bytes of the longest pre-token whose merges are found by looking at all of it again and again."""

# An entry of an encoder's table of pairs is left, right and rank in one 64-bit word.
ID_BITS, RANK_BITS = 20, 24
NONE = (1 << 64) - 1
"""An empty entry, and no rank."""

# State: what a kernel leaves behind when it returns.
POSITION, OUTPUT, NUM_WORDS, ARENA_BYTES, SPILLED, WORD_BYTES, NEEDED = range(7)
NUM_TOKENS, NUM_PAIRS, NUM_PLACES, HEAP_SIZE = range(4)
STATE = 8

DONE, FULL, TOO_LONG = range(3)
"""Why a kernel has returned: all is done; a table is full; a pre-token is longer than its scratch memory."""

# In a corpus that merges are learned from: what stands between two words, and where no token begins.
GAP, GONE = -1, -2

# A trainer's table of pairs: key, count, where its places begin << 32 | how many there are.
PAIR = 3
