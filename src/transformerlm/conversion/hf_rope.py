"""Scaled rotations in `config.json`: from `rope_scaling` or `rope_parameters` to [model], and back.

transformers 5 has one object, `rope_parameters`, with the base of the wavelengths in it; before, files have
`rope_scaling` (null for none) beside `rope_theta`. Files with both are read if they say the same.

Source: transformers, modeling_rope_utils.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from transformerlm.config import ModelConfig
from transformerlm.storage.untrusted import printable

PLACES = "rope_parameters", "rope_scaling"
_SHARED = {"rope_type", "type", "rope_theta", "partial_rotary_factor", "finetuned"}
"""Keys that do not belong to a kind; "finetuned" says only whether the model was trained on."""
_KEYS: dict[str, dict[str, str]] = {
    "linear": {"rope_factor": "factor"},
    "llama3": {
        "rope_factor": "factor",
        "rope_original_length": "original_max_position_embeddings",
        "rope_low_freq_factor": "low_freq_factor",
        "rope_high_freq_factor": "high_freq_factor",
    },
    "yarn": {
        "rope_factor": "factor",
        "rope_original_length": "original_max_position_embeddings",
        "rope_beta_fast": "beta_fast",
        "rope_beta_slow": "beta_slow",
        "rope_attention_factor": "attention_factor",
    },
}
"""Kind -> key of [model] -> key of the object."""
_YARN_ONLY = {"mscale", "mscale_all_dim", "truncate"}
KEYS = {ours: f"rope_scaling: {theirs}" for keys in _KEYS.values() for ours, theirs in keys.items()}
"""Key of [model] -> its name in messages about a `config.json`."""
DEFAULT_THETAS = {"smollm3": 2_000_000.0}
"""model_type -> rope_theta where it is left out, if not 10,000."""


def rope_values(config: ModelConfig) -> dict[str, Any]:
    """Return the keys of `config.json` about a model's rotation, in the forms of transformers 4 and 5."""
    kind = config.rope_scaling or "default"
    scaling = {theirs: getattr(config, ours) for ours, theirs in _KEYS.get(kind, {}).items()}
    scaling = {"rope_type": kind, **{key: value for key, value in scaling.items() if value is not None}}
    if kind == "llama3":  # which transformers requires
        scaling.setdefault("low_freq_factor", 1.0)
        scaling.setdefault("high_freq_factor", 4.0)
    older = {"rope_scaling": scaling} if config.rope_scaling else {}
    newer = {"rope_theta": config.rope_theta, **scaling}
    return {"rope_theta": config.rope_theta, **older, "rope_parameters": newer}


def rope_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of [model] about the rotation that a `config.json` without `rope_problems` sets."""
    objects = [values[key] for key in PLACES if isinstance(values.get(key), dict)]
    thetas = [found["rope_theta"] for found in objects if found.get("rope_theta") is not None]
    default = DEFAULT_THETAS.get(str(values.get("model_type")), 10000.0)
    outer = default if values.get("rope_theta") is None else values["rope_theta"]
    settings = {"rope_theta": thetas[0] if thetas else outer}
    scaled = next((found for found in objects if _kind(found) in _KEYS), None)
    return settings if scaled is None else settings | _scaling(scaled, values)


def rope_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for everything about the rotation that our model does not have, or that is said twice."""
    objects = {key: values[key] for key in PLACES if values.get(key) is not None}
    for key, found in objects.items():
        if not isinstance(found, dict):
            yield f"{key}: expected an object, got {_as_json(found)}"
            return
        yield from _object_problems(key, found, values)
    theta = rope_settings(values)["rope_theta"]
    if values.get("rope_theta") not in (None, theta):
        yield f"rope_theta: expected {theta}, as rope_parameters has it, got {_as_json(values['rope_theta'])}"
    kinds = [_scaling(found, values) for found in objects.values() if _kind(found) in _KEYS]
    if len(kinds) > 1 and kinds[0] != kinds[1]:
        yield f"rope_scaling: expected what rope_parameters says, got {_as_json(values['rope_scaling'])}"


def _object_problems(key: str, found: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[str]:
    kind = _kind(found)
    if found.get("partial_rotary_factor") not in (None, 1):
        yield f"{key}: partial_rotary_factor: expected 1, got {_as_json(found['partial_rotary_factor'])}"
    if kind == "default":
        return
    if kind not in _KEYS:
        names = ", ".join(f'"{name}"' for name in ("default", *_KEYS))
        yield f"{key}: rope_type: expected one of {names}, got {_as_json(kind)}"
        return
    if kind == "yarn" and found.get("truncate") is False:
        yield f"{key}: truncate: expected true, got false"
    known = _SHARED | set(_KEYS[kind].values()) | (_YARN_ONLY if kind == "yarn" else set())
    for name in sorted(found.keys() - known):
        if found[name] is not None:
            what = f"expected no such key for {kind}, got {_as_json(found[name])}"
            yield f"{key}: {printable(name, 60)}: {what}"


def _kind(found: Mapping[str, Any]) -> Any:
    kind = found.get("rope_type", found.get("type", "default"))
    return kind if isinstance(kind, str) else json.dumps(kind)


def _scaling(found: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of [model] for an object of a kind in `_KEYS`; what is left out as transformers fills
    it in."""
    kind = _kind(found)
    scaling = {ours: found.get(theirs) for ours, theirs in _KEYS[kind].items()}
    if "rope_original_length" in scaling:
        context = values.get("max_position_embeddings")
        outer = values.get("original_max_position_embeddings")
        scaling["rope_original_length"] = outer or scaling["rope_original_length"] or context
        original = scaling["rope_original_length"]
        if kind == "yarn" and scaling["rope_factor"] is None and _are_numbers(context, original):
            scaling["rope_factor"] = context / original  # type: ignore[operator]
    if kind == "yarn" and scaling["rope_attention_factor"] is None:
        scaling["rope_attention_factor"] = _mscale_ratio(found, scaling["rope_factor"])
    return {"rope_scaling": kind, **scaling}


def _mscale_ratio(found: Mapping[str, Any], factor: Any) -> float | None:
    """Return the attention factor that DeepSeek's two keys give together; None if one is missing or 0."""
    scales = found.get("mscale"), found.get("mscale_all_dim")
    if not all(scales) or not _are_numbers(factor, *scales):
        return None
    over, under = (0.1 * scale * math.log(max(factor, 1.0)) + 1 for scale in scales)  # type: ignore[operator]
    return float(over / under)


def _are_numbers(*values: Any) -> bool:
    return all(isinstance(value, int | float) and value > 0 for value in values)


def _as_json(value: Any) -> str:
    return printable(json.dumps(value), 60)
