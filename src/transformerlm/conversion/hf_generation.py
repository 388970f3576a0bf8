"""Settings of generation to and from Hugging Face's `generation_config.json`.

There, sampling is off unless `do_sample` says otherwise, top_k is 50 by default and 0 for none, and several
ids may end a text. Settings that this package does not have are named.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from transformerlm.config import GenerationConfig
from transformerlm.errors import CheckpointError
from transformerlm.schema import SchemaError
from transformerlm.storage.untrusted import printable
from transformerlm.tokenizer import Tokenizer

_SAMPLING: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "top_k": 50}
"""Keys that have no effect without `do_sample` -> their defaults with it."""
_COMMON = ("min_p", "repetition_penalty", "max_new_tokens")
"""Other keys that have the same name and meaning in [generation]."""
_WITHOUT_EFFECT = {"do_sample", "bos_token_id", "eos_token_id", "pad_token_id", "transformers_version"}
_WITHOUT_EFFECT |= {"use_cache", "cache_implementation", "return_dict_in_generate", "_from_model_config"}
"""Keys that are read elsewhere, or that do not change the text."""
_NEUTRAL: dict[str, Any] = {
    **dict.fromkeys(("num_beams", "num_beam_groups", "num_return_sequences", "typical_p"), 1),
    **dict.fromkeys(("length_penalty", "encoder_repetition_penalty"), 1),
    **{"max_length": 20, "top_h": 1},
}
"""Other keys -> the value, besides null, false, 0 and nothing, with which they have no effect."""


def generation_of(
    values: Mapping[str, Any], tokenizer: Tokenizer, bos_token: str, name: str
) -> GenerationConfig:
    """Return the [generation] that a folder describes.

    Args:
        values: the content of `generation_config.json`, with the `eos_token_id` of `config.json` if it has
            none of its own.
        bos_token: the token that the folder's tokenizer puts before a text; "" if it puts none.
        name: name of the file in error messages.

    Raises:
        CheckpointError: a value that is not allowed; one line for each.
    """
    found = {key: values[key] for key in (*_SAMPLING, *_COMMON) if values.get(key) is not None}
    if values.get("do_sample"):
        found = _SAMPLING | found
    elif values.get("do_sample") is False:
        found = {key: value for key, value in found.items() if key not in _SAMPLING} | {"temperature": 0.0}
    found["top_k"] = found.get("top_k") or None
    ends = _end_tokens(values, tokenizer)
    eos_token = next((token for token in ends if token == tokenizer.tokenizer_config.get("eos_token")), None)
    eos_token = eos_token or next(iter(ends), "")
    try:
        return GenerationConfig(
            prompts=("" if bos_token or eos_token else "The",),
            bos_token=bos_token,
            eos_token=eos_token,
            stop_tokens=tuple(token for token in ends if token != eos_token),
            **found,
        )
    except SchemaError as error:
        raise CheckpointError(
            [f"{name}: {problem.key[-1]}: {problem.what}" for problem in error.problems]
        ) from None


def not_taken(values: Mapping[str, Any], tokenizer: Tokenizer) -> Iterator[str]:
    """Yield `key = value` for each setting that would change texts and that this package does not have."""
    tokens = _special_tokens(tokenizer)
    for token_id in _listed(values.get("eos_token_id")):
        if token_id not in tokens:
            yield f"eos_token_id = {printable(token_id, 20)}, which is no special token"
    for key, value in values.items():
        is_taken = key in _SAMPLING or key in _COMMON or key in _WITHOUT_EFFECT or key.startswith("output_")
        if is_taken or not value or value == _NEUTRAL.get(key):
            continue
        if key == "suppress_tokens" and all(id not in range(tokenizer.vocab_size) for id in _listed(value)):
            continue  # ids that the tokenizer does not have are never chosen here
        yield f"{printable(key, 40)} = {printable(json.dumps(value), 60)}"


def generation_config(
    generation: GenerationConfig, tokenizer: Tokenizer, roles: Mapping[str, Any], unused: range
) -> dict[str, Any]:
    """Return the `generation_config.json` that generates as [generation] says.

    Args:
        roles: special tokens by their keys in `tokenizer_config.json`.
        unused: ids that the model has and the tokenizer does not.
    """
    ids = tokenizer.special_token_ids
    values: dict[str, Any] = {
        "bos_token_id": ids.get(roles["bos_token"]),
        "eos_token_id": end_ids(generation, tokenizer, roles["eos_token"]),
        "pad_token_id": ids.get(roles["pad_token"]),
        "max_new_tokens": generation.max_new_tokens,
        "do_sample": generation.temperature > 0,
    }
    if generation.temperature > 0:
        values |= {"temperature": generation.temperature, "top_p": generation.top_p}
        values |= {"top_k": generation.top_k or 0}
    if generation.temperature > 0 and generation.min_p:
        values |= {"min_p": generation.min_p}
    if generation.repetition_penalty != 1:
        values |= {"repetition_penalty": generation.repetition_penalty}
    # Rows beyond the vocabulary are never chosen.
    return values | ({"suppress_tokens": [*unused]} if unused else {})


def end_ids(
    generation: GenerationConfig, tokenizer: Tokenizer, eos_token: str | None
) -> int | list[int] | None:
    """Return the ids that end a text as Hugging Face's configs have them: one, a list of several, or None."""
    tokens = dict.fromkeys((eos_token, *generation.stop_tokens))
    found = [tokenizer.special_token_ids[token] for token in tokens if token]
    return found if len(found) > 1 else next(iter(found), None)


def _end_tokens(values: Mapping[str, Any], tokenizer: Tokenizer) -> list[str]:
    tokens = _special_tokens(tokenizer)
    return [tokens[token_id] for token_id in _listed(values.get("eos_token_id")) if token_id in tokens]


def _special_tokens(tokenizer: Tokenizer) -> dict[int, str]:
    return {token_id: token for token, token_id in tokenizer.special_token_ids.items()}


def _listed(ids: Any) -> list[Any]:
    """Return one or several ids as a list; what is no id becomes its text, which is never one."""
    found = ids if isinstance(ids, list) else [] if ids is None else [ids]
    return [token_id if type(token_id) is int else str(token_id) for token_id in found]
