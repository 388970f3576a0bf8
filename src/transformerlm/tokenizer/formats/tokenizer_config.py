"""Hugging Face's `tokenizer_config.json`: settings of a tokenizer that change no ids of a text itself.

This package uses none of them to encode. Those that other programs need are kept with a tokenizer, in its
folder and through import and export: names of special tokens, and the chat template.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from transformerlm.tokenizer.formats.json_file import JsonFile, parse_json
from transformerlm.tokenizer.formats.text_file import FileError, read_utf8
from transformerlm.tokenizer.formats.tokenizer_json_steps import read_post_processor

TOKENIZER_CONFIG, CHAT_TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
MORE_CHAT_TEMPLATES = "additional_chat_templates"
"""Folder with NAME.jinja for each further template."""
TOKEN_KEYS = ("bos_token", "eos_token", "pad_token", "unk_token")
"""Keys whose values are special tokens."""
_KEPT = (*TOKEN_KEYS, "chat_template", "padding_side")


def read_tokenizer_config(directory: Path) -> dict[str, Any]:
    """Return the content of a folder's `tokenizer_config.json`, each token as its text; {} without one.

    A `chat_template.jinja` beside it, in which newer versions keep that, is part of it, and so is a folder
    of further ones: several templates are a list of objects with "name" and "template".

    Raises:
        DataError: a damaged file.
    """
    path, values = directory / TOKENIZER_CONFIG, {}
    if path.exists():
        values = parse_json(path, read_utf8(path), dict)
    if not isinstance(values, dict):
        raise FileError(path, f"expected an object, got {values!r:.40}", 1)
    for key in TOKEN_KEYS:
        if isinstance(values.get(key), dict):  # an AddedToken with its flags
            values[key] = values[key].get("content")
    return values | _chat_templates(directory)


def _chat_templates(directory: Path) -> dict[str, Any]:
    """Return chat templates that have files of their own, as an older `tokenizer_config.json` has them."""
    further = sorted((directory / MORE_CHAT_TEMPLATES).glob("*.jinja"))
    named = [{"name": path.stem, "template": read_utf8(path)} for path in further]
    if (directory / CHAT_TEMPLATE).exists():
        named.insert(0, {"name": "default", "template": read_utf8(directory / CHAT_TEMPLATE)})
    if not further:
        return {"chat_template": named[0]["template"]} if named else {}
    return {"chat_template": named}


def kept_settings(values: Mapping[str, Any], special_tokens: Collection[str]) -> dict[str, Any]:
    """Return the settings that are kept with a tokenizer: of the tokens those that it has."""
    return {
        key: values[key]
        for key in _KEPT
        if values.get(key) is not None and (key not in TOKEN_KEYS or values[key] in special_tokens)
    }


def dump_tokenizer_config(values: Mapping[str, Any]) -> bytes:
    """Return the content of a `tokenizer_config.json`."""
    return f"{json.dumps(values, ensure_ascii=False, indent=2)}\n".encode()


def read_added_prefix(tokenizer_json: Path, config: Mapping[str, Any]) -> list[str]:
    """Return the special tokens that transformers puts before a text, as a rule one or none.

    `add_bos_token` in `tokenizer_config.json` decides where it is there, else the post-processor.

    Args:
        tokenizer_json: the file that has the post-processor.
        config: the content of the `tokenizer_config.json` beside it.

    Raises:
        DataError: a damaged file, or tokens that are put behind a text, where a prompt could not go on.
    """
    file = JsonFile(tokenizer_json)
    post = read_post_processor(file)
    before, after = [*post.before], [*post.after]
    if "add_bos_token" in config or "add_eos_token" in config:
        before = [config["bos_token"]] if config.get("add_bos_token") and config.get("bos_token") else []
        after = [config["eos_token"]] if config.get("add_eos_token") and config.get("eos_token") else []
    if after:
        what = f"expected tokens before a text alone, got {after[0]!a} behind it, where a prompt goes on here"
        raise file.error(what, "post_processor")
    return before
