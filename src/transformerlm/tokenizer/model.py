"""Byte-pair encoding of one pre-token, with bytes or with characters as smallest tokens."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from transformerlm.tokenizer.bpe import NUM_BYTES, MergeRules, apply_merges, merge_in_place
from transformerlm.tokenizer.byte_alphabet import BYTES, text_to_token
from transformerlm.tokenizer.form import Characters, MissingBytes, PretokenStep
from transformerlm.tokenizer.pretokenize import bytes_of
from transformerlm.tokenizer.splits import Split, split_text
from transformerlm.tokenizer.vocabulary import byte_ids

Symbols = tuple[list[int], list[int]]
"""Ids of the smallest tokens of a pre-token, and the number of its bytes that each stands for."""


class Model:
    """Merges, and what they start from.

    Args:
        id_of: token, as the merges have it -> id.
        rules: the merges, on ids.
        whole_words: pre-tokens that are not divided -> id.
        characters: None: bytes are the smallest tokens.
        missing: bytes that are no tokens.
        late: steps that each pre-token goes through first.
    """

    def __init__(
        self,
        id_of: Mapping[bytes, int],
        rules: MergeRules,
        *,
        whole_words: Mapping[bytes, int],
        characters: Characters | None = None,
        missing: MissingBytes | None = None,
        late: Sequence[PretokenStep] = (),
    ) -> None:
        self._rules, self._id_of, self._words, self._late = rules, id_of, whole_words, late
        self._characters, self._missing = characters, missing
        unk_token = (characters or missing or Characters()).unk_token
        # Not of "": that may be a token too.
        self._unknown = None if unk_token is None else id_of[unk_token.encode()]
        if characters is None:
            self._byte_ids = byte_ids(id_of, missing)
        else:
            self._byte_ids = [id_of.get(b"<0x%02X>" % byte, -1) for byte in range(NUM_BYTES)]

    def encode(self, pretoken: str) -> list[int]:
        """Return the ids of a pre-token; bytes that are not UTF-8 are surrogates in it."""
        if not self._late:
            content = bytes_of(pretoken)
            if content in self._words:
                return [self._words[content]]
            if self._characters is None:
                ids = [self._byte_ids[byte] for byte in content]
                if self._missing:
                    ids, _ = self._known(ids, [1] * len(ids))
                return apply_merges(ids, self._rules)
            return apply_merges(self._character_symbols(pretoken)[0], self._rules)
        return [token_id for piece in self._pieces(pretoken) for token_id, _ in self.tokens(piece)]

    def tokens(self, piece: str) -> list[tuple[int, int]]:
        """Return id and number of bytes of each token of a text that has gone through all steps.

        The bytes are those of `piece`, which without `characters` is spelled in GPT-2's alphabet.
        """
        is_spelled = self._characters is None
        word = self._words.get(text_to_token(piece) if is_spelled else bytes_of(piece))
        if word is not None:
            return [(word, len(bytes_of(piece)))]
        ids, sizes = self._spelled_symbols(piece) if is_spelled else self._character_symbols(piece)
        merged = merge_in_place(ids, self._rules)
        tokens: list[tuple[int, int]] = []
        for token_id, size in zip(merged, sizes, strict=False):  # a mark ends the list of ids
            if token_id >= 0:
                tokens.append((token_id, size))
            else:
                tokens[-1] = (tokens[-1][0], tokens[-1][1] + size)
        return tokens

    def _pieces(self, pretoken: str) -> list[str]:
        pieces = [pretoken]
        for step in self._late:
            if isinstance(step, Split):
                pieces = [part for piece in pieces for part in split_text([step], piece)]
            else:
                pieces = [step.apply(piece) for piece in pieces]
        return pieces

    def _spelled_symbols(self, piece: str) -> Symbols:
        ids = [self._byte_ids[BYTES[letter]] for letter in piece]
        sizes = [len(letter.encode()) for letter in piece]
        return self._known(ids, sizes) if self._missing else (ids, sizes)

    def _known(self, ids: list[int], sizes: list[int]) -> Symbols:
        """Return the ids of bytes, -1 for those that are missing, as tokens."""
        assert self._missing
        unknown = self._unknown
        known: Symbols = [], []
        for is_known, group in itertools.groupby(zip(ids, sizes, strict=True), lambda one: one[0] >= 0):
            found, lengths = map(list, zip(*group, strict=True))
            if not is_known:
                found = [] if unknown is None else [unknown] * len(found)
                lengths = [] if unknown is None else lengths
                if self._missing.fuse_unk:
                    found, lengths = found[:1], [sum(lengths)] * bool(found)
            known[0].extend(found)
            known[1].extend(lengths)
        return known

    def _character_symbols(self, piece: str) -> Symbols:
        """Return the smallest tokens as `tokenizers` has them, even where an unknown character is put off.

        With fusing, one is written when a known character follows, and so after the bytes of others.
        """
        characters = self._characters
        assert characters
        ids: list[int] = []
        sizes: list[int] = []
        unknown = self._unknown
        pending = 0  # bytes of unknown characters that are not written yet
        for character in piece:
            content = bytes_of(character)
            token_id = self._id_of.get(content)
            fallback = [self._byte_ids[byte] for byte in content] if characters.byte_fallback else [-1]
            if token_id is None and min(fallback) >= 0:
                ids += fallback
                sizes += [1] * len(fallback)
                continue
            if pending and (token_id is not None or not characters.fuse_unk):
                ids.append(unknown)  # type: ignore[arg-type]  # it is pending only where there is one
                sizes.append(pending)
                pending = 0
            if token_id is not None:
                ids.append(token_id)
                sizes.append(len(content))
            elif unknown is not None:
                pending += len(content)
        return ids + [unknown] * (pending > 0), sizes + [pending] * (pending > 0)  # type: ignore[list-item]
