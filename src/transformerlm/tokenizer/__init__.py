"""The byte-pair tokenizer: text to ids and back, and how its merges are learned.

Read `pretokenize.py` first (what may merge), then `bpe.py` (what does), then `tokenizer.py`. The same for
machines is in `kernels.py`, which `fast_train.py` and `fast_encode.py` call.
"""

from transformerlm.config import GPT2_PATTERN
from transformerlm.tokenizer.exports import to_tiktoken
from transformerlm.tokenizer.pretokenize import Pretokenizer
from transformerlm.tokenizer.stream import StreamDecoder
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
