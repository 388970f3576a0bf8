"""Our tokenizer and its peers, all with the same vocabulary: the fastest call of each for each work.

A class is a contestant, a method named after a work prepares it, and what the method returns does it once.
Loading a tokenizer, reading the text and bringing it into the form that suits is thus outside the timing.
Each contestant runs in a process of its own, whose memory is measured: it imports its tokenizer itself.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from benchmarking.pattern_families import FAMILIES, IN_ONE_PATTERN
from benchmarking.timing import Run
from benchmarking.tokenizer_jobs import SPECIAL_TOKENS, Job, empty_directory, run_module
from transformerlm.config import GPT2_PATTERN
from transformerlm.tokenizer.splits import splits_of

FIRST_TEXT = "\N{SNOWMAN} " * 250_000
"""Long enough to trigger preparations that are made on the first long text."""


def single_pattern(family: str) -> str:
    """Return the pattern of a family, for a program that takes one."""
    pattern = IN_ONE_PATTERN.get(family, FAMILIES[family])
    assert isinstance(pattern, str)
    return pattern


def huggingface_pre_tokenizer(family: str) -> Any:
    """Return the pre-tokenizer of a family as `tokenizers` has it."""
    from tokenizers import Regex, pre_tokenizers

    if FAMILIES[family] == GPT2_PATTERN:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    # There, "+" after "{1,3}" repeats it again.
    steps: list[Any] = [
        pre_tokenizers.Split(Regex(split.pattern.replace("{1,3}+", "{1,3}")), split.behavior, split.invert)
        for split in splits_of(FAMILIES[family])
    ]
    return pre_tokenizers.Sequence(
        [*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


class Contestant:
    """Base of all contestants."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def use_once(self) -> None:
        """Trigger lazy initialisation, with a text unlike the job's."""


