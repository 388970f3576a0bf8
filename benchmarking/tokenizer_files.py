"""A `tokenizer.json` in the shape of each kind that people load, with a vocabulary trained on source code."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarking.corpora import gather
from transformerlm.tokenizer.byte_alphabet import token_to_text
from transformerlm.tokenizer.formats.tokenizer_json_steps import LLAMA3_PATTERN, QWEN_PATTERN

NUM_IDS = 150_000
VOCABULARY_BYTES = 100_000_000
META = "\N{LOWER ONE EIGHTH BLOCK}"
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}

Merges = list[tuple[bytes, bytes]]
Tokens = Mapping[str, bool]
"""Content of an added token -> whether it is special."""


class Learned:
    """Tokens and merges that the shapes are cut from."""

    def __init__(self, vocab: Mapping[int, bytes], merges: Merges) -> None:
        self.tokens, self.merges = [vocab[number] for number in range(len(vocab))], merges

    @classmethod
    def of_corpus(cls, directory: Path, num_ids: int) -> Learned:
        """Train on the source code of this machine."""
        from transformerlm.tokenizer import train_bpe

        corpus = gather("python-machine", VOCABULARY_BYTES, directory, ())
        return cls(*train_bpe(corpus.path, num_ids, [], pattern=LLAMA3_PATTERN))

    def spelled(self, number: int) -> dict[str, int]:
        """Return the first tokens in GPT-2's alphabet, with their ids."""
        return {token_to_text(token): index for index, token in enumerate(self.tokens[:number])}

    def pairs(self, number: int) -> list[str]:
        """Return the merges that make the first tokens, as lines."""
        merges = self.merges[: max(0, number - 256)]
        return [f"{token_to_text(left)} {token_to_text(right)}" for left, right in merges]

    def divisions(self, number: int) -> list[str]:
        """Return every division of the first tokens in two, as files made from tiktoken's have them."""
        rank = {token: index for index, token in enumerate(self.tokens[:number])}
        found = []
        for token in rank:
            own = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
            known = (pair for pair in own if pair[0] in rank and pair[1] in rank)
            found += sorted(known, key=lambda pair: (rank[pair[0]], rank[pair[1]]))
        return [f"{token_to_text(left)} {token_to_text(right)}" for left, right in found]

    def characters(self, number: int) -> tuple[dict[str, int], list[str]]:
        """Return tokens and merges of characters, with a sign for the space and a token for each byte."""
        known = {character for token in self.tokens[:number] for character in _signs(token)}
        pairs: dict[str, None] = {}
        for left, right in self.merges[:number]:
            parts = _signs(left), _signs(right)
            if all(part in known for part in parts) and META not in parts[1].lstrip(META):
                pairs[" ".join(parts)] = None
                known.add("".join(parts))
        first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
        keys = dict.fromkeys([*first, *sorted(known, key=lambda token: (len(token), token))])
        return {token: index for index, token in enumerate(keys)}, [*pairs]


def _signs(token: bytes) -> str:
    """Return a token with the sign for spaces; nothing for one that is no text."""
    return token.decode(errors="ignore").replace(" ", META)


def content_of(
    vocab: dict[str, int],
    merges: Sequence[str],
    tokens: Tokens,
    *,
    model: Mapping[str, Any] | None = None,
    **sections: Any,
) -> dict[str, Any]:
    """Return the content of a file."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    following = iter(range(len(vocab), len(vocab) + len(tokens)))
    added = [
        {
            "id": vocab[content] if content in vocab else next(following),
            "content": content,
            **flags,
            "special": special,
        }
        for content, special in tokens.items()
    ]
    usual = {"type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False, "byte_fallback": False}
    return {
        "version": "1.0",
        "added_tokens": added,
        **dict.fromkeys(("normalizer", "pre_tokenizer", "post_processor")),
        "decoder": BYTE_LEVEL,
        **sections,
        "model": {**usual, "ignore_merges": False, **(model or {}), "vocab": vocab, "merges": merges},
    }


def by_pattern(pattern: str) -> dict[str, Any]:
    """Return the pre-tokenizer of a pattern."""
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, {**BYTE_LEVEL, "use_regex": False}]}


def _of_bytes(number: int, pre_tokenizer: Any, tokens: Tokens, learned: Learned, **settings: Any) -> Any:
    pairs = learned.pairs(number)
    return content_of(learned.spelled(number), pairs, tokens, pre_tokenizer=pre_tokenizer, **settings)


def _llama3(learned: Learned, number: int) -> dict[str, Any]:
    tokens = {f"<|reserved_special_token_{index}|>": True for index in range(256)}
    settings = {"pre_tokenizer": by_pattern(LLAMA3_PATTERN), "model": {"ignore_merges": True}}
    return content_of(learned.spelled(number), learned.divisions(number), tokens, **settings)


def _characters(learned: Learned, number: int, *, prefix: bool) -> dict[str, Any]:
    vocab, merges = learned.characters(number)
    steps: list[dict[str, Any]] = [{"type": "Prepend", "prepend": META}] * prefix
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": META})
    decoders: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": META}, "content": " "}]
    decoders += [{"type": "ByteFallback"}, {"type": "Fuse"}]
    decoders += [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] * prefix
    return content_of(
        vocab,
        merges,
        {"<unk>": True, "<s>": True, "</s>": True},
        model={"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True},
        normalizer={"type": "Sequence", "normalizers": steps},
        decoder={"type": "Sequence", "decoders": decoders},
    )


END = {"<|endoftext|>": True}
_THOUSANDS = {f"<|special_{index}|>": index < 2000 for index in range(4000)}
LOADED = {
    "GPT-2, 50,000": functools.partial(_of_bytes, 50_000, BYTE_LEVEL, END),
    "ignore_merges, 64,000": functools.partial(
        _of_bytes, 64_000, by_pattern(LLAMA3_PATTERN), END, model={"ignore_merges": True}
    ),
    "Llama 3, 128,000": functools.partial(_llama3, number=128_000),
    "Qwen, 150,000": functools.partial(
        _of_bytes, 150_000, by_pattern(QWEN_PATTERN), END, normalizer={"type": "NFC"}
    ),
    "4,000 added tokens": functools.partial(_of_bytes, 32_000, by_pattern(LLAMA3_PATTERN), _THOUSANDS),
}
"""Shape -> function that returns the content of its file."""
OF_CHARACTERS = {
    "Llama 2": functools.partial(_characters, number=32_000, prefix=True),
    "Gemma": functools.partial(_characters, number=NUM_IDS, prefix=False),
}
"""The same, of vocabularies of characters, in which texts are encoded and decoded too."""


def write_files(directory: Path, num_ids: int) -> dict[str, Path]:
    """Train a vocabulary, and write the file of each shape; return shape -> path."""
    learned = Learned.of_corpus(directory, num_ids)
    paths = {}
    for index, (name, make) in enumerate({**LOADED, **OF_CHARACTERS}.items()):
        paths[name] = directory / f"{index}.json"
        paths[name].write_text(json.dumps(make(learned), ensure_ascii=False, indent=2), encoding="utf-8")
    return paths
