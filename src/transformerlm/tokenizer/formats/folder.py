"""Reading a tokenizer's folder, which may have files of several programs: those that know most are read."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformerlm.config import GPT2_PATTERN
from transformerlm.tokenizer.form import plain_form
from transformerlm.tokenizer.formats import gpt2_files
from transformerlm.tokenizer.formats.gpt2_files import MERGES_FILE, VOCAB_FILE, Manifest
from transformerlm.tokenizer.formats.text_file import FileError
from transformerlm.tokenizer.formats.tokenizer_config import TOKENIZER_CONFIG
from transformerlm.tokenizer.formats.tokenizer_json_reader import (
    TOKENIZER_JSON,
    TokenizerParts,
    read_tokenizer_json,
)
from transformerlm.tokenizer.formats.tokenizer_json_writer import tokenizer_json
from transformerlm.tokenizer.formats.transformers_settings import (
    read_added_tokens,
    read_special_tokens,
)
from transformerlm.tokenizer.lazy_vocab import AnyVocab, tokens_of
from transformerlm.tokenizer.pretokenize import Pretokenizer, utf8
from transformerlm.tokenizer.reachable import MergeIds
from transformerlm.tokenizer.splits import Split
from transformerlm.tokenizer.vocabulary import TokenizerDefinition, find_vocab_fault, with_special_tokens

_OTHER_FORMATS = (
    *(
        TOKENIZER_CONFIG,
        "tokenizer.model",
        "*.tiktoken",
        "spiece.model",
        "sentencepiece*.model",
        "tekken.json",
    ),
    *("vocab.txt", "vocab.bpe", "encoder.json"),
)
"""Files of tokenizers that are not read."""


def holds_tokenizer(directory: Path) -> bool:
    """Return True if the folder has a tokenizer of any kind, also of one that is not read."""
    return _has_known_files(directory) or bool(_files_of_others(directory))


def read_saved(directory: Path, manifest: Manifest) -> TokenizerParts:
    """Read a folder that this package has written.

    Raises:
        DataError: files that cannot be used.
    """
    if manifest.has_form:
        return read_tokenizer_json(directory / TOKENIZER_JSON)
    vocab = gpt2_files.read_vocab(directory / VOCAB_FILE, manifest.special_tokens)
    merges = gpt2_files.read_merges(directory / MERGES_FILE, vocab)
    return plain_parts(vocab, merges, manifest.special_tokens, manifest.pattern, manifest.whole_words)


def plain_parts(
    vocab: AnyVocab,
    merges: MergeIds,
    special_tokens: Sequence[str],
    pattern: str | Sequence[Split],
    whole_words: bool,
) -> TokenizerParts:
    """Return the parts of a tokenizer of a checked vocabulary and merges.

    Raises:
        ConfigError: a pattern that does not compile, or an empty special token.
    """
    vocab, ids = with_special_tokens(vocab, Pretokenizer(pattern, special_tokens).special_tokens)
    return TokenizerParts(vocab, merges, plain_form(ids, pattern), whole_words)


def write_saved(
    directory: str | Path, tokenizer: TokenizerDefinition, fingerprint: str, made_from: dict[str, Any]
) -> None:
    """Write a folder that `read_saved` reads.

    Raises:
        DataError: a tokenizer that no file can hold.
    """
    form, tokens = tokenizer.form, tokenizer.spelled
    has_form = not form.is_plain or find_vocab_fault([(token, number) for number, token in tokens.items()])
    manifest = Manifest(
        pattern=form.pattern if isinstance(form.pattern, str) else "",
        whole_words=tokenizer.whole_words,
        special_tokens=list(tokenizer.special_token_ids),
        vocab_size=max(tokens) + 1,
        fingerprint=fingerprint,
        made_from=made_from,
        has_form=bool(has_form),
    )
    if has_form:
        files = {TOKENIZER_JSON: tokenizer_json(tokenizer, keeps_post_processor=True).encode()}
    else:
        files = gpt2_files.dump_tokenizer(tokens, tokenizer.merges)
    gpt2_files.write_tokenizer(directory, files, manifest, tokenizer.tokenizer_config)


def read_folder(directory: Path) -> TokenizerParts:
    """Read a folder without a manifest: its `tokenizer.json`, else its `vocab.json` and `merges.txt`.

    The latter do not say how text is divided. They are read as GPT-2's, with the special tokens that the
    files of transformers beside them name and those that no merge makes, or are refused.

    Raises:
        DataError: files that cannot be used, or settings that are not supported.
    """
    if (directory / TOKENIZER_JSON).exists():
        parts = read_tokenizer_json(directory / TOKENIZER_JSON)
        _check_added(parts, directory)
        return parts
    others = _files_of_others(directory)
    if others and not _has_known_files(directory):
        what = f"expected {TOKENIZER_JSON}, or {VOCAB_FILE} and {MERGES_FILE}, got {', '.join(others)}"
        raise FileError(directory, f"{what}: other formats are not read")
    return _read_gpt2(directory)


def _has_known_files(directory: Path) -> bool:
    return any((directory / name).exists() for name in (TOKENIZER_JSON, VOCAB_FILE))


def _files_of_others(directory: Path) -> list[str]:
    return sorted(path.name for pattern in _OTHER_FORMATS for path in directory.glob(pattern))


def _check_added(parts: TokenizerParts, directory: Path) -> None:
    """Check that a `tokenizer.json` has the tokens that transformers would add to it."""
    added = read_added_tokens(directory)
    known = set(tokens_of(parts.vocab).values()) if added else set()
    missing = [token for token in added if utf8(token) not in known]
    if missing:
        what = f"expected the special token {missing[0]!a}, which the settings beside it list; got none"
        raise FileError(directory / TOKENIZER_JSON, f"{what}: save both with one call of save_pretrained")


def _read_gpt2(directory: Path) -> TokenizerParts:
    vocab_path, merges_path = directory / VOCAB_FILE, directory / MERGES_FILE
    named = read_special_tokens(directory)
    vocab = gpt2_files.read_vocab(vocab_path, list(named))
    merges = gpt2_files.read_merges(merges_path, vocab)
    gpt2_files.check_pattern(vocab, merges, merges_path)
    found = gpt2_files.special_tokens_of(vocab, merges, merges_path, named)
    _check_ids(vocab, named, vocab_path)
    in_order = sorted(named, key=lambda token: named[token] or 0)
    return plain_parts(vocab, merges, [*found, *in_order], GPT2_PATTERN, whole_words=False)


def _check_ids(vocab: AnyVocab, named: Mapping[str, int | None], vocab_path: Path) -> None:
    """Check ids of special tokens: that of the vocabulary, or one of those that follow in order."""
    id_of = {token: token_id for token_id, token in tokens_of(vocab).items()}
    following = itertools.count(len(id_of))
    for token, token_id in sorted(named.items(), key=lambda item: item[1] or 0):
        known = id_of.get(utf8(token))
        allowed = (next(following),) if known is None else (known, None)
        if token_id not in allowed:
            what = f"special token {token!a}: expected the id {allowed[0]}"
            raise FileError(vocab_path, f"{what}, got {token_id} in the files beside it")
