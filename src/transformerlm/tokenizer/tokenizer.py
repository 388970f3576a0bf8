"""`Tokenizer`: encodes text to ids and decodes ids to text, in plain Python or on compiled kernels.

Both give the same ids. The class combines the pre-tokenizer, an encoder and the file formats.
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
from transformerlm.tokenizer.encode import PythonEncoder
from transformerlm.tokenizer.encode_kernels import KernelEncoder
from transformerlm.tokenizer.formats import gpt2_files
from transformerlm.tokenizer.formats.folder import read_folder, read_saved
from transformerlm.tokenizer.formats.text_file import FileError
from transformerlm.tokenizer.formats.tokenizer_config import kept_settings, read_tokenizer_config
from transformerlm.tokenizer.formats.tokenizer_json_reader import TokenizerParts, read_tokenizer_json
from transformerlm.tokenizer.formats.tokenizer_json_writer import write_tokenizer_json
from transformerlm.tokenizer.offsets import character_offsets
from transformerlm.tokenizer.patterns.compiled import has_kernels
from transformerlm.tokenizer.pretokenize import PIECE_SIZE, AllowedSpecial, Pretokenizer
from transformerlm.tokenizer.splits import Split
from transformerlm.tokenizer.vocabulary import (
    Ids,
    find_merges_fault,
    find_vocab_fault,
    fingerprints,
    id_dtype,
    row_of_ids,
)

_MAX_IDS_IN_PYTHON = 100  # a shorter list is decoded faster than it is converted to an array
_PYTHON_BYTES_PER_SECOND = 3e6  # rough speed in plain Python: encoding text with new words, decoding


class Tokenizer:
    """Byte-level byte-pair encoding. Every text has ids, and `decode(encode(text)) == text`.

    Threads may use one tokenizer, or several, at the same time.

    Args:
        vocab: id -> token; the ids are 0 to n - 1, and every single byte is a token.
        merges: pairs of tokens in the order in which they were learned.
        special_tokens: strings that are encoded as one id. One that is in `vocab` has its id there, any
            other gets the next free id.
        pattern: pre-tokenization pattern, in the syntax of the `regex` package, or several splits.
        whole_words: a pre-token that is a token is not divided, even if the merges do not produce it
            (`ignore_merges` in Hugging Face's files, used by Llama 3).
        tokenizer_config: settings that change no ids and are kept for other programs, under their names in
            Hugging Face's `tokenizer_config.json`: `pad_token`, `chat_template` and such.

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
        pattern: str | Sequence[Split] = GPT2_PATTERN,
        whole_words: bool = False,
        tokenizer_config: Mapping[str, Any] | None = None,
    ) -> None:
        fault = find_vocab_fault([(token, token_id) for token_id, token in vocab.items()])
        if fault:
            raise DataError(f"vocab: {fault.what}")
        fault = find_merges_fault(merges, vocab)
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
        self.tokenizer_config: Mapping[str, Any] = kept_settings(
            tokenizer_config or {}, self.special_token_ids
        )
        self.merges: Merges = [(left, right) for left, right in merges]
        self.dtype = id_dtype(self.vocab_size)
        self._python_bytes = 0

    @classmethod
    def from_files(
        cls,
        vocab_path: str | Path,
        merges_path: str | Path,
        special_tokens: Sequence[str] | None = None,
        *,
        pattern: str | Sequence[Split] = GPT2_PATTERN,
        whole_words: bool = False,
        tokenizer_config: Mapping[str, Any] | None = None,
    ) -> Tokenizer:
        """Load a `vocab.json` and a `merges.txt` in GPT-2's formats.

        Raises:
            DataError: files that cannot be used; one line, `path:line: reason`. Also merges that were
                learned with another pattern, if `pattern` is GPT-2's.
        """
        vocab = gpt2_files.read_vocab(vocab_path, special_tokens or ())
        merges = gpt2_files.read_merges(merges_path, vocab)
        if pattern == GPT2_PATTERN:
            gpt2_files.check_pattern(merges, Path(merges_path))
        settings: dict[str, Any] = {"pattern": pattern, "whole_words": whole_words}
        return cls(vocab, merges, special_tokens, **settings, tokenizer_config=tokenizer_config)

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """Load a Hugging Face `tokenizer.json` with byte-level BPE; see `read_tokenizer_json`.

        Raises:
            DataError: a file that cannot be used, or a setting in it that is not supported.
        """
        return cls._from_parts(read_tokenizer_json(path), Path(path).parent)

    @classmethod
    def from_dir(cls, directory: str | Path) -> Tokenizer:
        """Load a folder written by `save`, or one with a `tokenizer.json` or GPT-2's two files.

        Of several, the one that knows most is read: `save`'s manifest, then `tokenizer.json`. GPT-2's files
        alone do not name a pattern: they are read with GPT-2's, or are refused; see `read_folder`.

        Raises:
            DataError: files that cannot be used, or that do not belong together.
        """
        folder = Path(directory)
        manifest = gpt2_files.read_manifest(folder)
        if manifest is None:
            return cls._from_parts(read_folder(folder), folder)
        try:
            tokenizer = cls._from_parts(read_saved(folder, manifest), folder)
        except ConfigError as error:
            raise FileError(folder / gpt2_files.MANIFEST_FILE, str(error)) from None
        if manifest.fingerprint not in tokenizer._fingerprints():
            raise FileError(folder / gpt2_files.MANIFEST_FILE, "not of this tokenizer, or damaged")
        return tokenizer

    @classmethod
    def _from_parts(cls, parts: TokenizerParts, folder: Path) -> Tokenizer:
        settings: dict[str, Any] = {"pattern": parts.pattern, "whole_words": parts.whole_words}
        settings |= {"tokenizer_config": read_tokenizer_config(folder)}
        return cls(parts.vocab, parts.merges, parts.special_tokens, **settings)

    def save(self, directory: str | Path, made_from: Mapping[str, Any] | None = None) -> None:
        """Write `vocab.json`, `merges.txt` and `manifest.json` into `directory`.

        If there is a `tokenizer_config`, also `tokenizer_config.json`.

        Args:
            made_from: origin of the tokenizer (corpus, settings); stored in the manifest.
        """
        pattern = self.pretokenizer.pattern
        assert isinstance(pattern, str)  # the constructor takes no other
        manifest = gpt2_files.Manifest(
            pattern=pattern,
            whole_words=self.whole_words,
            special_tokens=list(self.special_token_ids),
            vocab_size=self.vocab_size,
            fingerprint=self.fingerprint,
            made_from=dict(made_from or {}),
        )
        gpt2_files.write_tokenizer(directory, self.vocab, self.merges, manifest, self.tokenizer_config)

    def export_tokenizer_json(self, directory: str | Path, *, eos_token: str | None = None) -> None:
        """Write a folder for `tokenizers` and `transformers.AutoTokenizer`; see `write_tokenizer_json`."""
        write_tokenizer_json(directory, self, eos_token=eos_token)

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return len(self.vocab)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of everything that the ids of a text depend on."""
        return next(self._fingerprints())

    def encode(self, text: str, *, allowed_special: AllowedSpecial = "all") -> list[int]:
        """Return the ids of a text as a list.

        Args:
            allowed_special: special tokens that are encoded as one id; others are ordinary text.

        Raises:
            DataError: an unpaired surrogate in the text, or something that is no text.
            ConfigError: `allowed_special` names a string that is not a special token.
        """
        ids: list[int] = self.encode_array(text, allowed_special=allowed_special).tolist()
        return ids

    def encode_array(self, text: str, *, allowed_special: AllowedSpecial = "all") -> Ids:
        """Return the ids of a text as an array, `[num_ids]`; arguments and errors as in `encode`.

        Its dtype is `dtype`: uint16 for a vocabulary of up to 65,536 ids, else uint32.
        """
        if not isinstance(text, str):
            raise DataError(f"encode: expected text, got {text!r:.60}; encode_batch takes several texts")
        return self._encoder(len(text)).encode(text, self.pretokenizer.allowing(allowed_special))

    def encode_with_offsets(
        self, text: str, *, allowed_special: AllowedSpecial = "all"
    ) -> tuple[Ids, NDArray[np.int64]]:
        """Return the ids, `[num_ids]`, and for each the range of characters of `text`, `[num_ids, 2]`.

        A token that holds part of a character covers all of it. Arguments and errors as in `encode`.
        """
        ids = self.encode_array(text, allowed_special=allowed_special)
        lengths = np.fromiter(map(len, map(self.vocab.__getitem__, ids.tolist())), np.int64, len(ids))
        return ids, character_offsets(text, lengths)

    def encode_bytes(self, content: bytes, *, allowed_special: AllowedSpecial = "all") -> Ids:
        """Return the ids of any bytes, `[num_ids]`; in the pattern, invalid UTF-8 counts as other characters.

        Raises:
            ConfigError: `allowed_special` names a string that is not a special token.
        """
        return self._encoder(len(content)).encode(content, self.pretokenizer.allowing(allowed_special))

    def encode_batch(
        self, texts: Sequence[str], *, allowed_special: AllowedSpecial = "all", num_threads: int | None = None
    ) -> list[Ids]:
        """Return the ids of each text as arrays, encoded on several threads.

        Args:
            num_threads: None means one per core. In plain Python one thread is used.
        """
        if isinstance(texts, str):
            raise DataError(f"encode_batch: expected several texts, got {texts!r:.60}")
        with_kernels = self.uses_kernels(sum(map(len, texts)))
        encode = functools.partial(self.encode_array, allowed_special=allowed_special)
        return threaded_map(encode, texts, num_threads if with_kernels else 1, len)

    def encode_iterable(
        self,
        chunks: Iterable[str],
        *,
        allowed_special: AllowedSpecial = "all",
        piece_size: int = PIECE_SIZE,
    ) -> Iterator[int]:
        """Yield the ids of the text that the chunks form together; they may divide it anywhere.

        Memory: a few pieces of `piece_size` characters, or the longest part of the text without a safe cut.
        """
        for piece in self.pretokenizer.allowing(allowed_special).pieces(chunks, piece_size):
            yield from self.encode(piece, allowed_special=allowed_special)

    def decode(self, ids: Iterable[int] | Ids) -> str:
        """Return the text of ids; invalid UTF-8 becomes U+FFFD.

        Args:
            ids: a list or another iterable, an array, a tensor on any device; or one id.

        Raises:
            DataError: an id that is not in the vocabulary, numbers that are not whole, a list of lists.
        """
        return str(self._decoded(ids), "utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int] | Ids) -> bytes:
        """Return the bytes of ids, which need not be UTF-8.

        Raises:
            DataError: an id that is not in the vocabulary.
        """
        return bytes(self._decoded(ids))

    def decode_batch(
        self, batch: Sequence[Sequence[int] | Ids], *, num_threads: int | None = None
    ) -> list[str]:
        """Return the text of each row of ids; arguments as in `decode` and `encode_batch`."""
        rows = [row_of_ids(ids, self.vocab_size) for ids in batch]
        with_kernels = self.uses_kernels(sum(map(len, rows)))
        return threaded_map(self.decode, rows, num_threads if with_kernels else 1, len)

    def __reduce__(self) -> tuple[Callable[..., Tokenizer], tuple[Any, ...]]:
        # Without the encoders and their caches: a worker process builds its own.
        settings: dict[str, Any] = {"pattern": self.pretokenizer.pattern, "whole_words": self.whole_words}
        make = functools.partial(Tokenizer, **settings, tokenizer_config=self.tokenizer_config)
        return make, (self.vocab, self.merges, list(self.special_token_ids))

    def _fingerprints(self) -> Iterator[str]:
        tokens, pattern = map(self.vocab.__getitem__, range(self.vocab_size)), self.pretokenizer.pattern
        return fingerprints(pattern, self.whole_words, self.special_token_ids, [*tokens], self.merges)

    def _decoded(self, ids: Iterable[int] | Ids) -> bytes | memoryview:
        row = row_of_ids(ids, self.vocab_size)
        if isinstance(row, np.ndarray):
            return self._encoder(row.size).decode_bytes(row)
        if len(row) > _MAX_IDS_IN_PYTHON and self.uses_kernels(len(row)):
            array = np.array(row)
            if array.dtype.kind in "iu":
                return self._kernel_encoder.decode_bytes(array)
        return self._python_encoder.decode_bytes(row)

    def uses_kernels(self, size: int) -> bool:
        """Return True if the compiled kernels are used, given `size` more characters or ids to process.

        Once they are used, they are used for all later calls.
        """
        if "_kernel_encoder" not in self.__dict__:
            python_seconds = (self._python_bytes + size) / _PYTHON_BYTES_PER_SECOND
            if not (kernel_library.should_use(python_seconds) and self._has_kernels):
                return False
            _ = self._kernel_encoder  # small texts use it from now on too
        return True

    def _encoder(self, size: int) -> PythonEncoder | KernelEncoder:
        if self.uses_kernels(size):
            return self._kernel_encoder
        self._python_bytes += size
        return self._python_encoder

    @functools.cached_property
    def _has_kernels(self) -> bool:
        return self.vocab_size < 1 << ID_BITS and has_kernels(self.pretokenizer.pattern)

    @functools.cached_property
    def _kernel_encoder(self) -> KernelEncoder:
        parts = (self.vocab, self._id_of, self.merges, self.special_token_ids, self.dtype)
        return KernelEncoder(*parts, self.pretokenizer.pattern, whole_words=self.whole_words)

    @functools.cached_property
    def _python_encoder(self) -> PythonEncoder:
        parts = (self.vocab, self._id_of, self.merges, self.special_token_ids, self.dtype)
        return PythonEncoder(*parts, whole_words=self.whole_words)
