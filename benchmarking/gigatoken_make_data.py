"""From a text file to a token file with gigatoken: the peer of `transformerlm-make-data`.

python -m benchmarking.gigatoken_make_data TOKENIZER.json TEXT TOKENS
"""

from __future__ import annotations

import sys

import numpy as np
from gigatoken import Tokenizer


def main(tokenizer_path: str, text_path: str, token_path: str) -> None:
    tokenizer = Tokenizer(tokenizer_path)
    ids = np.asarray(tokenizer.encode_files(text_path).layout.content.data)
    ids.astype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32).tofile(token_path)


if __name__ == "__main__":
    main(*sys.argv[1:])
