"""Tokenizer speed: ours beside Hugging Face's tokenizers, tiktoken, rustbpe and gigatoken.

    python -m benchmarking.bench_tokenizer --config configs/bench_tokenizer.toml

All contestants do the same work on the same text in the same process, in turn, and the medians are
compared. Training uses as many cores as each takes (ours: [bench].num_workers), encoding and decoding
one. Results are JSON lines on stdout; no file is written.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import statistics
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from transformerlm.cli.common import run_command
from transformerlm.config import GPT2_PATTERN
from transformerlm.logging import ConsoleLogger, say
from transformerlm.schema import NonNegativeInt, PositiveFloat, PositiveInt, Problem, Section, Text
from transformerlm.tokenizer import Pretokenizer, Tokenizer, train_bpe_from_texts
from transformerlm.tokenizer.files import token_to_text


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchSection(Section):
    """[bench]: what to measure, on what, and how often."""

    corpora: tuple[Text, ...] = ("python-stdlib",)
    """Files, folders, or "python-stdlib": the source of this Python's standard library."""
    max_megabytes: PositiveFloat = 4.0
    """Of each corpus, from its beginning."""
    work: tuple[Literal["train", "encode", "decode"], ...] = ("train", "encode", "decode")
    """What to measure."""
    train_vocab_size: PositiveInt = 10000
    """Ids that training learns."""
    num_workers: PositiveInt | None = None
    """Processes of our trainer. None: one per core."""
    vocab_path: Text | None = None
    """vocab.json of the tokenizer that encodes and decodes. None: one that is trained on the corpus."""
    merges_path: Text | None = None
    """merges.txt that belongs to it."""
    warmup_rounds: NonNegativeInt = 1
    """Rounds that are not counted."""
    rounds: PositiveInt = 5
    """Rounds that are; in each, every contestant works once."""
    peers: tuple[Literal["tokenizers", "tiktoken", "rustbpe", "gigatoken"], ...] = ("tokenizers", "tiktoken")
    """What to compare with; one that is not installed is said and left out."""

    def conflicts(self) -> Iterator[Problem]:
        """The two files of a tokenizer come together."""
        if (self.vocab_path is None) != (self.merges_path is None):
            yield Problem(("merges_path",), "expected both vocab_path and merges_path, or neither")


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchTokenizerConfig(Section):
    """benchmarking.bench_tokenizer."""

    bench: BenchSection = field(default_factory=BenchSection)


Runs = dict[str, Callable[[], Any]]
"""Contestant -> what does the work once."""

OURS = "transformerlm"
SPECIAL_TOKENS = ["<|endoftext|>"]


def main() -> int:
    """The command."""
    return run_command(BenchTokenizerConfig, bench, description="Measure tokenizers.")


def bench(config: BenchTokenizerConfig) -> None:
    """Let all contestants work on every corpus."""
    settings = config.bench
    peers = installed(settings.peers)
    for corpus in settings.corpora:
        text = corpus_text(corpus, int(settings.max_megabytes * 1e6))
        if not text:
            say(f"{corpus}: not found or empty, left out")
            continue
        tokenizer = load_or_train(settings, text)
        if "train" in settings.work:
            compare(settings, corpus, "train", text, trainers(settings, text, peers), same=None)
        if "encode" in settings.work:
            ids = tokenizer.encode_array(text)
            runs = encoders(settings, text, tokenizer, peers)
            compare(settings, corpus, "encode", text, runs, functools.partial(np.array_equal, ids))
        if "decode" in settings.work:
            compare(settings, corpus, "decode", text, decoders(text, tokenizer, peers), text.__eq__)


