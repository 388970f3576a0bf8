"""Small models with random weights, tokenizers for them, and folders of runs made of both."""

import functools
from pathlib import Path

import torch
from torch import nn

from transformerlm.checkpoint.store import Checkpoint, write_checkpoint
from transformerlm.config import GPT2_PATTERN, GenerationConfig, ModelConfig, TrainConfig
from transformerlm.language_model import LanguageModel
from transformerlm.nn import TransformerLM
from transformerlm.runtime import Runtime
from transformerlm.schema import to_dict
from transformerlm.tokenizer import Tokenizer, train_bpe_from_texts

END = "<|endoftext|>"
SHAPE = {"context_length": 48, "d_model": 48, "num_layers": 2, "num_heads": 4, "d_ff": 80, "norm_eps": 1e-4}
VARIANTS = {
    "plain": {},
    "grouped": {"num_kv_heads": 2, "rope_theta": 500.0},
    "tied": {"tie_embeddings": True, "vocab_size": 352},
    "qk-norm": {"qk_norm": True, "num_kv_heads": 1},
    "qk-norm, tied": {"qk_norm": True, "tie_embeddings": True},
}
"""Shapes of models; 352 rows are more than the tokenizer has ids."""


@functools.cache
def tokenizer(pattern: str = GPT2_PATTERN, special_tokens: tuple[str, ...] = (END, "<|user|>")) -> Tokenizer:
    text = "The fox, they've said, met 1234 crows; naïve 中文 text. def f(x):\n    return x\n\n" * 3
    special = list(special_tokens)
    vocab, merges = train_bpe_from_texts([text], 330, special, pattern=pattern, num_workers=1)
    return Tokenizer(vocab, merges, special, pattern=pattern)


def random_model(seed: int = 0, **shape) -> TransformerLM:
    torch.manual_seed(seed)
    model = TransformerLM(ModelConfig(**{**SHAPE, "vocab_size": tokenizer().vocab_size, **shape}))
    for parameter in model.parameters():  # gains differ, so that a wrong order of them shows
        if parameter.dim() == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return model.eval()


def language_model(
    own_tokenizer: Tokenizer | None = None,
    *,
    kernels: bool = False,
    generation: GenerationConfig | None = None,
    **shape,
) -> LanguageModel:
    model = random_model(**shape)
    config = TrainConfig(model=model.config, generation=generation or GenerationConfig())
    about = {"config": to_dict(config)}
    checkpoint = Checkpoint(Path("runs/small/checkpoints/step_00000001"), 1, about, {})
    runtime = Runtime(torch.device("cpu"), torch.float32, kernels)
    return LanguageModel(model, own_tokenizer or tokenizer(), checkpoint, runtime)


def bytes_only() -> Tokenizer:
    """Return a tokenizer of single bytes, without any special token."""
    return Tokenizer({byte: bytes([byte]) for byte in range(256)}, [])


def save_run(lm: LanguageModel, folder: Path) -> Path:
    """Write a run's folder that `LanguageModel.load` reads; return it."""
    about = {**lm.checkpoint.about, "identity": {"tokenizer": lm.tokenizer.fingerprint}}
    lm.tokenizer.save(folder / "tokenizer")
    write_checkpoint(folder / "checkpoints", 1, lm.model.state_dict(), {}, about)
    return folder
