"""The memory of n-grams: what followed the same tokens in the training text, and earlier in the same text.

A model of fixed size sees as many tokens as its context has, and keeps of its training text what its weights
have room for. The memory adds both at once, without training: `memory` looks contexts up in the training
tokens (`index`) and in the text so far; `mixing` puts what it finds beside the model's probabilities.
`trust` is how far it is trusted in a text that is scored; `reference` is the definition.
"""

from transformerlm.ngrams.factors import Factors
from transformerlm.ngrams.index import NgramIndex
from transformerlm.ngrams.memory import Found, NgramMemory, TextMemory
from transformerlm.ngrams.mixing import mixed_along, mixed_logits
from transformerlm.ngrams.trust import Trust

__all__ = [
    "Factors",
    "Found",
    "NgramIndex",
    "NgramMemory",
    "TextMemory",
    "Trust",
    "mixed_along",
    "mixed_logits",
]
