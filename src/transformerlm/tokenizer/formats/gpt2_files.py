"""Reading and writing a tokenizer's folder: GPT-2's `vocab.json` and `merges.txt`, and a `manifest.json`.

GPT-2's formats spell the bytes of a token with an alphabet of 256 printable characters. The manifest adds
special tokens, pattern, the origin of the tokenizer, checksums of the two files and one of itself.
"""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transformerlm.errors import DataError
from transformerlm.storage.checksummed_json import RecordError, RecordFormat, dump, load, members_of
from transformerlm.storage.files import write_files
from transformerlm.tokenizer.bpe import NUM_BYTES, Merges, Vocab
from transformerlm.tokenizer.byte_alphabet import (
    BYTES,
    spelled_lines,
    text_to_token,
    texts_to_tokens,
    token_to_text,
)
from transformerlm.tokenizer.formats.json_file import JsonObject, line_of, parse_json, parse_usual
from transformerlm.tokenizer.formats.text_file import FileError, read_bytes, read_utf8
from transformerlm.tokenizer.formats.tokenizer_config import TOKENIZER_CONFIG, dump_tokenizer_config
from transformerlm.tokenizer.lazy_vocab import (
    AnyVocab,
    SpelledVocab,
    different_ids,
    strings_of,
    tokens_of,
)
from transformerlm.tokenizer.pretokenize import Pretokenizer
from transformerlm.tokenizer.reachable import MergeIds, merges_of_lines
from transformerlm.tokenizer.token_table import Strings, TokenTable
from transformerlm.tokenizer.vocabulary import Fault, find_merges_fault, find_vocab_fault

VOCAB_FILE, MERGES_FILE, MANIFEST_FILE = "vocab.json", "merges.txt", "manifest.json"
FORMAT_VERSION = 2
"""2: the manifest has a checksum. 1: it has none, and the earliest manifests lack `whole_words`."""
FORM_VERSION = 3
"""3: a `tokenizer.json` is in the place of `vocab.json` and `merges.txt`."""

# Of each character of ASCII, as bits; what has more than one of them may be divided.
_OTHER, _SIGN, _LETTER, _DIGIT, _NOT_ASCII = 0b11, 0b100, 0b1000, 0b10000, 0b100000
_KINDS = np.full(NUM_BYTES, _OTHER, np.uint8)
_KINDS[0x21:0x7F] = _SIGN
_KINDS[[*string.ascii_letters.encode()]] = _LETTER
_KINDS[[*string.digits.encode()]] = _DIGIT
_KINDS[0x80:] = _NOT_ASCII
_PARTS_OF_CONTRACTIONS = (b"'l", b"'r", b"'v")  # of 'll, 're, 've


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Properties of a tokenizer that GPT-2's two files do not hold."""

    pattern: str
    """The pre-tokenisation pattern."""
    whole_words: bool
    """True: a pre-token that is a token is not divided, even if the merges do not produce it."""
    special_tokens: list[str]
    vocab_size: int
    fingerprint: str
    """`Tokenizer.fingerprint`."""
    made_from: dict[str, Any] = field(default_factory=dict)
    """Origin of the tokenizer (corpus, settings), as given to `Tokenizer.save`."""
    has_form: bool = False
    """True: `tokenizer.json` says how texts are encoded, and `pattern` is empty."""


def dump_tokenizer(vocab: Vocab, merges: Merges) -> dict[str, bytes]:
    """Return the content of `merges.txt` and `vocab.json`."""
    spelled = {token_to_text(token): token_id for token_id, token in vocab.items()}
    lines = ["#version: 0.2", *(f"{token_to_text(left)} {token_to_text(right)}" for left, right in merges)]
    # One token per line: errors can name a line, and diff can compare two versions.
    vocab_content = json.dumps(spelled, ensure_ascii=False, indent=0).encode() + b"\n"
    return {MERGES_FILE: "\n".join([*lines, ""]).encode(), VOCAB_FILE: vocab_content}


