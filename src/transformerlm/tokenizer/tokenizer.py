"""`Tokenizer`: encodes text to ids and decodes ids to text; reads and writes the files of tokenizers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from transformerlm.config import GPT2_PATTERN
from transformerlm.errors import ConfigError, DataError
from transformerlm.parallel import threaded_groups
from transformerlm.tokenizer.codec import AnyMerges, Codec
from transformerlm.tokenizer.form import Form, plain_form
from transformerlm.tokenizer.form_cuts import pieces_of
from transformerlm.tokenizer.formats import gpt2_files
from transformerlm.tokenizer.formats.folder import plain_parts, read_folder, read_saved, write_saved
from transformerlm.tokenizer.formats.text_file import FileError
from transformerlm.tokenizer.formats.tiktoken_reader import from_encoding, read_tiktoken
from transformerlm.tokenizer.formats.tokenizer_config import kept_settings, read_tokenizer_config
from transformerlm.tokenizer.formats.tokenizer_json_reader import TokenizerParts, read_tokenizer_json
from transformerlm.tokenizer.formats.tokenizer_json_writer import write_tokenizer_json
from transformerlm.tokenizer.lazy_vocab import AnyVocab, tokens_of
from transformerlm.tokenizer.listed_merges import ListedMerges
from transformerlm.tokenizer.offsets import character_offsets, trimmed_offsets
from transformerlm.tokenizer.pretokenize import PIECE_SIZE, AllowedSpecial, Pretokenizer, bytes_of
from transformerlm.tokenizer.reachable import MergeIds
from transformerlm.tokenizer.splits import Split
from transformerlm.tokenizer.vocabulary import (
    Ids,
    checked,
    row_of_ids,
    with_special_tokens,
)

if TYPE_CHECKING:
    import tiktoken


_MIN_CHARACTERS, _MIN_IDS = 1 << 18, 1 << 19
"""Amounts of work of a batch, in characters and in ids, for which a thread is started: some milliseconds."""


class Tokenizer(Codec):
    """Byte-pair encoding of texts.

    Byte-level tokenizers, such as all that this package trains, have ids for every text, and
    `decode(encode(text)) == text`. Those of others may have another form, which changes a text first, or no
    tokens for some bytes, which are then left out as `tokenizers` leaves them out.
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
        form: takes the place of `special_tokens` and `pattern`. Readers of files make it, with a checked
            `vocab` that has the added tokens too, and ids that need not be 0 to n - 1.

    Raises:
        DataError: a vocabulary or merges that cannot be used.
        ConfigError: a pattern that does not compile, or an empty special token.
    """

    def __init__(
        self,
        vocab: AnyVocab,
        merges: AnyMerges,
        special_tokens: Sequence[str] | None = None,
        *,
        pattern: str | Sequence[Split] = GPT2_PATTERN,
        whole_words: bool = False,
        tokenizer_config: Mapping[str, Any] | None = None,
        form: Form | None = None,
    ) -> None:
        if form is None:
            tokens = Pretokenizer(pattern, special_tokens or ()).special_tokens
            assert not isinstance(merges, ListedMerges)
            vocab = tokens_of(vocab)
            merges = merges.pairs(vocab) if isinstance(merges, MergeIds) else merges
            vocab, ids = with_special_tokens(checked(vocab, merges), tokens)
            form = plain_form(ids, pattern)
        super().__init__(vocab, merges, form, whole_words=whole_words)
        self.tokenizer_config: Mapping[str, Any] = kept_settings(
            tokenizer_config or {}, self.special_token_ids
        )

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
            gpt2_files.check_pattern(vocab, merges, Path(merges_path))
        parts = plain_parts(vocab, merges, special_tokens or (), pattern, whole_words)
        settings: dict[str, Any] = {"whole_words": whole_words, "tokenizer_config": tokenizer_config}
        return cls(parts.vocab, parts.merges, form=parts.form, **settings)

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """Load a Hugging Face `tokenizer.json` with byte-level BPE; see `read_tokenizer_json`.

        Raises:
            DataError: a file that cannot be used, or a setting in it that is not supported.
        """
        return cls._from_parts(read_tokenizer_json(path), Path(path).parent)

    @classmethod
    def from_tiktoken(
        cls,
        source: str | Path | tiktoken.Encoding,
        *,
        pattern: str | None = None,
        special_token_ids: Mapping[str, int] | None = None,
    ) -> Tokenizer:
        """Load a tokenizer of tiktoken: an `Encoding`, or a `.tiktoken` file.

        Args:
            source: the object, or the path of the file.
            pattern: pre-tokenization pattern of a file, which does not hold it.
            special_token_ids: special token -> id, likewise.

        Raises:
            DataError: a file that cannot be used, or a pattern that may mean something else here.
            ConfigError: a file without a pattern.
        """
        if not isinstance(source, str | Path):
            parts = from_encoding(source)
        elif pattern is None:
            raise ConfigError(f"from_tiktoken: {source} does not hold its pattern: expected one, got None")
        else:
            parts = read_tiktoken(source, pattern, special_token_ids or {})
        return cls(parts.vocab, parts.merges, form=parts.form, whole_words=parts.whole_words)

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
        settings: dict[str, Any] = {"whole_words": parts.whole_words, "form": parts.form}
        return cls(parts.vocab, parts.merges, **settings, tokenizer_config=read_tokenizer_config(folder))

    def save(self, directory: str | Path, made_from: Mapping[str, Any] | None = None) -> None:
        """Write the tokenizer into `directory`: `vocab.json`, `merges.txt` and `manifest.json`.

        One whose form these cannot hold has a `tokenizer.json` instead of the first two. If there is a
        `tokenizer_config`, there is also a `tokenizer_config.json`.

        Args:
            made_from: origin of the tokenizer (corpus, settings); stored in the manifest.
        """
        write_saved(directory, self, self.fingerprint, dict(made_from or {}))

    def export_tokenizer_json(self, directory: str | Path, *, eos_token: str | None = None) -> None:
        """Write a folder for `tokenizers` and `transformers.AutoTokenizer`; see `write_tokenizer_json`."""
        write_tokenizer_json(directory, self, eos_token=eos_token, keeps_post_processor=True)

    def encode(
        self, text: str, *, allowed_special: AllowedSpecial = "all", add_special_tokens: bool = False
    ) -> list[int]:
        """Return the ids of a text as a list.

        Args:
            allowed_special: special tokens that are encoded as one id; others are ordinary text.
            add_special_tokens: put tokens around the text, such as one that begins it, if the file that the
                tokenizer was read from says so.

        Raises:
            DataError: an unpaired surrogate in the text, or something that is no text.
            ConfigError: `allowed_special` names a string that is not a special token.
        """
        ids: list[int] = self.encode_array(text, allowed_special=allowed_special).tolist()
        if add_special_tokens:
            number_of = self.added_token_ids.__getitem__
            return [*map(number_of, self.form.before), *ids, *map(number_of, self.form.after)]
        return ids

    def encode_array(self, text: str, *, allowed_special: AllowedSpecial = "all") -> Ids:
        """Return the ids of a text as an array, `[num_ids]`; arguments and errors as in `encode`.

        Its dtype is `dtype`: uint16 for a vocabulary of up to 65,536 ids, else uint32.
        """
        if not isinstance(text, str):
            raise DataError(f"encode: expected text, got {text!r:.60}; encode_batch takes several texts")
        return self._encode(text, allowed_special)

    def encode_with_offsets(
        self, text: str, *, allowed_special: AllowedSpecial = "all"
    ) -> tuple[Ids, NDArray[np.int64]]:
        """Return the ids, `[num_ids]`, and for each the range of characters of `text`, `[num_ids, 2]`.

        A token that holds part of a character covers all of it. Arguments and errors as in `encode`.
        """
        form = self.form
        is_plain = not (form.characters or form.late or form.drops_text or form.trim_offsets)
        if form.missing and isinstance(text, str) and form.missing.occur_in(bytes_of(text)):
            is_plain = False
        if is_plain and self._is_kept(text):
            ids = self.encode_array(text, allowed_special=allowed_special)
            lengths = np.fromiter(map(len, map(self.spelled.__getitem__, ids.tolist())), np.int64, len(ids))
            return ids, character_offsets(text, lengths)
        found = self._encode_aligned(text, allowed_special)
        ids = np.array([token.token_id for token in found], self.dtype)
        offsets = np.array([(token.start, token.end) for token in found], np.int64).reshape(-1, 2)
        if form.trim_offsets:
            tokens = [
                self.token_text(token.token_id) if token.text is None else token.text for token in found
            ]
            offsets = trimmed_offsets(offsets, tokens, keeps_prefix_space=form.keeps_prefix_space)
        return ids, offsets

    def encode_bytes(self, content: bytes, *, allowed_special: AllowedSpecial = "all") -> Ids:
        """Return the ids of any bytes, `[num_ids]`; in the pattern, invalid UTF-8 counts as other characters.

        Raises:
            ConfigError: `allowed_special` names a string that is not a special token.
        """
        return self._encode(content, allowed_special)

    def encode_batch(
        self, texts: Sequence[str], *, allowed_special: AllowedSpecial = "all", num_threads: int | None = None
    ) -> list[Ids]:
        """Return the ids of each text as arrays, encoded on several threads.

        Args:
            num_threads: None means one per core. In plain Python one thread is used.
        """
        if isinstance(texts, str):
            raise DataError(f"encode_batch: expected several texts, got {texts!r:.60}")
        for text in texts:
            if not isinstance(text, str):
                raise DataError(f"encode_batch: expected texts, got {text!r:.60}")
        with_kernels = self.uses_kernels(sum(map(len, texts)))
        encode = functools.partial(self._encode_all, allowed=allowed_special)
        return threaded_groups(encode, texts, num_threads if with_kernels else 1, len, _MIN_CHARACTERS)

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
        if self.form.keeps_text:
            pieces = self._allowing(allowed_special).pieces(chunks, piece_size)
        else:
            pieces = pieces_of(chunks, piece_size, self._cuts(allowed_special).continued_cut)
        for index, piece in enumerate(pieces):
            yield from self._encode(piece, allowed_special, is_first=index == 0).tolist()

    def decode(self, ids: Iterable[int] | Ids, *, skip_special_tokens: bool = False) -> str:
        """Return the text of ids; invalid UTF-8 becomes U+FFFD.

        Args:
            ids: a list or another iterable, an array, a tensor on any device; or one id.
            skip_special_tokens: leave out special tokens.

        Raises:
            DataError: an id that is not in the vocabulary, numbers that are not whole, a list of lists.
        """
        row = row_of_ids(ids, self.vocab_size)
        if skip_special_tokens:
            special = set(self.special_token_ids.values())
            row = [token_id for token_id in map(int, row) if token_id not in special]
        if self.form.decoder is None:
            return str(self._decoded(row), "utf-8", errors="replace")
        return self._decoded_by_steps(row, self.form.decoder)

    def decode_bytes(self, ids: Iterable[int] | Ids) -> bytes:
        """Return the bytes of ids, which need not be UTF-8, as they are within a text.

        Raises:
            DataError: an id that is not in the vocabulary.
        """
        return bytes(self._decoded(row_of_ids(ids, self.vocab_size)))

    def decode_batch(
        self, batch: Sequence[Sequence[int] | Ids], *, num_threads: int | None = None
    ) -> list[str]:
        """Return the text of each row of ids; arguments as in `decode` and `encode_batch`."""
        rows = [row_of_ids(ids, self.vocab_size) for ids in batch]
        with_kernels = self.uses_kernels(sum(map(len, rows)))
        return threaded_groups(self._decode_all, rows, num_threads if with_kernels else 1, len, _MIN_IDS)

    def _decode_all(self, rows: Sequence[list[int] | Ids]) -> list[str]:
        if self.form.decoder is None:
            return [str(content, "utf-8", errors="replace") for content in self._decoded_all(rows)]
        return [self.decode(row) for row in rows]

    def __reduce__(self) -> tuple[Callable[..., Tokenizer], tuple[Any, ...]]:
        # Without the encoders and their caches: a worker process builds its own.
        settings: dict[str, Any] = {"form": self.form, "whole_words": self.whole_words}
        make = functools.partial(Tokenizer, **settings, tokenizer_config=self.tokenizer_config)
        return make, (self.spelled, self.merges)
