"""The tokenizer: text to ids and back, with one vocabulary and one list of merges.

What a pre-token is, how merges are applied and how the files look is said elsewhere; this file puts
them together. Encoding runs in plain Python or on compiled kernels, with the same result.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transformerlm.config import GPT2_PATTERN
from transformerlm.errors import ConfigError, DataError
from transformerlm.kernels.bpe_layout import ID_BITS
from transformerlm.parallel import threaded_map
from transformerlm.tokenizer import kernel_library
from transformerlm.tokenizer.bpe import Merges, Vocab
from transformerlm.tokenizer.encode import PlainEncoder
from transformerlm.tokenizer.encode_kernels import FastEncoder
from transformerlm.tokenizer.formats import gpt2_files
from transformerlm.tokenizer.formats.exports import write_tokenizer_json
from transformerlm.tokenizer.formats.tokenizer_json_reader import TOKENIZER_JSON, read_tokenizer_json
from transformerlm.tokenizer.offsets import character_offsets
from transformerlm.tokenizer.pretokenize import PIECE_SIZE, AllowedSpecial, Pretokenizer
from transformerlm.tokenizer.vocabulary import (
    Ids,
    are_in_order,
    fingerprints,
    id_dtype,
    merges_fault,
    no_such_id,
    vocab_fault,
)

_FEW_IDS = 100  # for a list of fewer, an array is not worth making
_PLAIN_BYTES_PER_SECOND = 3e6  # of text that is new; roughly, and the same for decoding


class Tokenizer:
    """Byte-pair encoding: every text has ids, and `decode(encode(text))` is the text again.

    Threads may use one tokenizer at the same time.

    Args:
        vocab: id -> token; ids 0 to n - 1, and among the tokens every single byte.
        merges: pairs of tokens in the order in which they were learned.
        special_tokens: strings that are one id wherever they occur. One that is in `vocab` has its id
            there, any other is added as the next id.
        pattern: the pre-tokenisation pattern (syntax of the `regex` package).
        whole_words: a pre-token that is in the vocabulary is that token, whatever merges make of it
            (`ignore_merges` in Hugging Face's files, as Llama 3 has it).

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
        whole_words: bool = False,
    ) -> None:
        fault = vocab_fault([(token, token_id) for token_id, token in vocab.items()])
        if fault:
            raise DataError(f"vocab: {fault.what}")
        fault = merges_fault(merges, vocab)
        if fault:
            raise DataError(f"merges[{fault.index}]: {fault.what}")
        self.pretokenizer = Pretokenizer(pattern, special_tokens or ())
        self._id_of = {token: token_id for token_id, token in vocab.items()}
        self.special_token_ids: dict[str, int] = {
            token: self._id_of.setdefault(token.encode(), len(self._id_of))
            for token in self.pretokenizer.special_tokens
        }
        self.vocab: Vocab = {token_id: token for token, token_id in self._id_of.items()}
        self.whole_words = whole_words
        self.merges: Merges = [(left, right) for left, right in merges]
        self.dtype = id_dtype(self.vocab_size)
        self._plain_bytes = 0

    @classmethod
    def from_files(
        cls,
        vocab_path: str | Path,
        merges_path: str | Path,
        special_tokens: Sequence[str] | None = None,
        *,
        pattern: str = GPT2_PATTERN,
        whole_words: bool = False,
    ) -> Tokenizer:
        """Load a `vocab.json` and a `merges.txt`, ours or GPT-2's.

        Raises:
            DataError: files that cannot be used; one line, `file:line: what`.
        """
        vocab = gpt2_files.read_vocab(vocab_path, special_tokens or ())
        merges = gpt2_files.read_merges(merges_path, vocab)
        return cls(vocab, merges, special_tokens, pattern=pattern, whole_words=whole_words)

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """Load a `tokenizer.json` of Hugging Face's, byte-level BPE; see `read_tokenizer_json`.

        Raises:
            DataError: one that cannot be used, or that holds what this tokenizer does not do.
        """
        parts = read_tokenizer_json(path)
        settings: dict[str, Any] = {"pattern": parts.pattern, "whole_words": parts.whole_words}
        return cls(parts.vocab, parts.merges, parts.special_tokens, **settings)

    @classmethod
    def from_dir(cls, directory: str | Path) -> Tokenizer:
        """Load a folder that `save` has written, one that holds GPT-2's two files, or a `tokenizer.json`.

        Without a manifest the pattern is GPT-2's, and special are the tokens that no merge makes.

        Raises:
            DataError: files that cannot be used, or that do not belong together.
        """
        vocab_path, merges_path = (
            Path(directory) / gpt2_files.VOCAB_FILE,
            Path(directory) / gpt2_files.MERGES_FILE,
        )
        manifest = gpt2_files.read_manifest(directory)
        if not vocab_path.exists() and (Path(directory) / TOKENIZER_JSON).exists():
            return cls.from_file(Path(directory) / TOKENIZER_JSON)
        if manifest is None:
            vocab = gpt2_files.read_vocab(vocab_path)
            merges = gpt2_files.read_merges(merges_path, vocab)
            return cls(vocab, merges, gpt2_files.special_tokens_of(vocab, merges, merges_path))
        special_tokens, manifest_path = manifest.special_tokens, Path(directory) / gpt2_files.MANIFEST_FILE
        try:
            settings: dict[str, Any] = {key: getattr(manifest, key) for key in ("pattern", "whole_words")}
            tokenizer = cls.from_files(vocab_path, merges_path, special_tokens, **settings)
        except ConfigError as error:
            raise DataError(f"{manifest_path}: {error}") from None
        if manifest.fingerprint not in tokenizer._fingerprints():
            raise DataError(f"{manifest_path}: not of this tokenizer, or damaged")
        return tokenizer

    def save(self, directory: str | Path, made_from: Mapping[str, Any] | None = None) -> None:
        """Write `vocab.json`, `merges.txt` and `manifest.json` into `directory`.

        Args:
            made_from: what to recognise the tokenizer by later (corpus, settings), kept in the manifest.
        """
        manifest = gpt2_files.Manifest(
            pattern=self.pretokenizer.pattern,
            whole_words=self.whole_words,
            special_tokens=list(self.special_token_ids),
            vocab_size=self.vocab_size,
            fingerprint=self.fingerprint,
            made_from=dict(made_from or {}),
        )
        gpt2_files.write_tokenizer(directory, self.vocab, self.merges, manifest)

    def export_tokenizer_json(self, directory: str | Path, *, eos_token: str | None = None) -> None:
        """Write what `tokenizers` and `transformers.AutoTokenizer` load; see `write_tokenizer_json`."""
        write_tokenizer_json(directory, self, eos_token=eos_token)

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return len(self.vocab)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of all that decides which ids a text gets."""
        return next(self._fingerprints())

    def encode(self, text: str, *, allowed_special: AllowedSpecial = "all") -> list[int]:
        """The ids of a text. A special token in it is its one id, where it is allowed.

        Raises:
            DataError: for half a surrogate pair, which is no character.
            ConfigError: `allowed_special` names one that this tokenizer does not have.
        """
        ids: list[int] = self.encode_array(text, allowed_special=allowed_special).tolist()
        return ids

    def encode_array(self, text: str, *, allowed_special: AllowedSpecial = "all") -> Ids:
        """The ids of a text as an array of `dtype` (uint16 where the vocabulary allows it, else uint32)."""
        return self._encoder(len(text)).encode(text, self.pretokenizer.allowing(allowed_special))

    def encode_with_offsets(
        self, text: str, *, allowed_special: AllowedSpecial = "all"
    ) -> tuple[Ids, NDArray[np.int64]]:
        """The ids, and for each the characters of `text` that it is of: first and last + 1, `[num_ids, 2]`.

        A token that holds a part of a character is of the whole character.
        """
        ids = self.encode_array(text, allowed_special=allowed_special)
        lengths = np.fromiter(map(len, map(self.vocab.__getitem__, ids.tolist())), np.int64, len(ids))
        return ids, character_offsets(text, lengths)

    def encode_bytes(self, content: bytes, *, allowed_special: AllowedSpecial = "all") -> Ids:
        """`encode_array` of any bytes; one that is not UTF-8 is no letter, number or white space to it."""
        return self._encoder(len(content)).encode(content, self.pretokenizer.allowing(allowed_special))

    def encode_batch(
        self, texts: Sequence[str], *, allowed_special: AllowedSpecial = "all", num_threads: int | None = None
    ) -> list[Ids]:
        """The ids of each of many texts, as arrays.

        Args:
            num_threads: None: one per core. Without the kernels, one is all that helps.
        """
        is_fast = self.uses_kernels(sum(map(len, texts)))
        encode = functools.partial(self.encode_array, allowed_special=allowed_special)
        return threaded_map(encode, texts, num_threads if is_fast else 1, len)

    def encode_iterable(
        self,
        chunks: Iterable[str],
        *,
        allowed_special: AllowedSpecial = "all",
        piece_size: int = PIECE_SIZE,
    ) -> Iterator[int]:
        """The ids of the text that all chunks make together, however they divide it.

        Memory: a few pieces of `piece_size` characters, or the longest stretch that cannot be divided.
        """
        for piece in self.pretokenizer.allowing(allowed_special).pieces(chunks, piece_size):
            yield from self.encode(piece, allowed_special=allowed_special)

    def decode(self, ids: Iterable[int] | Ids) -> str:
        """The text of some ids (a list, an array, any iterable); bytes that are not UTF-8 become U+FFFD.

        Raises:
            DataError: an id that is not in the vocabulary.
        """
        return str(self._decoded(ids), "utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int] | Ids) -> bytes:
        """The bytes of some ids, whether or not they are UTF-8; raises as `decode` does."""
        return bytes(self._decoded(ids))

    def decode_batch(
        self, batch: Sequence[Sequence[int] | Ids], *, num_threads: int | None = None
    ) -> list[str]:
        """The text of each of many lists or arrays of ids."""
        is_fast = self.uses_kernels(sum(map(len, batch)))
        return threaded_map(self.decode, batch, num_threads if is_fast else 1, len)

    def __reduce__(self) -> tuple[Callable[..., Tokenizer], tuple[Any, ...]]:
        # To a worker process goes what defines a tokenizer, not what it has remembered.
        make = functools.partial(Tokenizer, pattern=self.pretokenizer.pattern, whole_words=self.whole_words)
        return make, (self.vocab, self.merges, list(self.special_token_ids))

    def _fingerprints(self) -> Iterator[str]:
        tokens, pattern = map(self.vocab.__getitem__, range(self.vocab_size)), self.pretokenizer.pattern
        return fingerprints(pattern, self.whole_words, self.special_token_ids, [*tokens], self.merges)

    def _decoded(self, ids: Iterable[int] | Ids) -> bytes | memoryview:
        if isinstance(ids, np.ndarray):
            if ids.size and ids.dtype.kind not in "iu":
                raise no_such_id(ids.flat[0].item(), self.vocab_size)
            return self._encoder(ids.size).decode_bytes(ids.reshape(-1))
        ids = list(ids)
        if len(ids) > _FEW_IDS and self.uses_kernels(len(ids)):
            array = np.array(ids)
            if array.dtype.kind in "iu":
                return self._fast.decode_bytes(array)
        return self._plain.decode_bytes(ids)

    def uses_kernels(self, size: int) -> bool:
        """Whether the compiled kernels are used from now on, with `size` more characters or ids at hand."""
        if "_fast" not in self.__dict__:
            plain_seconds = (self._plain_bytes + size) / _PLAIN_BYTES_PER_SECOND
            if not (kernel_library.are_worth(plain_seconds) and self._has_kernels):
                return False
            _ = self._fast  # what comes in small parts after this uses them too
        return True

    def _encoder(self, size: int) -> PlainEncoder | FastEncoder:
        if self.uses_kernels(size):
            return self._fast
        self._plain_bytes += size
        return self._plain

    @functools.cached_property
    def _has_kernels(self) -> bool:
        is_usual = self.pretokenizer.pattern == GPT2_PATTERN and self.vocab_size < 1 << ID_BITS
        return is_usual and not self.whole_words and are_in_order(self.merges)

    @functools.cached_property
    def _fast(self) -> FastEncoder:
        return FastEncoder(self.vocab, self._id_of, self.merges, self.special_token_ids, self.dtype)

    @functools.cached_property
    def _plain(self) -> PlainEncoder:
        parts = (self.vocab, self._id_of, self.merges, self.special_token_ids, self.dtype)
        return PlainEncoder(*parts, whole_words=self.whole_words)