class Ours(Contestant):
    """This package: arrays of 16 or 32 bits an id."""

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The tokenizer."""
        from transformerlm.tokenizer import Tokenizer

        vocab_path, merges_path = (self.job.vocabulary_dir / name for name in ("vocab.json", "merges.txt"))
        pattern = FAMILIES[self.job.family]
        return Tokenizer.from_files(vocab_path, merges_path, SPECIAL_TOKENS, pattern=pattern)

    def use_once(self) -> None:
        """Its tables."""
        self.tokenizer.encode_array(FIRST_TEXT)

    def train(self) -> Run:
        """From a file."""
        from transformerlm.tokenizer import train_bpe

        job = self.job
        options: dict[str, Any] = {"num_workers": job.num_threads, "pattern": FAMILIES[job.family]}
        return lambda: len(train_bpe(job.path, job.vocab_size, [], **options)[1])

    def encode_array(self) -> Run:
        """To an array."""
        tokenizer, text = self.tokenizer, self.job.text()
        return lambda: tokenizer.encode_array(text)

    def encode_list(self) -> Run:
        """To a list."""
        tokenizer, text = self.tokenizer, self.job.text()
        return lambda: tokenizer.encode(text)

    def encode_batch(self) -> Run:
        """To arrays."""
        tokenizer, texts, num_threads = self.tokenizer, self.job.documents(), self.job.num_threads
        return lambda: tokenizer.encode_batch(texts, num_threads=num_threads)

    def decode_bytes(self) -> Run:
        """From an array."""
        tokenizer, ids = self.tokenizer, self.encode_array()()
        return lambda: tokenizer.decode_bytes(ids)

    def decode_text(self) -> Run:
        """From an array."""
        tokenizer, ids = self.tokenizer, self.encode_array()()
        return lambda: tokenizer.decode(ids)

    def decode_batch(self) -> Run:
        """From arrays."""
        tokenizer, num_threads = self.tokenizer, self.job.num_threads
        ids = [tokenizer.encode_array(text) for text in self.job.documents()]
        return lambda: tokenizer.decode_batch(ids, num_threads=num_threads)

    def make_data(self) -> Run:
        """The command, as a user starts it: loading and checking are part of it."""
        directory = empty_directory(self.job.scratch_dir / f"transformerlm-{self.job.num_threads}")
        options = {
            "data.corpus": self.job.path,
            "data.document_separator": "",
            "data.validation_fraction": 0,
            "data.num_workers": self.job.num_threads,
            "data.token_dir": directory,
            "tokenizer.tokenizer_dir": self.job.vocabulary_dir,
        }
        arguments = [f"--{key}={value}" for key, value in options.items()]
        return lambda: run_module("transformerlm.cli.make_data", arguments, directory / "train.memmap")


class OursOnOneThread(Ours):
    """This package where only one thread may work: what several threads gain shows beside it."""

    def __init__(self, job: Job) -> None:
        super().__init__(dataclasses.replace(job, num_threads=1))


class Tiktoken(Contestant):
    """tiktoken: batches and decoding with lists, which are faster than arrays."""

    @functools.cached_property
    def encoding(self) -> Any:
        """The tokenizer, with the common vocabulary."""
        from tiktoken import Encoding

        tokenizer = Ours(self.job).tokenizer
        special = tokenizer.special_token_ids
        ranks = {token: token_id for token_id, token in tokenizer.vocab.items()}
        for token in special:
            del ranks[token.encode()]
        pattern = single_pattern(self.job.family)
        return Encoding("bench", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)

    def encode_array(self) -> Run:
        """To an array of 32 bits an id."""
        encoding, text = self.encoding, self.job.text()
        return lambda: encoding.encode_to_numpy(text, allowed_special="all")

    def encode_list(self) -> Run:
        """To a list."""
        encoding, text = self.encoding, self.job.text()
        return lambda: encoding.encode(text, allowed_special="all")

    def encode_batch(self) -> Run:
        """To lists."""
        encoding, texts, num_threads = self.encoding, self.job.documents(), self.job.num_threads
        return lambda: encoding.encode_batch(texts, num_threads=num_threads, allowed_special="all")

    def decode_bytes(self) -> Run:
        """From a list."""
        encoding, ids = self.encoding, self.encode_list()()
        return lambda: encoding.decode_bytes(ids)

    def decode_text(self) -> Run:
        """From a list."""
        encoding, ids = self.encoding, self.encode_list()()
        return lambda: encoding.decode(ids)

    def decode_batch(self) -> Run:
        """From lists."""
        encoding, ids, num_threads = self.encoding, self.encode_batch()(), self.job.num_threads
        return lambda: encoding.decode_batch(ids, num_threads=num_threads)


class HuggingFace(Contestant):
    """tokenizers: lists; batches without offsets, which no other contestant computes."""

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, with the common vocabulary."""
        from tokenizers import Tokenizer, decoders, models

        files = [str(self.job.vocabulary_dir / name) for name in ("vocab.json", "merges.txt")]
        tokenizer = Tokenizer(models.BPE.from_file(*files))
        tokenizer.pre_tokenizer = huggingface_pre_tokenizer(self.job.family)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(SPECIAL_TOKENS)
        return tokenizer

    def train(self) -> Run:
        """From documents: faster than from a file, which it reads by line."""
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers

        alphabet = pre_tokenizers.ByteLevel.alphabet()

        def run() -> int:
            tokenizer = Tokenizer(models.BPE())
            tokenizer.pre_tokenizer = huggingface_pre_tokenizer(self.job.family)
            size = self.job.vocab_size
            trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
            tokenizer.train_from_iterator(self.job.stored_documents(), trainer)
            return int(tokenizer.get_vocab_size()) - len(alphabet)

        return run

    def encode_array(self) -> Run:
        """To a list: it has no arrays."""
        return self.encode_list()

    def encode_list(self) -> Run:
        """To a list, as a batch: faster than a single text, for which offsets are computed."""
        tokenizer, texts = self.tokenizer, [self.job.text()]
        return lambda: tokenizer.encode_batch_fast(texts)[0].ids

    def encode_batch(self) -> Run:
        """To lists."""
        tokenizer, texts = self.tokenizer, self.job.documents()
        return lambda: [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]

    def decode_text(self) -> Run:
        """From a list."""
        tokenizer, ids = self.tokenizer, self.encode_list()()
        return lambda: tokenizer.decode(ids, skip_special_tokens=False)

    def decode_batch(self) -> Run:
        """From lists."""
        tokenizer, ids = self.tokenizer, self.encode_batch()()
        return lambda: tokenizer.decode_batch(ids, skip_special_tokens=False)


