"""Writing `tokenizer.json`, which Hugging Face's `tokenizers` and `transformers.AutoTokenizer` load.

A text gets the same ids there as here, as long as its characters are assigned in the Unicode versions of both
programs. A tokenizer for which this is not possible is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Set
from pathlib import Path
from typing import Any

from transformerlm.config import GPT2_PATTERN
from transformerlm.errors import ConfigError
from transformerlm.storage.files import write_files
from transformerlm.tokenizer.added_tokens import AddedToken
from transformerlm.tokenizer.bpe import NUM_BYTES
from transformerlm.tokenizer.byte_alphabet import token_to_text
from transformerlm.tokenizer.form import Characters, Form
from transformerlm.tokenizer.formats.compatibility import (
    IncompatibleTokenizerError,
    check_pattern,
)
from transformerlm.tokenizer.formats.tokenizer_config import TOKENIZER_CONFIG, dump_tokenizer_config
from transformerlm.tokenizer.formats.tokenizer_json_reader import TOKENIZER_JSON
from transformerlm.tokenizer.splits import Pattern, splits_of
from transformerlm.tokenizer.vocabulary import TokenizerDefinition

_PROGRAM = "tokenizers"
_BYTES = [bytes([byte]) for byte in range(NUM_BYTES)]
_LETTERS = set(token_to_text(bytes(range(NUM_BYTES))))


def write_tokenizer_json(
    directory: str | Path,
    tokenizer: TokenizerDefinition,
    *,
    eos_token: str | None = None,
    bos_token: str | None = None,
    model_max_length: int | None = None,
    keeps_post_processor: bool = False,
) -> None:
    """Write the two files that `transformers.AutoTokenizer.from_pretrained(directory)` reads.

    Args:
        eos_token: special token that ends a text. With tokenizers of this package's own, programs also start
            with it if there is no prompt. Without a `pad_token` they fill up with it.
        bos_token: special token that is put before each text.
        model_max_length: context length of the model, in tokens.
        keeps_post_processor: see `tokenizer_json`.

    Raises:
        DataError: a tokenizer that `tokenizers` cannot represent.
        ConfigError: one of the tokens is not one of its special tokens.
    """
    for name, token in (("eos_token", eos_token), ("bos_token", bos_token)):
        if token is not None and token not in tokenizer.special_token_ids:
            known = ", ".join(map(ascii, tokenizer.special_token_ids)) or "there is none"
            raise ConfigError(f"{name}: expected a special token ({known}), got {token!a}")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        # Transformers 4 would give a model token_type_ids as well, which decoders do not take.
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": model_max_length,
        **token_roles(tokenizer, eos_token, bos_token),
    }
    members = {
        TOKENIZER_JSON: tokenizer_json(
            tokenizer, bos_token=bos_token, keeps_post_processor=keeps_post_processor
        ).encode(),
        TOKENIZER_CONFIG: dump_tokenizer_config({k: v for k, v in config.items() if v is not None}),
    }
    write_files(directory, members)


def token_roles(
    tokenizer: TokenizerDefinition, eos_token: str | None, bos_token: str | None
) -> dict[str, Any]:
    """Return what `tokenizer_config.json` says of special tokens, and what else is kept with the tokenizer.

    The tokens that this package uses win over those that are kept.
    """
    own = {"eos_token": eos_token, "bos_token": bos_token}
    roles: dict[str, Any] = {"bos_token": None, "eos_token": None, "pad_token": eos_token}
    if not tokenizer.tokenizer_config:  # of this package's own, whose texts begin after the end of another
        roles |= {"bos_token": eos_token}
        roles |= {"padding_side": "left"}  # where texts are filled up before they are continued
    return {**roles, **tokenizer.tokenizer_config, **{k: v for k, v in own.items() if v is not None}}


def tokenizer_json(
    tokenizer: TokenizerDefinition, *, bos_token: str | None = None, keeps_post_processor: bool = False
) -> str:
    """Return the content of the `tokenizer.json` with which `tokenizers` gives the same ids.

    Args:
        bos_token: special token that is put before each text, unless the user asks for none.
        keeps_post_processor: instead of that, what the file said that the tokenizer was read from.

    Raises:
        DataError: a tokenizer that `tokenizers` cannot represent.
    """
    form = tokenizer.form
    in_order = sorted(form.added_token_ids.items(), key=lambda item: item[1])
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(token, token_id) for token, token_id in in_order],
        **(form.sections or _sections(form)),
        "model": _model(tokenizer),
    }
    if not keeps_post_processor and form.before != ((bos_token,) if bos_token else ()):
        content["post_processor"] = _post_processor(tokenizer, bos_token) if bos_token else None
    return f"{json.dumps(content, ensure_ascii=False, indent=2)}\n"


def _sections(form: Form) -> dict[str, Any]:
    """Return the steps of a form that was not read from a file."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    return {
        "normalizer": None,
        "pre_tokenizer": _pre_tokenizer(form.pattern, byte_level),
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": True},
    }


