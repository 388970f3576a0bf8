"""A tokenizer for other programs: `tokenizer.json` for Hugging Face's, an `Encoding` for tiktoken.

Each gives every text the ids that it has here (of characters in both programs' Unicode versions). A
tokenizer that another program cannot hold in this sense is refused in one line that says why.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformerlm.config import GPT2_PATTERN
from transformerlm.errors import ConfigError, DataError
from transformerlm.storage.files import write_files
from transformerlm.tokenizer.bpe import NUM_BYTES, Merges
from transformerlm.tokenizer.formats.compatibility import one_merge_a_token, pattern_fault
from transformerlm.tokenizer.formats.gpt2_files import token_to_text
from transformerlm.tokenizer.formats.tokenizer_json_reader import TOKENIZER_JSON

if TYPE_CHECKING:
    import tiktoken

    from transformerlm.tokenizer.tokenizer import Tokenizer


_BYTES = [bytes([byte]) for byte in range(NUM_BYTES)]
_LETTERS = set(token_to_text(bytes(range(NUM_BYTES))))


def write_tokenizer_json(
    directory: str | Path,
    tokenizer: Tokenizer,
    *,
    eos_token: str | None = None,
    model_max_length: int | None = None,
) -> None:
    """Write the two files that `transformers.AutoTokenizer.from_pretrained(directory)` reads.

    Args:
        eos_token: the special token that ends a text, and from which an empty one begins, for programs
            that generate some.
        model_max_length: tokens that the model sees at once.

    Raises:
        DataError: a tokenizer that `tokenizers` cannot hold.
        ConfigError: `eos_token` is no special token of it.
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


def tokenizer_json(tokenizer: Tokenizer) -> str:
    """The `tokenizer.json` with which Hugging Face's `tokenizers` gives the same ids, as text.

    Raises:
        DataError: there is none.
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


def to_tiktoken(tokenizer: Tokenizer, name: str = "transformerlm") -> tiktoken.Encoding:
    """The tiktoken `Encoding` that gives the same ids, with every special token allowed.

    tiktoken has no list of merges: of neighbours that are a token together it joins those with the
    smallest id, and a whole pre-token that is a token is that token. This is the same where ids rise
    with the order of merges, every token is made by one merge, and its own bytes are merged to it.

    Args:
        name: what the encoding calls itself.

    Raises:
        DataError: a tokenizer that tiktoken cannot hold.
        ConfigError: tiktoken is not installed.
    """
    try:
        import tiktoken
    except ImportError:
        raise ConfigError("to_tiktoken: the package tiktoken is not installed; install it") from None
    if tokenizer.whole_words:
        raise _refusal("tiktoken", "whole_words is on, and tokens that no merge makes would be lost there")
    pattern = tokenizer.pretokenizer.pattern
    if pattern != GPT2_PATTERN:
        _check_pattern(pattern, "tiktoken")
        # What lies between two matches is a pre-token here, and would be lost there.
        pattern = rf"{pattern}|(?:(?!{pattern})[\s\S])+"
    for one, other in itertools.permutations(tokenizer.special_token_ids, 2):
        if other.startswith(one):
            what = f"special token {other!a} begins with {one!a}, and either could be found in a text"
            raise _refusal("tiktoken", what)
    ranks, special = _ranks(tokenizer), tokenizer.special_token_ids
    return tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)


def _ranks(tokenizer: Tokenizer) -> dict[bytes, int]:
    """Token -> id, of all bytes and of what merges make."""
    made = [left + right for left, right in _used_merges(tokenizer, "tiktoken", check_all=True)]
    id_of = {token: token_id for token_id, token in tokenizer.vocab.items()}
    for one, other in itertools.pairwise(made):
        if id_of[one] > id_of[other]:
            raise _refusal("tiktoken", f"{one!r} is made before {other!r}, but its id is greater")
    ranks = {token: id_of[token] for token in (*_BYTES, *made)}
    special = {token.encode() for token in tokenizer.special_token_ids}
    left_over = id_of.keys() - ranks.keys() - special
    if left_over:
        token = min(left_over, key=id_of.__getitem__)
        raise _refusal("tiktoken", f"no merge makes {token!r}, and it is no special token")
    return ranks


def _added_token(token: str, token_id: int) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": token_id, "content": token, **flags}


def _pre_tokenizer(pattern: str, byte_level: dict[str, Any]) -> dict[str, Any]:
    if pattern == GPT2_PATTERN:
        return {**byte_level, "use_regex": True}
    _check_pattern(pattern, "tokenizers")
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, {**byte_level, "use_regex": False}]}


def _model(tokenizer: Tokenizer) -> dict[str, Any]:
    merges = _used_merges(tokenizer, "tokenizers")
    ordinary = {*_BYTES, *(left + right for left, right in merges)}
    special = set(tokenizer.special_token_ids.values())
    vocab = {
        _special_key(token, ordinary) if token_id in special else token_to_text(token): token_id
        for token_id, token in sorted(tokenizer.vocab.items())
    }
    # Merges as text are read by every version of tokenizers, and are one a line.
    spelled = [f"{token_to_text(left)} {token_to_text(right)}" for left, right in merges]
    unused = dict.fromkeys(["dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"])
    flags = {"fuse_unk": False, "byte_fallback": False, "ignore_merges": tokenizer.whole_words}
    return {"type": "BPE", **unused, **flags, "vocab": vocab, "merges": spelled}


def _special_key(token: bytes, ordinary: Set[bytes]) -> str:
    """A special token as tokenizers looks for it: as it is, not spelled in letters for bytes."""
    text, spelled = token.decode(), token_to_text(token)
    if text != spelled and token in ordinary:
        what = f"special token {text!a} is an ordinary token as well, and that is spelled {spelled!a} there"
        raise _refusal("tokenizers", f"{what}: the two would need two ids")
    if text != spelled and set(text) <= _LETTERS:
        what = f"special token {text!a} holds only letters that stand for bytes there"
        raise _refusal("tokenizers", f"{what}: it would be decoded to something else")
    return text


def _check_pattern(pattern: str, program: str) -> None:
    what = pattern_fault(pattern)
    if what:
        raise _refusal(program, f"pattern: {what}")


def _used_merges(tokenizer: Tokenizer, program: str, *, check_all: bool = False) -> Merges:
    kept, fault = one_merge_a_token(tokenizer.merges, check_all=check_all)
    if fault:
        raise _refusal(program, f"merges[{fault.index}]: {fault.what}")
    return [tokenizer.merges[index] for index in kept]


def _refusal(program: str, what: str) -> DataError:
    return DataError(f"{program} cannot hold this tokenizer: {what}")