def compare(
    settings: BenchSection,
    corpus: str,
    work: str,
    text: str,
    runs: Runs,
    same: Callable[[Any], bool] | None,
) -> None:
    """Time the contestants in turn and print a line for each; `same` says whether a result is right."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    is_right: dict[str, bool] = {}
    for number in range(settings.warmup_rounds + settings.rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            result = run()
            stop = time.perf_counter()
            if number >= settings.warmup_rounds:
                seconds[name].append(stop - start)
            if same and name not in is_right:
                is_right[name] = bool(same(result))
    for name, times in seconds.items():
        median = statistics.median(times)
        values: dict[str, float | str] = {
            "bench.corpus": corpus,
            "bench.work": work,
            "bench.contestant": name,
            "metrics.megabytes_per_second": len(text.encode()) / 1e6 / median,
            "bench.seconds": median,
            "bench.fastest_seconds": min(times),
            "bench.slowest_seconds": max(times),
            "bench.times_slower_than_ours": median / statistics.median(seconds[OURS]),
        }
        ConsoleLogger().log(values | ({"bench.equal_to_ours": is_right[name]} if same else {}))


def installed(peers: tuple[str, ...]) -> list[str]:
    """The peers that can be imported; the others are said."""
    found = [name for name in peers if importlib.util.find_spec(name)]
    for name in peers:
        if name not in found:
            say(f"{name} is not installed: left out")
    return found


def corpus_text(corpus: str, max_bytes: int) -> str:
    """The beginning of a corpus as text; empty where there is none."""
    root = Path(sysconfig.get_paths()["stdlib"] if corpus == "python-stdlib" else corpus)
    files = [root] if root.is_file() else sorted(root.rglob("*.py" if corpus == "python-stdlib" else "*"))
    content = bytearray()
    for path in files:
        if path.is_file() and "site-packages" not in path.parts and len(content) < max_bytes:
            content += path.read_bytes()
    return content[:max_bytes].decode(errors="ignore")


def load_or_train(settings: BenchSection, text: str) -> Tokenizer:
    """The tokenizer that encodes and decodes."""
    if settings.vocab_path and settings.merges_path:
        if Path(settings.vocab_path).exists() and Path(settings.merges_path).exists():
            return Tokenizer.from_files(settings.vocab_path, settings.merges_path, SPECIAL_TOKENS)
        say(f"{settings.vocab_path}, {settings.merges_path}: not found, a vocabulary is trained instead")
    return Tokenizer(*train_bpe_from_texts([text], settings.train_vocab_size, SPECIAL_TOKENS), SPECIAL_TOKENS)


def trainers(settings: BenchSection, text: str, peers: list[str]) -> Runs:
    """Train on the same pieces, which all may share out among their threads as they like."""
    pieces = list(Pretokenizer().pieces([text]))
    size = settings.train_vocab_size
    runs: Runs = {OURS: lambda: train_bpe_from_texts(pieces, size, [], num_workers=settings.num_workers)}
    if "tokenizers" in peers:
        runs["tokenizers"] = lambda: train_huggingface(pieces, size)
    if "rustbpe" in peers:
        import rustbpe

        runs["rustbpe"] = lambda: rustbpe.Tokenizer().train_from_iterator(
            iter(pieces), size, pattern=GPT2_PATTERN
        )
    if "gigatoken" in peers:
        from gigatoken.gigatoken_rs import train_bpe

        content = text.encode()
        runs["gigatoken"] = lambda: train_bpe(content, size, [])
    return runs


def train_huggingface(pieces: list[str], vocab_size: int) -> None:
    """Train Hugging Face's byte-level tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(pieces, trainer)


def encoders(settings: BenchSection, text: str, tokenizer: Tokenizer, peers: list[str]) -> Runs:
    """Encode the whole text on one thread, to an array where a contestant can.

    Ours remembers pre-tokens; the contestant "(new)" is one that has not seen any yet.
    """
    new = iter([copy.copy(tokenizer) for _ in range(settings.warmup_rounds + settings.rounds)])
    runs: Runs = {
        OURS: lambda: tokenizer.encode_array(text),
        f"{OURS} (new)": lambda: next(new).encode_array(text),
    }
    if "tiktoken" in peers:
        encoding = as_tiktoken(tokenizer)
        runs["tiktoken"] = lambda: encoding.encode_to_numpy(text, allowed_special="all")
    if "tokenizers" in peers:
        huggingface = as_huggingface(tokenizer)
        runs["tokenizers"] = lambda: huggingface.encode(text).ids
    if "gigatoken" in peers:
        gigatoken, content = as_gigatoken(tokenizer), text.encode()
        runs["gigatoken"] = lambda: gigatoken.encode(content)
    return runs


def decoders(text: str, tokenizer: Tokenizer, peers: list[str]) -> Runs:
    """Decode all ids at once, from an array where a contestant can."""
    ids = tokenizer.encode_array(text)
    id_list = ids.tolist()
    runs: Runs = {OURS: lambda: tokenizer.decode(ids)}
    if "tiktoken" in peers:
        encoding = as_tiktoken(tokenizer)
        runs["tiktoken"] = lambda: encoding.decode(id_list)
    if "tokenizers" in peers:
        huggingface = as_huggingface(tokenizer)
        runs["tokenizers"] = lambda: huggingface.decode(id_list, skip_special_tokens=False)
    if "gigatoken" in peers:
        gigatoken, wide_ids = as_gigatoken(tokenizer), ids.astype(np.uint32)
        runs["gigatoken"] = lambda: gigatoken.decode(wide_ids).decode()
    return runs


def as_tiktoken(tokenizer: Tokenizer) -> Any:
    """The same tokenizer as a tiktoken.Encoding."""
    import tiktoken

    special = tokenizer.special_token_ids
    ranks = {token: number for number, token in tokenizer.vocab.items() if number not in special.values()}
    pattern = tokenizer.pretokenizer.pattern
    return tiktoken.Encoding("bench", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)


def as_huggingface(tokenizer: Tokenizer) -> Any:
    """The same tokenizer as one of Hugging Face's."""
    import tokenizers

    vocab = {token_to_text(token): number for number, token in tokenizer.vocab.items()}
    merges = [(token_to_text(left), token_to_text(right)) for left, right in tokenizer.merges]
    peer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, merges))
    peer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    peer.decoder = tokenizers.decoders.ByteLevel()
    peer.add_special_tokens(list(tokenizer.special_token_ids))
    return peer


def as_gigatoken(tokenizer: Tokenizer) -> Any:
    """The same tokenizer as gigatoken's, by way of Hugging Face's format."""
    from gigatoken.gigatoken_rs import load_hf_json

    return load_hf_json(as_huggingface(tokenizer).to_str())


if __name__ == "__main__":
    sys.exit(main())
