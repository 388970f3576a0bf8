"""Pre-tokenizers of the families of tokenizers that people use, as their files have them."""

from __future__ import annotations

from transformerlm.config import GPT2_PATTERN
from transformerlm.tokenizer.splits import Pattern, Split

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_REST}"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_WORDS = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+END",
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*END",
)
_TEKKEN = "|".join([*_WORDS, r"\p{N}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", _REST])
_CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|"
    r"\s*[\r\n]|\s+(?!\S)|\s"
)
_DEEPSEEK = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"""
    rf" ?[\p{{P}}\p{{S}}]+[\r\n]*|{_REST}"
)
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"

FAMILIES: dict[str, Pattern] = {
    "gpt2": GPT2_PATTERN,
    "cl100k": _CL100K,
    "o200k": _TEKKEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|").replace("END", f"{_CONTRACTIONS}?"),
    "llama3": _LLAMA3,
    "qwen2": _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}"),
    "qwen3.5": (
        rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}|"
        rf" ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_REST}"
    ),
    "smollm": (Split(r"\p{N}"), Split(GPT2_PATTERN)),
    "tekken": _TEKKEN.replace("END", ""),
    "deepseek": (Split(r"\p{N}{1,3}"), Split(r"[一-龥\u3040-ゟ゠-ヿ]+"), Split(_DEEPSEEK)),
    "olmo2": (Split(_CL100K.replace("|\\s++$", ""), "removed", invert=True),),
    "bloom": _BLOOM,
}
"""Name -> pattern or splits. Llama 3's is also that of SmolLM 3 and of many others, cl100k's that of Phi-4,
SmolLM's that of StarCoder 2 and of Command-R, Qwen 2's that of Qwen 2.5 and 3."""

IN_ONE_PATTERN = {
    "smollm": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+",
    "olmo2": _CL100K.replace("|\\s++$", ""),
    "bloom": rf"{_BLOOM}|(?:(?!{_BLOOM})[\s\S])+",
}
"""Name -> one pattern that divides as several splits do, for programs that take no splits."""