def _post_processor(tokenizer: TokenizerDefinition, bos_token: str) -> dict[str, Any]:
    """Return the template that puts a token before a text, and before each of a pair of texts."""
    first, second = (
        [{"SpecialToken": {"id": bos_token, "type_id": index}}, {"Sequence": {"id": name, "type_id": index}}]
        for index, name in enumerate("AB")
    )
    ids = [tokenizer.special_token_ids[bos_token]]
    known = {bos_token: {"id": bos_token, "ids": ids, "tokens": [bos_token]}}
    return {
        "type": "TemplateProcessing",
        "single": first,
        "pair": first + second,
        "special_tokens": known,
    }


def _added_token(token: AddedToken, token_id: int) -> dict[str, Any]:
    return {"id": token_id, **token._asdict()}


def _pre_tokenizer(pattern: Pattern, byte_level: dict[str, Any]) -> dict[str, Any]:
    if pattern == GPT2_PATTERN:
        return {**byte_level, "use_regex": True}
    steps = [
        {
            "type": "Split",
            "pattern": {"Regex": check_pattern(split.pattern, _PROGRAM)},
            "behavior": split.behavior.replace("_", " ").title().replace(" ", ""),
            "invert": split.invert,
        }
        for split in splits_of(pattern)
    ]
    return {"type": "Sequence", "pretokenizers": [*steps, {**byte_level, "use_regex": False}]}


def _model(tokenizer: TokenizerDefinition) -> dict[str, Any]:
    characters = tokenizer.form.characters
    spell = token_to_text if characters is None else bytes.decode
    own = characters or tokenizer.form.missing or Characters()
    # Every version of tokenizers reads merges as "left right"; newer ones also as lists of two.
    pairs = [(spell(left), spell(right)) for left, right in tokenizer.merges]
    has_spaces = any(" " in left or " " in right for left, right in pairs)
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": own.unk_token,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": own.fuse_unk,
        "byte_fallback": bool(characters and characters.byte_fallback),
        "ignore_merges": tokenizer.whole_words,
        "vocab": _vocab(tokenizer, spell),
        "merges": pairs if has_spaces else [f"{left} {right}" for left, right in pairs],
    }


def _vocab(tokenizer: TokenizerDefinition, spell: Callable[[bytes], str]) -> dict[str, int]:
    ordinary = {*_BYTES, *(left + right for left, right in tokenizer.merges)}
    added = {token_id: token for token, token_id in tokenizer.added_token_ids.items()}
    is_own = not tokenizer.form.sections
    keys: dict[str, int] = {}
    for token_id, token in sorted(tokenizer.spelled.items()):
        if token_id in tokenizer.form.outside:
            continue
        if token_id not in added:
            keys[spell(token)] = token_id
        else:
            keys[_special_key(token, ordinary) if is_own else added[token_id]] = token_id
    return keys


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
