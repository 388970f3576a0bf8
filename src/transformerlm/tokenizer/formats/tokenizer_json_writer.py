"""Writing `tokenizer.json`, which Hugging Face's `tokenizers` and `transformers.AutoTokenizer` load.

A text gets the same ids there as here, as long as its characters are assigned in the Unicode versions of both
programs. A tokenizer for which this is not possible is refused.
"""

from __future__ import annotations

import json
from collections.abc import Set
from pathlib import Path
from typing import Any

from transformerlm.config import GPT2_PATTERN
from transformerlm.errors import ConfigError
from transformerlm.storage.files import write_files
from transformerlm.tokenizer.bpe import NUM_BYTES
from transformerlm.tokenizer.formats.compatibility import (
    IncompatibleTokenizerError,
    check_pattern,
)
from transformerlm.tokenizer.formats.gpt2_files import token_to_text
from transformerlm.tokenizer.formats.tokenizer_json_reader import TOKENIZER_JSON
from transformerlm.tokenizer.vocabulary import TokenizerDefinition

_PROGRAM = "tokenizers"
_BYTES = [bytes([byte]) for byte in range(NUM_BYTES)]
_LETTERS = set(token_to_text(bytes(range(NUM_BYTES))))


def write_tokenizer_json(
    directory: str | Path,
    tokenizer: TokenizerDefinition,
    *,
    eos_token: str | None = None,
    model_max_length: int | None = None,
) -> None:
    """Write the two files that `transformers.AutoTokenizer.from_pretrained(directory)` reads.

    Args:
        eos_token: special token that ends a text. Programs also start with it if there is no prompt.
        model_max_length: context length of the model, in tokens.

    Raises:
        DataError: a tokenizer that `tokenizers` cannot represent.
        ConfigError: `eos_token` is not one of its special tokens.
    """
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        # Transformers 4 would give a model token_type_ids as well, which decoders do not take.
        "model_input_names": ["input_ids", "attention_mask"],
    }
    if model_max_length is not None:
        config |= {"model_max_length": model_max_length}
    if eos_token is not None:
        if eos_token not in tokenizer.special_token_ids:
            known = ", ".join(map(ascii, tokenizer.special_token_ids)) or "there is none"
            raise ConfigError(f"eos_token: expected a special token ({known}), got {eos_token!a}")
        config |= {"bos_token": eos_token, "eos_token": eos_token}
    members = {
        TOKENIZER_JSON: tokenizer_json(tokenizer).encode(),
        "tokenizer_config.json": f"{json.dumps(config, ensure_ascii=False, indent=2)}\n".encode(),
    }
    write_files(directory, members)


def tokenizer_json(tokenizer: TokenizerDefinition) -> str:
    """Return the content of the `tokenizer.json` with which `tokenizers` gives the same ids.

    Raises:
        DataError: a tokenizer that `tokenizers` cannot represent.
    """
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    special = sorted((token_id, token) for token, token_id in tokenizer.special_token_ids.items())
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(token, token_id) for token_id, token in special],
        "normalizer": None,
        "pre_tokenizer": _pre_tokenizer(tokenizer.pretokenizer.pattern, byte_level),
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": True},
        "model": _model(tokenizer),
    }
    return f"{json.dumps(content, ensure_ascii=False, indent=2)}\n"


def _added_token(token: str, token_id: int) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": token_id, "content": token, **flags}


def _pre_tokenizer(pattern: str, byte_level: dict[str, Any]) -> dict[str, Any]:
    if pattern == GPT2_PATTERN:
        return {**byte_level, "use_regex": True}
    check_pattern(pattern, _PROGRAM)
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, {**byte_level, "use_regex": False}]}


def _model(tokenizer: TokenizerDefinition) -> dict[str, Any]:
    ordinary = {*_BYTES, *(left + right for left, right in tokenizer.merges)}
    special = set(tokenizer.special_token_ids.values())
    vocab = {
        _special_key(token, ordinary) if token_id in special else token_to_text(token): token_id
        for token_id, token in sorted(tokenizer.vocab.items())
    }
    # Every version of tokenizers reads merges as "left right"; newer ones also as lists of two.
    spelled = [f"{token_to_text(left)} {token_to_text(right)}" for left, right in tokenizer.merges]
    unused = dict.fromkeys(["dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"])
    flags = {"fuse_unk": False, "byte_fallback": False, "ignore_merges": tokenizer.whole_words}
    return {"type": "BPE", **unused, **flags, "vocab": vocab, "merges": spelled}


def _special_key(token: bytes, ordinary: Set[bytes]) -> str:
    """Return the key of a special token: its text itself, not spelled in GPT-2's alphabet."""
    text, spelled = token.decode(), token_to_text(token)
    if text != spelled and token in ordinary:
        what = f"special token {text!a} is an ordinary token as well, and that is spelled {spelled!a} there"
        raise IncompatibleTokenizerError(_PROGRAM, f"{what}: the two would need two ids")
    if text != spelled and set(text) <= _LETTERS:
        what = f"special token {text!a} holds only letters that stand for bytes there"
        raise IncompatibleTokenizerError(_PROGRAM, f"{what}: it would be decoded to something else")
    return text
