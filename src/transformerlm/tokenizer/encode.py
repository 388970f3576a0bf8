"""Encoding and decoding in plain Python, for any pattern. `encode_kernels.py` does the same on kernels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

import numpy as np

from transformerlm.tokenizer.bpe import Vocab
from transformerlm.tokenizer.model import Model
from transformerlm.tokenizer.pretokenize import Pretokenizer, text_of, utf8
from transformerlm.tokenizer.vocabulary import Ids, unknown_id_error

_MAX_CACHED = 1 << 18  # pre-tokens; some 50 MB
_MAX_CACHED_LENGTH = 64  # characters


class PythonEncoder:
    """Encoder that caches the ids of pre-tokens. Threads may share one.

    Args:
        model: encoder of one pre-token.
        special_token_ids: special token -> id.
        dtype: of the arrays that `encode` returns.
    """

    def __init__(
        self,
        model: Model,
        special_token_ids: Mapping[str, int],
        dtype: np.dtype[np.unsignedinteger],
    ) -> None:
        self.dtype, self.model = dtype, model
        self.special_token_ids = special_token_ids
        self.cache = _Cache(self._encode_pretoken)

    def encode(self, text: str | bytes, pretokenizer: Pretokenizer) -> Ids:
        """Return the ids of a text, or of any bytes (characters as `text_of` decodes them); `[num_ids]`.

        Raises:
            DataError: an unpaired surrogate in a text.
        """
        if isinstance(text, bytes):
            text = text_of(text)
        else:
            utf8(text)  # raises for unpaired surrogates, which below stand for bytes that are not UTF-8
        encoded = bytearray()
        for piece in pretokenizer.pieces([text]):
            for segment, is_special in pretokenizer.split_special(piece):
                if is_special:
                    encoded += self._to_bytes([self.special_token_ids[segment]])
                else:
                    words = pretokenizer.pretokens(segment)
                    encoded += b"".join(map(self.cache.__getitem__, words))
        return np.frombuffer(encoded, self.dtype)

    def _encode_pretoken(self, pretoken: str) -> bytes:
        return self._to_bytes(self.model.encode(pretoken))

    def _to_bytes(self, ids: list[int]) -> bytes:
        return np.array(ids, self.dtype).tobytes()


def decode_bytes(vocab: Vocab, ids: Iterable[int] | Ids) -> bytes:
    """Return the concatenated bytes of the tokens of `ids`.

    Raises:
        DataError: an id that is not in the vocabulary.
    """
    # Python's integers are looked up several times as fast as NumPy's.
    numbers = ids.tolist() if isinstance(ids, np.ndarray) else ids
    try:
        return b"".join(map(vocab.__getitem__, numbers))
    except (KeyError, TypeError) as error:
        raise unknown_id_error(error.args[0], max(vocab) + 1) from None


def whole_word_ids(
    id_of: Mapping[bytes, int], made: Collection[int], special_token_ids: Mapping[str, int]
) -> dict[bytes, int]:
    """Return the tokens that a whole pre-token may become: all but those that are only special tokens.

    Args:
        id_of: token -> id.
        made: ids that merges make.
        special_token_ids: special token -> id.
    """
    special = {token.encode() for token in special_token_ids}
    return {token: token_id for token, token_id in id_of.items() if token not in special or token_id in made}


class _Cache(dict[str, bytes]):
    """Cache of pre-token -> its ids as bytes, computed on first use. A full cache is emptied."""

    def __init__(self, encode: Callable[[str], bytes]) -> None:
        self.encode = encode

    def __missing__(self, pretoken: str) -> bytes:
        encoded = self.encode(pretoken)
        if len(pretoken) <= _MAX_CACHED_LENGTH:
            if len(self) >= _MAX_CACHED:
                self.clear()
            self[pretoken] = encoded
        return encoded
