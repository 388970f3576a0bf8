"""The libraries of compiled kernels, except for the tokenizer's (tokenizer/kernel_library.py).

Imports no PyTorch, which calling the kernels needs: `--version` says which of them are compiled.
"""

from __future__ import annotations

from transformerlm.kernels.library import Library

TRAINING = Library("training", "transformerlm.kernels.training", [], 15)
GENERATION = Library("generation", "transformerlm.kernels.generation", [], 30)
QUANTIZED = Library("quantized", "transformerlm.kernels.generation_quantized", [], 30)
"""Generation with weights in eight and four bits."""
NGRAMS = Library("n-gram", "transformerlm.kernels.ngrams", [], 4)
"""Lookups in the memory of n-grams (ngrams/memory.py)."""
THREAD = Library("thread", "transformerlm.kernels.team", [], 3)
"""Threads that wait for work (teams.py)."""
