"""Reading what transformers keeps beside a tokenizer's own files: special tokens, the kind of tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from transformerlm.tokenizer.formats.json_file import JsonFile, JsonObject, describe
from transformerlm.tokenizer.formats.tokenizer_config import TOKENIZER_CONFIG

SPECIAL_TOKENS_FILE, ADDED_TOKENS_FILE = "special_tokens_map.json", "added_tokens.json"

_GPT2_CLASSES = (None, "GPT2Tokenizer", "GPT2TokenizerFast")
_NUMBERED = "added_tokens_decoder"
_LISTS = ("additional_special_tokens", "extra_special_tokens", _NUMBERED)


def read_added_tokens(directory: Path) -> list[str]:
    """Return the tokens to which the files give ids; transformers adds them to those of a `tokenizer.json`.

    Raises:
        DataError: damaged files.
    """
    tokens: list[str] = []
    if (directory / ADDED_TOKENS_FILE).exists():
        tokens += JsonFile(directory / ADDED_TOKENS_FILE).fields()
    if (directory / TOKENIZER_CONFIG).exists():
        file = JsonFile(directory / TOKENIZER_CONFIG)
        listed = file.fields(_NUMBERED) if file.get(_NUMBERED) else {}
        tokens += [str(file.get(_NUMBERED, key, "content")) for key in listed]
    return tokens


def read_special_tokens(directory: Path) -> dict[str, int | None]:
    """Return the special tokens that the files name, each with its id (None: not given).

    For folders without a `tokenizer.json`, which has all of it.

    Raises:
        DataError: damaged files, or settings with which a text gets other ids than from GPT-2's program.
    """
    ids: dict[str, int | None] = {}
    for name in (TOKENIZER_CONFIG, SPECIAL_TOKENS_FILE, ADDED_TOKENS_FILE):
        if (directory / name).exists():
            file = JsonFile(directory / name)
            found = _added_tokens(file) if name == ADDED_TOKENS_FILE else _settings(file)
            ids.update((token, token_id) for token, token_id in found if ids.get(token) is None)
    return ids


def _added_tokens(file: JsonFile) -> Iterator[tuple[str, int]]:
    """Yield (token, id) of an `added_tokens.json`."""
    for token, token_id in file.fields().items():
        yield token, _id(file, token_id, token)


def _settings(file: JsonFile) -> Iterator[tuple[str, int | None]]:
    """Yield (token, id or None) of a `tokenizer_config.json` or a `special_tokens_map.json`."""
    kind = file.get("tokenizer_class")
    if kind not in _GPT2_CLASSES:
        what = f"expected GPT2Tokenizer, got {describe(kind)}, which divides text in its own way"
        advice = "a tokenizer.json says how; transformers' save_pretrained writes one"
        raise file.error(f"{what}: {advice}", "tokenizer_class")
    if file.get("add_prefix_space"):
        raise file.error("expected false: text is encoded here as it is", "add_prefix_space")
    for place in _places(file):
        value = file.get(*place)
        fields = file.fields(*place) if isinstance(value, JsonObject) else {"content": value}
        for flag in ("single_word", "lstrip", "rstrip"):
            if fields.get(flag):
                raise file.error("expected false: a token is found here wherever it stands", *place, flag)
        content, is_numbered = fields.get("content"), place[0] == _NUMBERED
        if isinstance(content, str) and content:  # others are settings, such as "add_bos_token": true
            yield content, _id(file, place[-1], *place) if is_numbered else None


def _places(file: JsonFile) -> Iterator[tuple[str | int, ...]]:
    """Yield the places at which a token may be."""
    for key, value in file.fields().items():
        if key.endswith("_token"):
            yield (key,)
        elif key in _LISTS:
            members = file.fields(key) if isinstance(value, JsonObject) else range(len(file.items(key)))
            yield from ((key, member) for member in members)


def _id(file: JsonFile, value: object, *place: str | int) -> int:
    text = str(value)
    if not text.isdecimal() or len(text) > 9:
        raise file.error(f"expected the id of a token, got {text!a:.40}", *place)
    return int(text)