def write_tokenizer(
    directory: str | Path,
    files: Mapping[str, bytes],
    manifest: Manifest,
    tokenizer_config: Mapping[str, Any],
) -> None:
    """Write the files of a tokenizer with a manifest, atomically if `directory` is empty or does not exist.

    `tokenizer_config.json` is another one if there is something to keep in it.
    Otherwise they are replaced one by one, the last of `files` last: after an interruption the folder holds
    no tokenizer, or files that do not match the manifest, which `read_manifest` notices.
    """
    hashes = {name: _identity(content) for name, content in files.items()}
    fields = asdict(manifest)
    if not fields.pop("has_form"):
        version = FORMAT_VERSION
    else:
        version, fields["has_form"] = FORM_VERSION, True
    *first, last = files
    members = {name: files[name] for name in first}
    members[MANIFEST_FILE] = dump({"format_version": version, **fields, "files": hashes})
    members[last] = files[last]
    if tokenizer_config or (Path(directory) / TOKENIZER_CONFIG).exists():
        members = {TOKENIZER_CONFIG: dump_tokenizer_config(tokenizer_config), **members}
    write_files(directory, members)


def read_vocab(path: str | Path, special_tokens: Sequence[str] = ()) -> AnyVocab:
    """Read a `vocab.json`: a JSON object, token -> id.

    Args:
        special_tokens: keys that are taken as they are if they are not in GPT-2's spelling; some programs
            write special tokens so.

    Raises:
        DataError: anything but the ids 0 to n - 1, one for each of n tokens; one line, `path:line: reason`.
    """
    return _usual_vocab(parse_usual(read_bytes(path))) or _checked_vocab(path, special_tokens)


def _usual_vocab(ids: Any) -> SpelledVocab | None:
    """Return what `_checked_vocab` does where all is as usual, in a fraction of the time; else None."""
    numbers = different_ids(ids.values()) if isinstance(ids, dict) else None
    if numbers is None or not BYTES.keys() <= ids.keys() or numbers.max() != len(numbers) - 1:
        return None
    return SpelledVocab.of(ids, numbers)


def _checked_vocab(path: str | Path, special_tokens: Sequence[str]) -> Vocab:
    text = read_utf8(path)
    pairs = parse_json(path, text, JsonObject)
    if not isinstance(pairs, JsonObject):
        raise FileError(path, "expected a JSON object of tokens and their ids", 1)
    keys, ids = [key for key, _ in pairs], [token_id for _, token_id in pairs]
    tokens, fault = _tokens_of(keys, special_tokens)
    entries = list(zip(tokens, ids, strict=False))  # up to a key that is misspelled
    fault = fault or find_vocab_fault(entries)
    if fault:
        raise FileError(path, fault.what, line_of(text, [fault.index]))
    return dict(zip(ids, tokens, strict=True))


def read_merges(path: str | Path, vocab: AnyVocab) -> MergeIds:
    """Read a `merges.txt`: an optional `#version` line, then a merge on each line, two tokens and a space.

    Raises:
        DataError: another line, or a merge whose parts or result are not in `vocab`; `path:line: reason`.
    """
    text = read_utf8(path)
    found = _merges_at_once(text, vocab)
    if found is not None:
        return found
    merges: Merges = []
    numbers: list[int] = []
    for number, line in enumerate(text.split("\n"), start=1):
        content = line.removesuffix("\r")
        if not content or (number == 1 and content.startswith("#version")):
            continue
        try:
            merges.append(_merge_of(content))
        except ValueError as error:
            raise FileError(path, str(error), number) from None
        numbers.append(number)
    tokens = tokens_of(vocab)
    fault = find_merges_fault(merges, tokens)
    if fault:
        raise FileError(path, fault.what, numbers[fault.index])
    return MergeIds.of(merges, {token: token_id for token_id, token in tokens.items()})


def _merges_at_once(text: str, vocab: AnyVocab) -> MergeIds | None:
    """Return what `read_merges` does where all is as usual, in a fraction of the time; else None."""
    lines = text.partition("\n")[2] if text.startswith("#version") else text
    spelled = spelled_lines(lines.replace("\r\n", "\n").rstrip("\n") + "\n")
    return spelled and merges_of_lines(*spelled, TokenTable(*strings_of(vocab)))


def special_tokens_of(
    vocab: AnyVocab, merges: MergeIds, merges_path: Path, known: Collection[str] = ()
) -> list[str]:
    """Return the special tokens of a folder without a manifest: tokens that no merge makes or could make.

    Args:
        known: those that are known to be special.

    Raises:
        DataError: a token that a merge could make and none does.
    """
    made = set(merges.result.tolist())
    pretokenizer = Pretokenizer()
    special: list[str] = []
    for number, token in sorted(tokens_of(vocab).items()):
        if len(token) > 1 and number not in made:
            text = token.decode(errors="replace")
            if text.encode() != token or (text not in known and len(pretokenizer.pretokens(text)) == 1):
                why = f"is a line missing? (Special tokens such as this would need a {MANIFEST_FILE})"
                raise FileError(merges_path, f"no merge makes {token!r} of {VOCAB_FILE}: {why}")
            special.append(text)
    return special


