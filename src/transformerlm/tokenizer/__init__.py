"""The byte-pair tokenizer: text to ids and back, and how its merges are learned.

Files, in the order in which to read them:

    reference.py       the definition of byte-pair encoding, slow and short
    pretokenize.py     dividing text into pre-tokens          splits.py    the same in several steps
    patterns/          the same by automata, and where a text may be cut
    bpe.py             learning and applying merges in plain Python, without recounting
    train.py           from text to merges        train_kernels.py    the same on compiled kernels
    encode.py          text to ids and back       encode_kernels.py   the same on compiled kernels
    tokenizer.py       `Tokenizer`, which puts them together and chooses between the two
    stream_decoder.py, offsets.py, verify.py, vocabulary.py, token_table.py
    formats/           reading and writing files of this package, of Hugging Face and of tiktoken

The kernels themselves are in `transformerlm.kernels.bpe`; `kernel_library.py` compiles and loads them, and
`kernel_memory.py` makes the arrays that they work on.
"""

from transformerlm.config import GPT2_PATTERN
from transformerlm.tokenizer.formats.tiktoken_encoding import to_tiktoken
from transformerlm.tokenizer.pretokenize import Pretokenizer
from transformerlm.tokenizer.stream_decoder import StreamDecoder
from transformerlm.tokenizer.tokenizer import Tokenizer
from transformerlm.tokenizer.train import train_bpe, train_bpe_from_texts
from transformerlm.tokenizer.verify import verify_merges

__all__ = [
    "GPT2_PATTERN",
    "Pretokenizer",
    "StreamDecoder",
    "Tokenizer",
    "to_tiktoken",
    "train_bpe",
    "train_bpe_from_texts",
    "verify_merges",
]
