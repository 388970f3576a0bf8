"""Reading tokenizers of tiktoken: `.tiktoken` files, and `Encoding` objects.

tiktoken has no merges: of all neighbours that form a token it joins those whose token has the smallest id.
That is a list of merges with every division of each token in two, in the order of ids, of which only one
division of each is ever applied.
"""

from __future__ import annotations

import base64
import binascii
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from transformerlm.errors import DataError
from transformerlm.tokenizer.added_tokens import AddedToken
from transformerlm.tokenizer.bpe import NUM_BYTES
from transformerlm.tokenizer.form import Form, PretokenStep
from transformerlm.tokenizer.formats.compatibility import without_idle_possessives
from transformerlm.tokenizer.formats.text_file import FileError, read_bytes
from transformerlm.tokenizer.formats.tokenizer_json_reader import TokenizerParts
from transformerlm.tokenizer.formats.tokenizer_json_steps import pattern_of
from transformerlm.tokenizer.formats.tokenizer_json_vocab import MAX_ID
from transformerlm.tokenizer.listed_merges import RankedTokens
from transformerlm.tokenizer.splits import splits_of
from transformerlm.tokenizer.text_steps import ByteAlphabet

if TYPE_CHECKING:
    import tiktoken

Ranks = Mapping[bytes, int]

_NO_SEPARATORS = bytes(range(ord(" ") + 1, 256))


def read_tiktoken(path: str | Path, pattern: str, special_token_ids: Mapping[str, int]) -> TokenizerParts:
    """Read a `.tiktoken` file: on each line a token in base64 and its id.

    The file has neither the pattern nor the special tokens: the program that uses it does.

    Raises:
        DataError: another line, an id or a token that is there twice, a byte without a token, or a pattern
            that may mean something else here; `path:line: reason`.
    """
    content = read_bytes(path)
    ranks = _ranks_at_once(content) or _ranks_by_line(path, content)
    try:
        return parts_of_ranks(ranks, pattern, special_token_ids)
    except DataError as error:
        raise FileError(path, str(error)) from None


def _ranks_at_once(content: bytes) -> Ranks | None:
    """Return what `_ranks_by_line` does where all is as usual, in a fraction of the time; else None."""
    fields = content.split()
    separators = b" \n" * (len(fields) // 2)
    if (
        not fields
        or len(fields) % 2
        or content.translate(None, _NO_SEPARATORS) not in (separators, separators[:-1])
    ):
        return None
    try:
        tokens = map(functools.partial(binascii.a2b_base64, strict_mode=True), fields[::2])
        ranks = dict(zip(tokens, map(int, fields[1::2]), strict=True))
    except ValueError:
        return None
    is_usual = 2 * len(ranks) == len(fields) and b"" not in ranks and min(ranks.values()) >= 0
    return ranks if is_usual else None


def _ranks_by_line(path: str | Path, content: bytes) -> Ranks:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            decoded = base64.b64decode(token, validate=True)
            token_id = int(rank)
        except (ValueError, binascii.Error):
            raise FileError(
                path, f"expected a token in base64 and its id, got {line!r:.60}", number
            ) from None
        if decoded in ranks or not decoded or token_id < 0:
            raise FileError(path, f"token {decoded!r:.40} with the id {token_id} cannot be used", number)
        ranks[decoded] = token_id
    return ranks


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
    merges = RankedTokens(ranks)
    vocab = dict(merges.vocab)
    vocab |= {token_id: token.encode() for token, token_id in special_token_ids.items()}
    added = {AddedToken(token): token_id for token, token_id in special_token_ids.items()}
    pattern = pattern_of(without_idle_possessives(pattern))
    steps: tuple[PretokenStep, ...] = (*splits_of(pattern), ByteAlphabet())
    return TokenizerParts(vocab, merges, Form(added, pretokenizer=steps), whole_words=True)