def check_pattern(vocab: AnyVocab, merges: MergeIds, merges_path: Path) -> None:
    """Check that merges may have been learned with GPT-2's pattern: none joins what the pattern divides.

    ASCII tells: of other characters the class may depend on the version of Unicode.

    Raises:
        DataError: with a token that is longer than a pre-token.
    """
    pretokens = Pretokenizer().pretokens
    strings, numbers = strings_of(vocab)
    place_of = np.zeros(numbers.max() + 1, np.int64)
    place_of[numbers] = np.arange(len(numbers))
    results = strings.take(place_of[merges.result])
    for start, size in zip(*(part[_may_be_divided(results)] for part in results[1:]), strict=True):
        token = results.content[start : start + size].tobytes()
        if token not in _PARTS_OF_CONTRACTIONS and len(pretokens(token.decode())) > 1:
            what = f"{token!r} is a token, but GPT-2's pattern divides it: learned with another pattern"
            raise FileError(merges_path, f"{what}, which these files do not name (a tokenizer.json does)")


def _may_be_divided(tokens: Strings) -> NDArray[np.bool_]:
    """Return for each token if it is ASCII that GPT-2's pattern may divide: not if all is of one kind."""
    kinds = np.take(_KINDS, tokens.content)
    kinds[tokens.starts[tokens.content[tokens.starts] == ord(" ")]] = 0
    bounds = np.column_stack([tokens.starts, tokens.starts + tokens.sizes]).ravel()
    found = np.bitwise_or.reduceat(kinds, bounds)[::2] if len(bounds) else np.zeros(0, np.uint8)
    is_mixed: NDArray[np.bool_] = (found & (found - 1)) != 0
    return is_mixed & (found < _NOT_ASCII)


def read_manifest(directory: str | Path) -> Manifest | None:
    """Read a `manifest.json` and check that the files beside it are the ones it was written with.

    Returns None where there is no manifest, as with files from elsewhere.

    Raises:
        DataError: a damaged manifest, one of a later format, or other files than it describes.
    """
    path = Path(directory) / MANIFEST_FILE
    if not path.exists():
        return None
    try:
        content = load(read_bytes(path), MANIFEST_FORMAT)
    except RecordError as error:
        raise DataError(f"{path}:{error.line}: {error}") from None
    if not all(isinstance(token, str) for token in content["special_tokens"]):
        raise DataError(f"{path}:1: special_tokens: expected text, got {content['special_tokens']!r:.60}")
    files = content.pop("files")
    for name in ("tokenizer.json",) if content["has_form"] else (VOCAB_FILE, MERGES_FILE):
        _check_identity(path.with_name(name), files.get(name))
    return Manifest(**content)


MANIFEST_FORMAT = RecordFormat(
    version=FORM_VERSION,
    checksum_since=2,
    members={**members_of(Manifest), "files": dict},
    defaults={"whole_words": False},
    added={"has_form": False},
)


def _identity(content: bytes) -> dict[str, Any]:
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _check_identity(path: Path, expected: Any) -> None:
    found = _identity(read_bytes(path))
    if found != expected:
        what = f"expected {expected} as {MANIFEST_FILE} has it, got {found}"
        raise DataError(f"{path}: {what}: one of the two is damaged or not of this tokenizer")


def _tokens_of(keys: Sequence[str], special_tokens: Sequence[str]) -> tuple[list[bytes], Fault | None]:
    """Return the tokens of keys, up to the first that is misspelled, if any."""
    tokens: list[bytes] = []
    try:
        return texts_to_tokens(keys), None
    except ValueError:
        for index, key in enumerate(keys):
            try:
                stands_for_itself = key in special_tokens and not BYTES.keys() >= set(key)
                tokens.append(key.encode() if stands_for_itself else text_to_token(key))
            except ValueError as error:
                return tokens, Fault(index, str(error))
    return tokens, None


def _merge_of(line: str) -> tuple[bytes, bytes]:
    parts = line.split(" ")
    if len(parts) != 2 or not all(parts):
        raise ValueError(f"expected two tokens with one space between them, got {line!a:.60}")
    return text_to_token(parts[0]), text_to_token(parts[1])
