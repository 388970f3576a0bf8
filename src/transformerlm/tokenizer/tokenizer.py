"""The tokenizer: text to ids and back, with one vocabulary and one list of merges.

What a pre-token is, how merges are applied and how the files look is said elsewhere; this file puts
them together and remembers what it has encoded.
"""

from __future__ import annotations

import codecs
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from transformerlm.config import GPT2_PATTERN
from transformerlm.errors import ConfigError, DataError
from transformerlm.tokenizer import files
from transformerlm.tokenizer.bpe import NUM_BYTES, MergeRules, Merges, Vocab, apply_merges
from transformerlm.tokenizer.pretokenize import PIECE_SIZE, Pretokenizer, utf8
from transformerlm.tokenizer.vocabulary import merges_fault, vocab_fault

Ids = npt.NDArray[np.unsignedinteger[Any]]

_MOST_CACHED = 1 << 18  # pre-tokens; some 50 MB
_LONGEST_CACHED = 64  # characters


class Tokenizer:
    """Byte-pair encoding: every text has ids, and `decode(encode(text))` is the text again.

    Args:
        vocab: id -> token; ids 0 to n - 1, and among the tokens every single byte.
        merges: pairs of tokens in the order in which they were learned.
        special_tokens: strings that are one id wherever they occur. One that is in `vocab` has its id
            there, any other is added as the next id.
        pattern: the pre-tokenisation pattern (syntax of the `regex` package).

    Raises:
        DataError: a vocabulary or merges that cannot be used.
        ConfigError: a pattern that does not compile, or an empty special token.
    """

    def __init__(
        self,
        vocab: Vocab,
        merges: Merges,
        special_tokens: Sequence[str] | None = None,
        *,
        pattern: str = GPT2_PATTERN,
    ) -> None:
        fault = vocab_fault([(token, token_id) for token_id, token in vocab.items()])
        if fault:
            raise DataError(f"vocab: {fault.what}")
        fault = merges_fault(merges, vocab)
        if fault:
            raise DataError(f"merges[{fault.index}]: {fault.what}")
        self.pretokenizer = Pretokenizer(pattern, special_tokens or ())
        id_of = {token: token_id for token_id, token in vocab.items()}
        self.special_token_ids: dict[str, int] = {
            token: id_of.setdefault(token.encode(), len(id_of)) for token in self.pretokenizer.special_tokens
        }
        self.vocab: Vocab = {token_id: token for token, token_id in id_of.items()}
        self.merges: Merges = [(left, right) for left, right in merges]
        self.dtype = np.dtype(np.uint16 if self.vocab_size <= 1 << 16 else np.uint32)
        self._byte_ids = [id_of[bytes([byte])] for byte in range(NUM_BYTES)]
        self._rules = _rules(self.merges, id_of)
        self._encoded = _Cache(self._encode_pretoken)

    @classmethod
    def from_files(
        cls,
        vocab_path: str | Path,
        merges_path: str | Path,
        special_tokens: Sequence[str] | None = None,
        *,
        pattern: str = GPT2_PATTERN,
    ) -> Tokenizer:
        """Load a `vocab.json` and a `merges.txt`, ours or GPT-2's.

        Raises:
            DataError: files that cannot be used; one line, `file:line: what`.
        """
        vocab = files.read_vocab(vocab_path, special_tokens or ())
        return cls(vocab, files.read_merges(merges_path, vocab), special_tokens, pattern=pattern)

    @classmethod
    def from_dir(cls, directory: str | Path) -> Tokenizer:
        """Load a folder that `save` has written, or one that holds GPT-2's two files.

        Without a manifest the pattern is GPT-2's, and special are the tokens that no merge makes.

        Raises:
            DataError: files that cannot be used, or that do not belong together.
        """
        vocab_path, merges_path = Path(directory) / files.VOCAB_FILE, Path(directory) / files.MERGES_FILE
        manifest = files.read_manifest(directory)
        if manifest is None:
            vocab = files.read_vocab(vocab_path)
            merges = files.read_merges(merges_path, vocab)
            return cls(vocab, merges, _special_tokens_of(vocab, merges, merges_path))
        special_tokens, manifest_path = manifest.special_tokens, Path(directory) / files.MANIFEST_FILE
        try:
            tokenizer = cls.from_files(vocab_path, merges_path, special_tokens, pattern=manifest.pattern)
        except ConfigError as error:
            raise DataError(f"{manifest_path}: {error}") from None
        if tokenizer.fingerprint != manifest.fingerprint:
            raise DataError(f"{manifest_path}: not of this tokenizer, or damaged")
        return tokenizer

    def save(self, directory: str | Path, made_from: Mapping[str, Any] | None = None) -> None:
        """Write `vocab.json`, `merges.txt` and `manifest.json` into `directory`.

        Args:
            made_from: what to recognise the tokenizer by later (corpus, settings), kept in the manifest.
        """
        manifest = files.Manifest(
            pattern=self.pretokenizer.pattern,
            special_tokens=list(self.special_token_ids),
            vocab_size=self.vocab_size,
            fingerprint=self.fingerprint,
            made_from=dict(made_from or {}),
        )
        files.write_tokenizer(directory, self.vocab, self.merges, manifest)

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return len(self.vocab)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of all that decides which ids a text gets."""
        parts = {
            "pattern": self.pretokenizer.pattern,
            "special_tokens": sorted(self.special_token_ids.items()),
            "vocab": [self.vocab[token_id].hex() for token_id in range(self.vocab_size)],
            "merges": [[left.hex(), right.hex()] for left, right in self.merges],
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """The ids of a text. A special token in it is its one id."""
        ids: list[int] = self.encode_array(text).tolist()
        return ids

    def encode_array(self, text: str) -> Ids:
        """The ids of a text as an array of `dtype` (uint16 where the vocabulary allows it, else uint32)."""
        encoded = bytearray().join(map(self._encode_piece, self.pretokenizer.pieces([text])))
        return np.frombuffer(encoded, self.dtype)

    def encode_iterable(self, chunks: Iterable[str], *, piece_size: int = PIECE_SIZE) -> Iterator[int]:
        """The ids of the text that all chunks make together, however they divide it.

        Memory: a few pieces of `piece_size` characters, or the longest stretch that cannot be divided.
        """
        for piece in self.pretokenizer.pieces(chunks, piece_size):
            yield from np.frombuffer(self._encode_piece(piece), self.dtype).tolist()

    def decode(self, ids: Iterable[int] | Ids) -> str:
        """The text of some ids (a list, an array, any iterable); bytes that are not UTF-8 become U+FFFD.

        Raises:
            DataError: an id that is not in the vocabulary.
        """
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int] | Ids) -> bytes:
        """The bytes of some ids, whether or not they are UTF-8.

        Raises:
            DataError: an id that is not in the vocabulary.
        """
        # A dictionary finds plain numbers several times as fast as an array's own.
        numbers = ids.tolist() if isinstance(ids, np.ndarray) else ids
        try:
            return b"".join(map(self.vocab.__getitem__, numbers))
        except KeyError as error:
            what = f"expected ids from 0 to {self.vocab_size - 1}, got {error.args[0]!r}"
            raise DataError(f"cannot decode: {what}") from None

    def __reduce__(self) -> tuple[Callable[..., Tokenizer], tuple[Any, ...]]:
        # To a worker process goes what defines a tokenizer, not what it has cached.
        make = functools.partial(Tokenizer, pattern=self.pretokenizer.pattern)
        return make, (self.vocab, self.merges, list(self.special_token_ids))

    def _encode_piece(self, text: str) -> bytes:
        encoded: list[bytes] = []
        for segment, is_special in self.pretokenizer.split_special(text):
            if is_special:
                encoded.append(self._to_bytes([self.special_token_ids[segment]]))
            else:
                encoded.extend(map(self._encoded.__getitem__, self.pretokenizer.pretokens(segment)))
        return b"".join(encoded)

    def _encode_pretoken(self, pretoken: str) -> bytes:
        return self._to_bytes(apply_merges([self._byte_ids[byte] for byte in utf8(pretoken)], self._rules))

    def _to_bytes(self, ids: list[int]) -> bytes:
        return np.array(ids, self.dtype).tobytes()


class StreamDecoder:
    """Decodes ids one by one, and holds back a character until its last byte is there."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token_id: int) -> str:
        """The text that `token_id` completes: "" while it is within a character."""
        return self._decoder.decode(self.tokenizer.decode_bytes([token_id]))

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that was never completed, else ""."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text