class RustBPE(Contestant):
    """rustbpe: only its trainer, as it cannot load another's vocabulary."""

    def train(self) -> Run:
        """From documents, 64 at a time: faster and in less memory than its default of 8192."""
        import rustbpe

        size = self.job.vocab_size

        def run() -> int:
            tokenizer, texts = rustbpe.Tokenizer(), self.job.stored_documents()
            pattern = single_pattern(self.job.family)
            tokenizer.train_from_iterator(texts, size, buffer_size=64, pattern=pattern)
            return int(tokenizer.vocab_size) - 256

        return run


class Gigatoken(Contestant):
    """gigatoken: arrays of 32 bits an id; it caches the pre-tokens that it has encoded."""

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, converted from Hugging Face's format."""
        from gigatoken import Tokenizer

        return Tokenizer.from_json(HuggingFace(self.job).tokenizer.to_str())

    def use_once(self) -> None:
        """Its memory."""
        self.tokenizer.encode(FIRST_TEXT)

    def train(self) -> Run:
        """From a file."""
        from gigatoken import train_bpe

        return lambda: len(train_bpe(self.job.path, self.job.vocab_size, [])[1])

    def encode_array(self) -> Run:
        """To an array; one text is encoded on one thread."""
        tokenizer, text = self.tokenizer, self.job.text()
        return lambda: tokenizer.encode(text)

    def encode_list(self) -> Run:
        """To a list, through an array: as fast as its calls for batches of lists."""
        tokenizer, text = self.tokenizer, self.job.text()
        return lambda: tokenizer.encode(text).tolist()

    def encode_batch(self) -> Run:
        """To rows of one array."""
        tokenizer, texts = self.tokenizer, self.job.documents()
        # Explicit, because in a child process it assumes that the cores are shared.
        return lambda: tokenizer.encode_batch(texts, parallel=True)

    def decode_bytes(self) -> Run:
        """From an array, which it reads in place."""
        tokenizer, ids = self.tokenizer, self.encode_array()()
        return lambda: tokenizer.decode(ids)

    def decode_text(self) -> Run:
        """Its bytes, decoded."""
        decode = self.decode_bytes()
        return lambda: decode().decode()

    def make_data(self) -> Run:
        """A process that does the same with `encode_files`."""
        directory = empty_directory(self.job.scratch_dir / "gigatoken")
        vocabulary, output = directory / "tokenizer.json", directory / "train.memmap"
        vocabulary.write_text(HuggingFace(self.job).tokenizer.to_str())
        arguments = [str(vocabulary), str(self.job.path), str(output)]
        return lambda: run_module("benchmarking.gigatoken_make_data", arguments, output)


class GigatokenBytes(Gigatoken):
    """gigatoken with bytes as input, which it reads in place."""

    def encode_batch(self) -> Run:
        """To rows of one array."""
        from gigatoken import BytesSource

        tokenizer, texts = self.tokenizer, [document.encode() for document in self.job.documents()]
        return lambda: tokenizer.encode_batch(BytesSource(texts), parallel=True)


CONTESTANTS: dict[str, type[Contestant]] = {
    "transformerlm": Ours,
    "transformerlm (new)": Ours,
    "transformerlm (one thread)": OursOnOneThread,
    "tokenizers": HuggingFace,
    "tiktoken": Tiktoken,
    "rustbpe": RustBPE,
    "gigatoken": Gigatoken,
    "gigatoken (new)": Gigatoken,
    "gigatoken (bytes)": GigatokenBytes,
}
"""A "(new)" one has not seen the text before; the others may remember parts of it."""
