"""Reading tokenizers of tiktoken: `.tiktoken` files, and `Encoding` objects.

tiktoken has no merges: of all neighbours that form a token it joins those whose token has the smallest id.
That is a list of merges with every division of each token in two, in the order of ids, of which only one
division of each is ever applied.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from transformerlm.errors import DataError
from transformerlm.tokenizer.added_tokens import AddedToken
from transformerlm.tokenizer.bpe import NUM_BYTES
from transformerlm.tokenizer.form import Form, PretokenStep
from transformerlm.tokenizer.formats.compatibility import is_pretoken, without_idle_possessives
from transformerlm.tokenizer.formats.text_file import FileError, read_bytes
from transformerlm.tokenizer.formats.tokenizer_json_reader import TokenizerParts
from transformerlm.tokenizer.formats.tokenizer_json_steps import pattern_of
from transformerlm.tokenizer.formats.tokenizer_json_vocab import MAX_ID
from transformerlm.tokenizer.reachable import MergeIds, applied_merges
from transformerlm.tokenizer.splits import splits_of
from transformerlm.tokenizer.text_steps import ByteAlphabet
from transformerlm.tokenizer.token_table import EMPTY, Strings, TokenTable

if TYPE_CHECKING:
    import tiktoken

Ranks = Mapping[bytes, int]


def read_tiktoken(path: str | Path, pattern: str, special_token_ids: Mapping[str, int]) -> TokenizerParts:
    """Read a `.tiktoken` file: on each line a token in base64 and its id.

    The file has neither the pattern nor the special tokens: the program that uses it does.

    Raises:
        DataError: another line, an id or a token that is there twice, a byte without a token, or a pattern
            that may mean something else here; `path:line: reason`.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(read_bytes(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            content = base64.b64decode(token, validate=True)
            token_id = int(rank)
        except (ValueError, binascii.Error):
            raise FileError(
                path, f"expected a token in base64 and its id, got {line!r:.60}", number
            ) from None
        if content in ranks or not content or token_id < 0:
            raise FileError(path, f"token {content!r:.40} with the id {token_id} cannot be used", number)
        ranks[content] = token_id
    try:
        return parts_of_ranks(ranks, pattern, special_token_ids)
    except DataError as error:
        raise FileError(path, str(error)) from None


def from_encoding(encoding: tiktoken.Encoding) -> TokenizerParts:
    """Return the parts of the tokenizer that gives the ids of an `Encoding`, all special tokens allowed.

    Raises:
        DataError: a pattern that may mean something else here.
    """
    return parts_of_ranks(encoding._mergeable_ranks, encoding._pat_str, encoding._special_tokens)


def parts_of_ranks(ranks: Ranks, pattern: str, special_token_ids: Mapping[str, int]) -> TokenizerParts:
    """Return the parts of a tokenizer from token -> id.

    Of special tokens with one id (o200k_harmony has two) the first is taken; the others are ordinary text.

    Raises:
        DataError: a byte without a token, an id that two tokens have or that is too large, or a pattern that
            may mean something else here.
    """
    token_of = {token_id: token for token, token_id in reversed([*special_token_ids.items()])}
    special_token_ids = {token: token_id for token_id, token in reversed([*token_of.items()])}
    missing = [byte for byte in range(NUM_BYTES) if bytes([byte]) not in ranks]
    if missing:
        raise DataError(f"expected a token for every byte, got none for 0x{missing[0]:02x}")
    ids = [*ranks.values(), *special_token_ids.values()]
    if len(set(ids)) < len(ids):
        raise DataError("expected an id for each token, got one that two tokens have")
    if not 0 <= min(ids) <= max(ids) <= MAX_ID:
        raise DataError(f"expected ids from 0 to {MAX_ID}, got {min(ids)} to {max(ids)}")
    in_order = sorted(ranks, key=ranks.__getitem__)
    vocab = {ranks[token]: token for token in in_order}
    byte_ids = np.array([ranks[bytes([byte])] for byte in range(NUM_BYTES)])
    merges, unmade = applied_merges(vocab, _divisions(in_order, [*vocab]), byte_ids)
    vocab |= {token_id: token.encode() for token, token_id in special_token_ids.items()}
    added = {AddedToken(token): token_id for token, token_id in special_token_ids.items()}
    pattern = pattern_of(without_idle_possessives(pattern))
    steps: tuple[PretokenStep, ...] = (*splits_of(pattern), ByteAlphabet())
    whole_words = any(is_pretoken(token) and token.decode() not in special_token_ids for token in unmade)
    return TokenizerParts(vocab, merges, Form(added, pretokenizer=steps), whole_words)


def _divisions(tokens: Sequence[bytes], ids: Sequence[int]) -> MergeIds:
    """Return every division of each token into two tokens, in the order of the tokens."""
    strings = Strings.of(tokens)
    table, cuts = TokenTable(strings, ids), np.maximum(strings.sizes - 1, 0)
    wholes = np.repeat(np.arange(len(tokens)), cuts)
    sizes = np.arange(1, len(wholes) + 1) - np.repeat(np.cumsum(cuts) - cuts, cuts)
    left = table.find(Strings(strings.content, strings.starts[wholes], sizes))
    is_known = left != EMPTY
    left, wholes, sizes = left[is_known], wholes[is_known], sizes[is_known]
    rest = strings.take(wholes)
    right = table.find(Strings(rest.content, rest.starts + sizes, rest.sizes - sizes))
    is_known = right != EMPTY
    return MergeIds(*(part[is_known] for part in (left, right, np.array(ids)[wholes])))
