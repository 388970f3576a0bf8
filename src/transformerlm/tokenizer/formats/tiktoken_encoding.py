"""Conversion of a tokenizer to a tiktoken `Encoding`."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from transformerlm.config import GPT2_PATTERN
from transformerlm.errors import ConfigError
from transformerlm.tokenizer.bpe import NUM_BYTES
from transformerlm.tokenizer.formats.compatibility import (
    IncompatibleTokenizerError,
    check_pattern,
    merges_for,
)
from transformerlm.tokenizer.vocabulary import TokenizerDefinition

if TYPE_CHECKING:
    import tiktoken

_PROGRAM = "tiktoken"


def to_tiktoken(tokenizer: TokenizerDefinition, name: str = "transformerlm") -> tiktoken.Encoding:
    """Return the tiktoken `Encoding` that gives the same ids when every special token is allowed.

    tiktoken has no list of merges: of all neighbours that form a token it joins the ones with the smallest
    id, and a pre-token that is a token is not divided. This is equivalent if ids increase in the order of the
    merges, and if each token is the result of one merge, to which the merges lead from its own bytes.

    Args:
        name: name of the encoding.

    Raises:
        DataError: a tokenizer that tiktoken cannot represent.
        ConfigError: tiktoken is not installed.
    """
    try:
        import tiktoken
    except ImportError:
        raise ConfigError("to_tiktoken: the package tiktoken is not installed; install it") from None
    if tokenizer.whole_words:
        what = "whole_words is on, and tokens that no merge makes would be lost there"
        raise IncompatibleTokenizerError(_PROGRAM, what)
    if tokenizer.form.missing:
        what = f"the byte 0x{tokenizer.form.missing.content[0]:02x} is no token, and every byte is one there"
        raise IncompatibleTokenizerError(_PROGRAM, what)
    pattern = tokenizer.pretokenizer.pattern
    if pattern != GPT2_PATTERN:
        pattern = check_pattern(pattern, _PROGRAM)
        # Text between two matches is a pre-token here; tiktoken would drop it.
        pattern = rf"{pattern}|(?:(?!{pattern})[\s\S])+"
    for one, other in itertools.permutations(tokenizer.special_token_ids, 2):
        if other.startswith(one):
            what = f"special token {other!a} begins with {one!a}, and either could be found in a text"
            raise IncompatibleTokenizerError(_PROGRAM, what)
    ranks, special = _ranks(tokenizer), tokenizer.special_token_ids
    return tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)


def _ranks(tokenizer: TokenizerDefinition) -> dict[bytes, int]:
    """Return token -> id for all bytes and all results of merges."""
    made = [left + right for left, right in merges_for(_PROGRAM, tokenizer.merges)]
    id_of = {token: token_id for token_id, token in tokenizer.vocab.items()}
    for one, other in itertools.pairwise(made):
        if id_of[one] > id_of[other]:
            what = f"{one!r} is made before {other!r}, but its id is greater"
            raise IncompatibleTokenizerError(_PROGRAM, what)
    ranks = {token: id_of[token] for token in (*(bytes([byte]) for byte in range(NUM_BYTES)), *made)}
    special = {token.encode() for token in tokenizer.special_token_ids}
    left_over = id_of.keys() - ranks.keys() - special
    if left_over:
        token = min(left_over, key=id_of.__getitem__)
        raise IncompatibleTokenizerError(_PROGRAM, f"no merge makes {token!r}, and it is no special token")
    return ranks