class _Cache(dict[str, bytes]):
    """Pre-token -> its ids as bytes, encoded when first asked for. A full one starts again."""

    def __init__(self, encode: Callable[[str], bytes]) -> None:
        self.encode = encode

    def __missing__(self, pretoken: str) -> bytes:
        encoded = self.encode(pretoken)
        if len(pretoken) <= _LONGEST_CACHED:
            if len(self) >= _MOST_CACHED:
                self.clear()
            self[pretoken] = encoded
        return encoded


def _rules(merges: Merges, id_of: dict[bytes, int]) -> MergeRules:
    ranks = {(id_of[left], id_of[right]): rank for rank, (left, right) in enumerate(merges)}
    return MergeRules(ranks, [id_of[left + right] for left, right in merges])


def _special_tokens_of(vocab: Vocab, merges: Merges, merges_path: Path) -> list[str]:
    """The tokens that no merge makes and none ever could, as the pattern divides their text."""
    made = {left + right for left, right in merges}
    pretokenizer = Pretokenizer()
    special: list[str] = []
    for _, token in sorted(vocab.items()):
        if len(token) > 1 and token not in made:
            text = token.decode(errors="replace")
            if text.encode() != token or len(pretokenizer.pretokens(text)) == 1:
                why = f"is a line missing? (Special tokens such as this would need a {files.MANIFEST_FILE})"
                raise DataError(f"{merges_path}: no merge makes {token!r} of {files.VOCAB_FILE}: {why}")
            special.append(text)
    return special
