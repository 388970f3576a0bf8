"""Reading Hugging Face's `tokenizer.json` with a BPE model: texts get the same ids as there.

A setting that would change an id and is not supported is an error that names it. Truncation and padding are
ignored: they are not of the text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformerlm.errors import DataError
from transformerlm.tokenizer.form import Characters, Form, MissingBytes, plain_form
from transformerlm.tokenizer.formats.json_file import JsonFile, JsonObject, describe
from transformerlm.tokenizer.formats.tokenizer_json_steps import (
    read_decoder,
    read_normalizer,
    read_post_processor,
    read_pretokenizer,
)
from transformerlm.tokenizer.formats.tokenizer_json_vocab import Tokens, read_tokens
from transformerlm.tokenizer.lazy_vocab import AnyVocab
from transformerlm.tokenizer.listed_merges import ListedMerges
from transformerlm.tokenizer.reachable import MergeIds
from transformerlm.tokenizer.text_steps import ByteAlphabet, apply_steps

TOKENIZER_JSON = "tokenizer.json"
SECTIONS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
"""The parts of the file that are kept as they are."""

_PLAIN_BPE_SETTINGS = {
    "dropout": (None, 0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
}
"""Settings of the model, and the values that leave plain BPE."""


@dataclass(frozen=True)
class TokenizerParts:
    """Arguments of `Tokenizer`, checked."""

    vocab: AnyVocab
    merges: MergeIds | ListedMerges
    form: Form
    whole_words: bool
    """True: a pre-token that is a token is not divided, even if the merges do not produce it.

    With listed merges it may turn out later that they produce all."""


def read_tokenizer_json(path: str | Path) -> TokenizerParts:
    """Read a `tokenizer.json`; ids will equal those of `encode(text, add_special_tokens=False)` there.

    Raises:
        DataError: a damaged file, or a setting that is not supported; one line, `path:line: reason`.
    """
    return _read_if_usual(path) or _read(JsonFile(path))


def _read_if_usual(path: str | Path) -> TokenizerParts | None:
    """Return what a file as most are is read as, in less time; None where `JsonFile(path)` decides."""
    file = JsonFile.if_usual(path)
    # A large integer may have become a float there.
    if not file or any(_holds_float(file.content.get(name)) for name in SECTIONS):
        return None
    try:
        return _read(file)
    except DataError:
        return None


def _read(file: JsonFile) -> TokenizerParts:
    _check_settings(file)
    pretokenizer = read_pretokenizer(file)
    are_bytes = ByteAlphabet() in pretokenizer
    tokens = read_tokens(file, are_bytes=are_bytes)
    post = read_post_processor(file)
    form = Form(
        tokens.added,
        read_normalizer(file),
        pretokenizer,
        None if are_bytes else _read_characters(file),
        _read_missing(file, tokens) if tokens.missing else None,
        read_decoder(file, are_bytes=are_bytes),
        tokens.outside,
        post.before,
        post.after,
        post.trim_offsets,
        post.keeps_prefix_space,
    )
    _check_form(file, form)
    whole_words = bool(file.get("model", "ignore_merges"))
    return TokenizerParts(tokens.vocab, tokens.merges, _with_sections(form, tokens, file), whole_words)


def _with_sections(form: Form, tokens: Tokens, file: JsonFile) -> Form:
    """Return the form with what else is kept for other programs; a plain one needs nothing."""
    are_plain = all(token.special and token.is_plain and not token.normalized for token in tokens.added)
    if are_plain and isinstance(form.pattern, str) and tokens.are_in_a_row:
        contents = {token.content: number for token, number in form.added_token_ids.items()}
        plain = plain_form(contents, form.pattern)
        is_same = plain == replace(form, outside=plain.outside)
        if is_same and tokens.are_different:
            return plain
    return replace(form, sections={name: _plain_json(file.get(name)) for name in SECTIONS})


def _holds_float(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(map(_holds_float, value.values() if isinstance(value, dict) else value))
    return isinstance(value, float)


def _plain_json(value: Any) -> Any:
    """Return a parsed value with dictionaries for objects."""
    if isinstance(value, JsonObject | dict):
        return {key: _plain_json(part) for key, part in dict(value).items()}
    return [_plain_json(part) for part in value] if isinstance(value, list) else value


def _check_settings(file: JsonFile) -> None:
    model = file.fields("model")
    if model.get("type", "BPE") != "BPE":
        what = f"expected BPE, got {describe(model['type'])}: other kinds of models are not read here"
        raise file.error(f"{what}; use a tokenizer with BPE, or train one on your text", "model", "type")
    for name, allowed in _PLAIN_BPE_SETTINGS.items():
        if model.get(name) not in allowed:
            what = f"expected {' or '.join(map(describe, allowed))}, got {describe(model[name])}"
            raise file.error(f"{what}: this package has nothing like it", "model", name)
    if file.get("version") not in ("1.0", None):
        raise file.error(f'expected "1.0", got {describe(file.get("version"))}', "version")


def _read_characters(file: JsonFile) -> Characters:
    model = file.fields("model")
    return Characters(bool(model.get("byte_fallback")), _read_unk_token(file), bool(model.get("fuse_unk")))


def _read_missing(file: JsonFile, tokens: Tokens) -> MissingBytes:
    """Return what becomes of the bytes that are no tokens."""
    model, unk_token = file.fields("model"), _read_unk_token(file)
    if model.get("byte_fallback"):
        what = f"expected false, since the byte 0x{tokens.missing[0]:02x} is no token, got true"
        raise file.error(what, "model", "byte_fallback")
    if unk_token is not None and unk_token.encode() not in tokens.vocab.tokens().values():
        raise file.error(f"expected an added token, got {unk_token!a}", "model", "unk_token")
    return MissingBytes(tokens.missing, unk_token, bool(model.get("fuse_unk")))


def _read_unk_token(file: JsonFile) -> str | None:
    unk_token = file.fields("model").get("unk_token")
    if unk_token is not None and unk_token not in file.fields("model", "vocab"):
        raise file.error(f"expected a token, got {describe(unk_token)}", "model", "unk_token")
    return unk_token


def _check_form(file: JsonFile, form: Form) -> None:
    if form.characters and form.decoder is None:
        what = f"expected a decoder of characters, got {describe(file.get('decoder'))}"
        raise file.error(what, "decoder")
    for token in form.added_token_ids:
        if token.normalized and not apply_steps(form.normalizer, token.content):
            raise file.error(f"expected text, got {token.content!a}, of which nothing is left", "normalizer")
    around = (*form.before, *form.after)
    known = {token.content for token in form.added_token_ids} if around else set()
    unknown = [content for content in around if content not in known]
    if unknown:
        raise file.error(f"{unknown[0]!a} is no added token", "post_processor")
