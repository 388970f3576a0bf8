"""Encoding and decoding of single texts, in plain Python or on compiled kernels. Both give the same ids."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from transformerlm.kernels.bpe_layout import ID_BITS
from transformerlm.tokenizer import kernel_library
from transformerlm.tokenizer.bpe import Merges, Vocab
from transformerlm.tokenizer.byte_alphabet import token_to_text
from transformerlm.tokenizer.character_bytes import ByteVocabulary, CharacterEncoder, byte_vocabulary
from transformerlm.tokenizer.decode_steps import MakeDecodeStep, TextDecoder, bytes_within_text, joins_tokens
from transformerlm.tokenizer.encode import PythonEncoder, decode_bytes, whole_word_ids
from transformerlm.tokenizer.encode_kernels import KernelEncoder
from transformerlm.tokenizer.form import Form
from transformerlm.tokenizer.form_cuts import FormCuts, word_pattern
from transformerlm.tokenizer.form_encoder import AlignedId, FormEncoder
from transformerlm.tokenizer.lazy_vocab import AnyVocab, max_id_of, tokens_of
from transformerlm.tokenizer.listed_merges import ListedMerges
from transformerlm.tokenizer.model import Model
from transformerlm.tokenizer.patterns.compiled import has_kernels
from transformerlm.tokenizer.pretokenize import AllowedSpecial, Pretokenizer, text_of, utf8
from transformerlm.tokenizer.reachable import MergeIds
from transformerlm.tokenizer.text_steps import apply_steps
from transformerlm.tokenizer.vocabulary import (
    Ids,
    fingerprints,
    form_fingerprint,
    id_dtype,
    ids_of,
    unknown_id_error,
)

AnyMerges = Merges | MergeIds | ListedMerges

_MAX_IDS_IN_PYTHON = 100  # a shorter list is decoded faster than it is converted to an array
_PYTHON_BYTES_PER_SECOND = 3e6  # rough speed in plain Python: encoding text with new words, decoding


class Codec:
    """Encoder and decoder of a tokenizer, which chooses between the two implementations.

    Args:
        vocab: id -> token, as the merges have it; added tokens included.
        merges: pairs of tokens in the order in which they were learned, their ids, or as a file lists them.
        form: how a text becomes pre-tokens, and ids a text.
        whole_words: see `Tokenizer`.
    """

    def __init__(self, vocab: AnyVocab, merges: AnyMerges, form: Form, *, whole_words: bool) -> None:
        self.form, self._whole_words = form, whole_words
        self._merges = merges if isinstance(merges, MergeIds | ListedMerges) else [*merges]
        self.added_token_ids: dict[str, int] = {
            token.content: number for token, number in form.added_token_ids.items()
        }
        self.special_token_ids: dict[str, int] = {
            token.content: number for token, number in form.added_token_ids.items() if token.special
        }
        self._vocab = vocab
        if not form.characters:
            _ = self.pretokenizer  # checks the pattern
        self.vocab_size = max_id_of(vocab) + 1
        """Number of ids, special tokens included; some may stand for no token."""
        self.dtype = id_dtype(self.vocab_size)
        self._python_bytes = 0

    @functools.cached_property
    def spelled(self) -> Vocab:
        """id -> token, as the merges have it."""
        return tokens_of(self._vocab)

    @functools.cached_property
    def merges(self) -> Merges:
        """Pairs of tokens in the order in which they were learned; those that are ever applied."""
        return self._merges if isinstance(self._merges, list) else self._merge_ids.pairs(self.spelled)

    @functools.cached_property
    def whole_words(self) -> bool:
        """True: a pre-token that is a token is not divided, even if the merges do not produce it."""
        if self._whole_words and isinstance(self._merges, ListedMerges):
            return self._merges.leaves_undivided({*map(utf8, self.added_token_ids)})
        return self._whole_words

    @functools.cached_property
    def vocab(self) -> Vocab:
        """id -> the bytes that the token stands for within a text."""
        decoder = self.form.decoder
        if decoder is None:
            return self.spelled | self._normalized_tokens()
        tokens = bytes_within_text(decoder, list(map(self.token_text, self.spelled)))
        return dict(zip(self.spelled, tokens, strict=True))

    @functools.cached_property
    def pretokenizer(self) -> Pretokenizer:
        """What divides a text into pre-tokens, or a text of characters where no merge goes over the cut."""
        words = None
        if self.form.characters:
            parts = (self._id_of, self.spelled, self._merge_ids)
            words = word_pattern(self.form, *parts, whole_words=self.whole_words)
        return Pretokenizer(words or self.form.pattern, list(self.added_token_ids))

    @functools.cached_property
    def _id_of(self) -> dict[bytes, int]:
        return ids_of(self.spelled, self.form)

    @functools.cached_property
    def _merge_ids(self) -> MergeIds:
        if isinstance(self._merges, ListedMerges):
            return self._merges.applied
        return self._merges if isinstance(self._merges, MergeIds) else MergeIds.of(self._merges, self._id_of)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of everything that the ids of a text depend on."""
        return next(self._fingerprints())

    def token_text(self, token_id: int) -> str:
        """Return a token as `tokenizers` spells it: in GPT-2's alphabet if tokens are bytes.

        Raises:
            DataError: an id that is not in the vocabulary.
        """
        if token_id in self._added_texts:
            return self._added_texts[token_id]
        if token_id not in self.spelled:
            raise unknown_id_error(token_id, self.vocab_size)
        token = self.spelled[token_id]
        return token.decode() if self.form.characters else token_to_text(token)

    def safe_cut(self, text: str, *, is_tail: bool = False) -> int:
        """Return the last safe cut of a text that may continue, 0 if none is known; `Pretokenizer.safe_cut`.

        There is none where the beginning of a text is encoded differently.
        """
        if self.form.keeps_text:
            return self.pretokenizer.safe_cut(text, is_tail=is_tail)
        return self._cuts("all").safe_cut(text, is_tail=is_tail)

    def _fingerprints(self) -> Iterator[str]:
        if not self.form.keeps_text or self.form.missing:
            yield form_fingerprint(self.form, self.whole_words, self.spelled, self.merges)
            return
        tokens = [self.spelled.get(number, b"") for number in range(self.vocab_size)]
        yield from fingerprints(
            self.form.pattern, self.whole_words, self.added_token_ids, tokens, self.merges
        )

    def _encode(self, text: str | bytes, allowed: AllowedSpecial, *, is_first: bool = True) -> Ids:
        encoder = self._encoder(len(text))
        if self._is_kept(text):
            return encoder.encode(text, self._allowing(allowed))
        if isinstance(text, bytes):
            text = text_of(text)
        else:
            utf8(text)  # raises for unpaired surrogates, which below stand for bytes that are not UTF-8
        if self.form.divides_before_prefix and is_first:
            return np.array([token.token_id for token in self._encode_aligned(text, allowed)], self.dtype)
        bare = self.pretokenizer.allowing("none")
        ids = self._form_encoder.encode(text, encoder, bare, self._allowed(allowed), is_first=is_first)
        return ids.astype(self.dtype, copy=False)

    def _encode_all(self, texts: Sequence[str], allowed: AllowedSpecial) -> list[Ids]:
        encoder = self._encoder(sum(map(len, texts)))
        if isinstance(encoder, KernelEncoder) and self.form.takes_whole and not self.form.normalizer:
            return encoder.encode_all(texts, self._allowing(allowed))
        return [self._encode(text, allowed) for text in texts]

    def _encode_aligned(self, text: str, allowed: AllowedSpecial) -> list[AlignedId]:
        model = self._python_encoder.model
        return self._form_encoder.encode_aligned(text, model, self._allowed(allowed))

    def _is_kept(self, text: str | bytes) -> bool:
        """Return True if a text is encoded as it is."""
        if not self.form.takes_whole or not self.form.normalizer:
            return self.form.takes_whole
        characters = text_of(text) if isinstance(text, bytes) else text
        return apply_steps(self.form.normalizer, characters) == characters

    def _allowing(self, allowed: AllowedSpecial) -> Pretokenizer:
        """Return the pre-tokenizer that finds the allowed special tokens, and all that are not special."""
        names = self._allowed(allowed)
        return self.pretokenizer if names is None else self.pretokenizer.allowing(names)

    def _allowed(self, allowed: AllowedSpecial) -> frozenset[str] | None:
        if allowed == "all":
            return None
        if len(self.added_token_ids) == len(self.special_token_ids):
            return frozenset(self.pretokenizer.allowing(allowed).special_tokens)
        names = self.pretokenizer.allowing(allowed).special_tokens
        others = self.added_token_ids.keys() - self.special_token_ids.keys()
        return others.union(names)  # type: ignore[return-value]

    def _cuts(self, allowed: AllowedSpecial) -> FormCuts:
        return FormCuts(self._form_encoder, self.pretokenizer.allowing("none"), self._allowed(allowed))

    def _decoded_by_steps(self, row: list[int] | Ids, steps: Sequence[MakeDecodeStep]) -> str:
        """Return the text of ids that are decoded by steps."""
        decoder = TextDecoder(steps)
        if joins_tokens(steps):
            return decoder.feed([self.token_text(number) for number in map(int, row)]) + decoder.flush()
        text, start = "", 0
        while start < len(row) and not text:
            text = decoder.feed([self.token_text(int(row[start]))])
            start += 1
        # Behind its first characters a text is the bytes of its tokens, as long as these are UTF-8.
        try:
            return text + str(self._decoded(row[start:]), "utf-8") if text else decoder.flush()
        except UnicodeDecodeError:
            rest = decoder.feed([self.token_text(number) for number in map(int, row[start:])])
            return text + rest + decoder.flush()

    def _decoded(self, row: list[int] | Ids) -> bytes | memoryview:
        if self.form.decoder is not None or len(self.spelled) < self.vocab_size:
            return decode_bytes(self.vocab, row)
        if isinstance(row, np.ndarray):
            return self._decoded_array(row, self._encoder(row.size))
        if len(row) > _MAX_IDS_IN_PYTHON and self.uses_kernels(len(row)):
            array = np.array(row)
            if array.dtype.kind in "iu":
                return self._kernel_encoder.decode_bytes(array)
        return decode_bytes(self.vocab, row)

    def _decoded_array(
        self, row: Ids, encoder: PythonEncoder | KernelEncoder | CharacterEncoder
    ) -> bytes | memoryview:
        if isinstance(encoder, PythonEncoder):
            return decode_bytes(self.vocab, row)
        return encoder.decode_bytes(row)

    def _decoded_all(self, rows: Sequence[list[int] | Ids]) -> Sequence[bytes | memoryview]:
        """Return the bytes of each row, of a tokenizer without steps of decoding."""
        arrays = [row for row in rows if isinstance(row, np.ndarray) and row.dtype == self.dtype]
        if len(arrays) < len(rows) or len(self.spelled) < self.vocab_size:
            return [self._decoded(row) for row in rows]
        encoder = self._encoder(sum(map(len, arrays)))
        if isinstance(encoder, KernelEncoder) and arrays:
            return encoder.decode_all(arrays)
        return [self._decoded_array(row, encoder) for row in arrays]

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

    def _encoder(self, size: int) -> PythonEncoder | KernelEncoder | CharacterEncoder:
        if self.uses_kernels(size):
            return self._kernel_encoder
        self._python_bytes += size
        return self._python_encoder

    @functools.cached_property
    def _has_kernels(self) -> bool:
        if self.form.late or (self.form.characters and not self._byte_vocabulary):
            return False
        if self._joins_unknown:
            return False
        size = len(self._byte_vocabulary.vocab) if self._byte_vocabulary else self.vocab_size
        return size < 1 << ID_BITS and has_kernels(self.pretokenizer.pattern)

    @property
    def _joins_unknown(self) -> bool:
        """True if the token of missing bytes may become a part of another, or stand for several of them."""
        missing = self.form.missing
        if not missing or not missing.unk_token:
            return False
        token = missing.unk_token.encode()
        return missing.fuse_unk or any(token in pair for pair in self.merges)

    @functools.cached_property
    def _byte_vocabulary(self) -> ByteVocabulary | None:
        """A vocabulary of bytes in the place of one of characters."""
        if not self.form.characters:
            return None
        return byte_vocabulary(self._id_of, self.merges, self.form.characters, self.vocab_size)

    @functools.cached_property
    def _kernel_encoder(self) -> KernelEncoder | CharacterEncoder:
        pattern, added = self.pretokenizer.pattern, self.added_token_ids
        if self._byte_vocabulary:
            words = {"whole_words": self.whole_words}
            return CharacterEncoder(self._byte_vocabulary, added, self.dtype, pattern, **words)
        vocab = {number: self.vocab.get(number, b"") for number in range(self.vocab_size)}
        parts = (vocab, self._id_of, self._merge_ids, added, self.dtype)
        return KernelEncoder(*parts, pattern, whole_words=self.whole_words, missing=self.form.missing)

    @functools.cached_property
    def _python_encoder(self) -> PythonEncoder:
        form, words = self.form, {}
        # With merges as they are listed, what they make of a whole pre-token that is an added token is that.
        merges = self._merges if isinstance(self._merges, ListedMerges) else self._merge_ids
        if self._whole_words:
            made = merges.made if isinstance(merges, MergeIds) else ()
            words = whole_word_ids(self._id_of, made, self.added_token_ids)
        steps: dict[str, Any] = {"characters": form.characters, "missing": form.missing, "late": form.late}
        model = Model(self._id_of, merges.rules(), whole_words=words, **steps)
        return PythonEncoder(model, self.added_token_ids, self.dtype)

    @functools.cached_property
    def _form_encoder(self) -> FormEncoder:
        return FormEncoder(self.form)

    def _normalized_tokens(self) -> Vocab:
        """Return the added tokens that are decoded to their normalized form."""
        changed = self._added_texts.items()
        others = {number: content for content, number in self.added_token_ids.items()}
        return {number: text.encode() for number, text in changed if text != others[number]}

    @functools.cached_property
    def _added_texts(self) -> dict[int, str]:
        return {
            number: apply_steps(self.form.normalizer, token.content) if token.normalized else token.content
            for token, number in self.form.added_token_ids.items()
        }
