"""Every knob of this package, in one place: what it means, its unit, its default.

A command's config (the classes at the end) is made of sections, one per table of its TOML file; a
section means the same in every command. Precedence: these defaults, then the file, then the command
line. Nothing here touches the disk or imports torch, so that `--help` answers at once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from transformerlm.errors import ConfigError
from transformerlm.schema import (
    FilePath,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    NumThreads,
    PositiveFloat,
    PositiveInt,
    Probability,
    Problem,
    Section,
    Text,
)

GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""GPT-2's pre-tokenisation pattern (Radford et al. 2019, in the form of tiktoken)."""


MAX_TOKENS_PER_STEP = 2**31
"""Sequences of a step times their length: more than anybody trains with, and within what can be counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig(Section):
    """[model]: the shape of the Transformer; all that defines its weights, and nothing else."""

    vocab_size: PositiveInt | None = None
    """Rows of the embedding and of the output head. None: the tokenizer's own size."""
    context_length: PositiveInt = 256
    """Tokens that the model sees at once."""
    d_model: PositiveInt = 256
    """Width of the residual stream."""
    num_layers: PositiveInt = 4
    """Transformer blocks."""
    num_heads: PositiveInt = 8
    """Query heads; must divide d_model, and d_model / num_heads must be even (RoPE rotates pairs)."""
    num_kv_heads: PositiveInt | None = None
    """Key and value heads (grouped-query attention); must divide num_heads. None: num_heads."""
    d_ff: PositiveInt = 704
    """Inner width of SwiGLU; 8/3 of d_model, rounded up to a multiple of 64, is usual."""
    rope_theta: PositiveFloat = 10000.0
    """Base of the rotary position embedding's wavelengths."""
    norm_eps: PositiveFloat = 1e-5
    """Added to the mean square in RMSNorm."""
    tie_embeddings: bool = False
    """Use the embedding matrix as the output head too."""
    qk_norm: bool = False
    """RMSNorm on every query and key head before the rotation."""

    def conflicts(self) -> Iterator[Problem]:
        """d_model, num_heads and num_kv_heads have to fit each other."""
        if self.d_model % self.num_heads:
            what = f"expected a divisor of d_model = {self.d_model}, got {self.num_heads}"
            yield Problem(("num_heads",), what)
        elif self.d_head % 2:
            what = f"expected an even d_model / num_heads (RoPE rotates pairs), got {self.d_model} / "
            yield Problem(("num_heads",), f"{what}{self.num_heads} = {self.d_head}")
        if self.num_heads % self.kv_heads:
            what = f"expected a divisor of num_heads = {self.num_heads}, got {self.kv_heads}"
            yield Problem(("num_kv_heads",), what)

    @property
    def d_head(self) -> int:
        """Width of one head."""
        return self.d_model // self.num_heads

    @property
    def kv_heads(self) -> int:
        """Key and value heads, with None resolved."""
        return self.num_kv_heads or self.num_heads

    @property
    def vocabulary_rows(self) -> int:
        """`vocab_size`, which a model cannot do without (ConfigError while it is still None)."""
        if self.vocab_size is None:
            raise ConfigError("[model].vocab_size: expected a whole number of at least 1, got None")
        return self.vocab_size


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusConfig(Section):
    """[data], the part about text: where it is, what a document is, which part validates."""

    corpus: FilePath = "python-stdlib"
    """A file, a folder, a glob, or "python-stdlib": the source of this Python's standard library.
    Files ending in .jsonl hold one document a line; any other file is text."""
    include: tuple[Text, ...] = ("*",)
    """Which files of a folder or of "python-stdlib" to read: shell patterns on a file's name.
    Hidden and binary files never are."""
    document_separator: str = "<|endoftext|>"
    """Where a text file's documents part, and the special token that ends each document in the token
    file. "": a document is a file, and nothing marks its end."""
    jsonl_field: Text = "text"
    """The field of a .jsonl line that holds the document."""
    encoding_errors: Literal["strict", "replace", "keep"] = "strict"
    """Bytes that are not UTF-8: "strict" stops with file and byte offset, "replace" reads U+FFFD, "keep"
    has them in the token file as they are (in .jsonl, those within strings)."""
    validation_corpus: FilePath | None = None
    """A file, folder or glob to validate on. None: a part of `corpus` is held out."""
    validation_fraction: Fraction = 0.05
    """Part of `corpus` held out for validation (0: none); not used with `validation_corpus`."""
    validation_split: Literal["auto", "document", "tail"] = "auto"
    """"document": each document by a hash of its content, so that copies of it stay on one side.
    "tail": the end of the corpus. "auto": "document" from 20 documents on, where both sides get one."""
    num_workers: NumThreads | None = None
    """Threads, or processes where the kernels are not used, that read the corpus; the result does
    not depend on it. None: one per core, divided among the ranks of a machine."""

    @property
    def corpus_name(self) -> str:
        """The corpus' own name, fit for a folder: `texts/My Books/*.txt` is `My-Books`."""
        parts = [part for part in Path(self.corpus).absolute().parts if not set(part) & set("*?[")]
        return re.sub(r"[^\w-]+", "-", Path(parts[-1]).stem).strip("-") or "corpus"


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig(CorpusConfig):
    """[data]: the corpus, and the token files that are made of it."""

    token_dir: FilePath = "data/{corpus}"
    """Folder of train.memmap and val.memmap; {corpus} stands for the corpus' name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerConfig(Section):
    """[tokenizer]: where the tokenizer is, and how to train it where it is missing."""

    tokenizer_dir: FilePath = "data/{corpus}/tokenizer"
    """Folder of vocab.json and merges.txt (GPT-2's formats); {corpus} stands for the corpus' name."""
    vocab_size: PositiveInt = 8192
    """Ids in all: 256 bytes, the merges, the special tokens."""
    special_tokens: tuple[Text, ...] = ("<|endoftext|>",)
    """Strings that are one id each and never merge with their surroundings."""
    pattern: Text = GPT2_PATTERN
    """The pre-tokenisation pattern (syntax of the `regex` package)."""

    def conflicts(self) -> Iterator[Problem]:
        """The bytes and the special tokens have to fit in the vocabulary."""
        least = 256 + len(set(self.special_tokens))
        if self.vocab_size < least:
            parts = f"256 bytes and {least - 256} special tokens"
            what = f"expected at least {least} ({parts}), got {self.vocab_size}"
            yield Problem(("vocab_size",), what)
        if len(set(self.special_tokens)) < len(self.special_tokens):
            yield Problem(("special_tokens",), f"expected no token twice, got {list(self.special_tokens)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig(Section):
    """[optimizer]: AdamW or Muon, and gradient clipping."""

    name: Literal["adamw", "muon"] = "adamw"
    """"adamw" for everything; or "muon" for the matrices inside the blocks and AdamW for the rest."""
    lr: PositiveFloat = 1e-3
    """Peak learning rate of AdamW."""
    muon_lr: PositiveFloat = 0.02
    """Peak learning rate of Muon; follows the same schedule."""
    muon_momentum: Fraction = 0.95
    """Decay of Muon's running sum of gradients."""
    muon_steps: PositiveInt = 5
    """Steps of the iteration that makes Muon's updates orthogonal: fewer are quicker and less exact."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    """Decay of the running mean of gradients and of their squares."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the second moment."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled decay, on matrices only (never on norms' gains)."""
    max_grad_norm: NonNegativeFloat = 1.0
    """Clip the global L2 norm of the gradients to this. 0: never clip."""

    def conflicts(self) -> Iterator[Problem]:
        """A running mean that never forgets never learns."""
        if 1.0 in self.betas:
            yield Problem(("betas",), f"expected two numbers from 0 to below 1, got {list(self.betas)}")
        if self.muon_momentum == 1.0:
            yield Problem(("muon_momentum",), "expected a number from 0 to below 1, got 1.0")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig(Section):
    """[schedule]: linear warm-up, then down to a fraction of the peak by the end of the budget."""

    name: Literal["cosine", "wsd"] = "cosine"
    """After the warm-up: "cosine" falls all the way; "wsd" (warm-up, stable, decay) stays at the peak
    and falls in a straight line at the end."""
    warmup_steps: NonNegativeInt = 100
    """Steps of linear warm-up from 0."""
    cosine_steps: PositiveInt | None = None
    """Step at which the learning rate reaches its end. None: where [training]'s budget ends."""
    decay_fraction: Probability = 0.2
    """Part of the steps in which "wsd" falls."""
    final_lr_fraction: Fraction = 0.1
    """The learning rate at the end, as a fraction of the peak."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig(Section):
    """[training]: how long, in what batches, and what is kept."""

    run_dir: FilePath = "runs/{corpus}"
    """Folder of this run: config, tokenizer, checkpoints, metrics, samples. {corpus} and {run_name}
    stand for the corpus' name and the run's."""
    resume: Literal["auto", "never", "must"] = "auto"
    """"auto": go on from the run's newest valid checkpoint where there is one. "never": refuse a folder
    that holds a run. "must": refuse a folder that holds none."""
    start_from: FilePath | None = None
    """A run's folder, or one checkpoint of it, whose weights a new run begins with (fine-tuning); its model
    and its tokenizer must be this run's. None: random weights. Read once: a run that goes on has its own."""
    max_steps: PositiveInt | None = None
    """Budget: optimizer steps in all. None: 1000, unless max_tokens or max_time says how long."""
    max_tokens: PositiveInt | None = None
    """Budget: tokens to train on, instead of max_steps; rounded up to whole steps."""
    max_time: Text | None = None
    """Budget: wall-clock time, instead of max_steps: "90s", "20m", "2h", "1d", "1h30m". Validating and
    saving count, pauses between two runs in the same folder do not. The schedule ends with it."""
    batch_size: PositiveInt = 32
    """Sequences per optimizer step, over all devices."""
    micro_batch_size: PositiveInt | Literal["auto"] = "auto"
    """Sequences per forward pass, on each device; must divide its part of batch_size. "auto": what fits
    in memory; on a CPU at most 8,192 tokens. It is halved where memory runs out."""
    batch_order: Literal["epoch", "random"] = "epoch"
    """"epoch": every window once, shuffled, then again in another order. "random": windows anywhere."""
    validate_every: NonNegativeInt = 250
    """Steps between validations. 0: only at the end."""
    checkpoint_every: NonNegativeInt = 250
    """Steps between checkpoints. 0: only at the end."""
    keep_checkpoints: PositiveInt = 2
    """Newest checkpoints to keep, beside the best one."""
    log_every: PositiveInt = 10
    """Steps between lines of metrics."""
    on_nonfinite: Literal["stop", "skip", "rollback"] = "stop"
    """A step whose loss or gradient is not finite is never taken. "stop": the run ends. "skip": it goes on
    with the next batch. "rollback": back to the newest checkpoint, and on without the batches since."""
    max_faults: PositiveInt = 10
    """After so many such steps in a row, or so many times back, the run ends all the same."""
    spike_deviations: PositiveFloat = 6.0
    """A loss or gradient norm this many standard deviations above the mean of the 128 steps before is
    counted as a spike."""
    skip_spikes: bool = False
    """Leave the steps out in which there is a spike."""

    def conflicts(self) -> Iterator[Problem]:
        """One budget; and accumulation is a whole number of forward passes."""
        budgets = [name for name in ("max_steps", "max_tokens", "max_time") if getattr(self, name)]
        if len(budgets) > 1:
            what = f"expected one budget, got {' and '.join(budgets)}; say None to those not meant"
            yield Problem((budgets[-1],), what)
        if self.max_time is not None and seconds_of(self.max_time) is None:
            what = f'expected a time such as "90s", "20m", "2h" or "1h30m", got "{self.max_time}"'
            yield Problem(("max_time",), what)
        if self.micro_batch_size != "auto" and self.batch_size % self.micro_batch_size:
            what = f"expected a divisor of batch_size = {self.batch_size}, got {self.micro_batch_size}"
            yield Problem(("micro_batch_size",), what)

    @property
    def max_seconds(self) -> float | None:
        """`max_time` in seconds."""
        return None if self.max_time is None else seconds_of(self.max_time)

    def steps_in_budget(self, context_length: int) -> int | None:
        """Optimizer steps that `max_steps` or `max_tokens` comes to; None where a time is the budget."""
        if self.max_time is not None:
            return None
        if self.max_tokens is not None:
            return -(-self.max_tokens // (self.batch_size * context_length))
        return self.max_steps or 1000


def seconds_of(text: str) -> float | None:
    """Seconds of a time as "1h30m" or "90s" has it; None where it is none."""
    units = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    found = re.fullmatch("".join(rf"(?:(\d+(?:\.\d+)?){unit}\s*)?" for unit in units), text.strip())
    if found is None or not any(found.groups()):
        return None
    seconds = sum(float(part or 0) * size for part, size in zip(found.groups(), units.values(), strict=True))
    return seconds if 0 < seconds < math.inf else None


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeConfig(Section):
    """[runtime]: on what, and how; nothing here changes which model it is."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """"auto": cuda, else mps, else cpu."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the matrix products; weights stay float32. "auto": bfloat16 where the device is
    quick at it, else float32."""
    attention: Literal["auto", "reference", "torch"] = "auto"
    """"reference": the mathematics, step by step. "torch": PyTorch's fused kernel. "auto": the quicker."""
    kernels: bool = True
    """On a CPU, run norms, activations, rotations, attention, loss and optimizer, and all of a step of
    generation, in kernels of this package's own, compiled once. false: in PyTorch's operations."""
    compile: bool = False
    """torch.compile; where it fails, one warning, and on without it. Takes the place of kernels."""
    activation_checkpointing: bool = False
    """Training forgets what is inside a block and computes it again for the backward pass: less memory,
    about a third more time."""
    sharding: Literal["none", "full"] = "none"
    """Several devices (torchrun): "none" keeps the whole model on each (DDP); "full" divides weights,
    gradients and optimizer state among them (FSDP2)."""
    deterministic: bool = False
    """Only operations that give the same bits each time, some of them slower (a CPU has no others)."""
    num_threads: NumThreads | None = None
    """CPU threads of torch. None: torch's own choice, or its part of the cores where several ranks share
    a machine."""
    seed: NonNegativeInt = 0
    """Seed of the initial weights, of the order of the data, and of sampling."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggingConfig(Section):
    """[logging]: where metrics go, and under which names."""

    backend: Literal["console", "wandb"] = "console"
    """"console": one JSON object a line on stdout. "wandb": Weights & Biases."""
    run_name: str = ""
    """Name of the run. "": the time of its start."""
    architecture: str = "transformer"
    """What kind of model this is; only recorded."""
    dataset: str = ""
    """Name of the data. "": the corpus' own name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainLoggingConfig(LoggingConfig):
    """[logging] of training: also what to watch inside the model."""

    activation_norms: bool = False
    """Log the L2 norm of every block's output."""
    weight_norms: bool = False
    """Log the L2 norm of every parameter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WandbConfig(Section):
    """[wandb]: read only where [logging].backend is "wandb"."""

    entity: str = ""
    """User or team. "": the account's default."""
    project: Text = "transformerlm"
    """Project of the run."""
    log_artifacts: bool = True
    """Upload checkpoints and tokenizer files (training) or outputs (inference)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationConfig(Section):
    """[generation]: what to write, and how to draw each token."""

    prompts: tuple[str, ...] = ("",)
    """Texts to continue; "" starts from nothing but the end-of-text token."""
    max_new_tokens: PositiveInt = 128
    """Tokens to write at most."""
    temperature: NonNegativeFloat = 0.8
    """Divides the logits; 0 takes the likeliest token (greedy)."""
    top_p: Probability = 0.95
    """Draw from the smallest set of tokens with this much probability (nucleus sampling)."""
    top_k: PositiveInt | None = None
    """Draw from this many likeliest tokens. None: from all."""
    min_p: Fraction = 0.0
    """Draw from the tokens at least this many times as likely as the likeliest. 0: from all."""
    repetition_penalty: PositiveFloat = 1.0
    """Makes tokens that prompt or text hold already less likely: their logits divided by this where
    positive, multiplied where negative. 1: it does not."""
    eos_token: str = "<|endoftext|>"
    """Special token that ends a text. "": none does."""
    stop_tokens: tuple[Text, ...] = ()
    """Other special tokens that end a text."""
    stop: tuple[str, ...] = ()
    """Strings that end a text: it goes up to the first of them, which is no part of it. The prompt may
    hold them."""
    num_samples: PositiveInt = 1
    """Texts to write after each prompt."""
    log_probs: bool = False
    """Keep each token's log-probability (nats), the model's own: before penalty, temperature, filters."""

    def conflicts(self) -> Iterator[Problem]:
        """A stop string has something to stop at."""
        if "" in self.stop:
            yield Problem(("stop",), f"expected strings of at least one character, got {list(self.stop)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class InferSection(Section):
    """[infer]: which model, and where prompts come from."""

    checkpoint: FilePath = "runs/python-stdlib"
    """A run's folder (its newest valid checkpoint) or one checkpoint of it."""
    prompt: str | tuple[str, ...] | None = None
    """A text to continue, or a list of them; takes the place of [generation].prompts."""
    prompt_file: FilePath | None = None
    """A file of prompts, "-" for stdin; takes the place of [generation].prompts."""
    prompt_format: Literal["auto", "lines", "jsonl", "whole"] = "auto"
    """What that file holds. "lines": a prompt a line. "jsonl": a JSON string a line, or an object whose
    "prompt" it is; other keys come back with the result. "whole": one prompt, line breaks and all.
    "auto": "jsonl" where the name ends in .jsonl, else "lines"."""
    output_format: Literal["auto", "text", "jsonl"] = "auto"
    """"text": to be read, each prompt with its continuation. "jsonl": a JSON object a line. "auto": "text"
    on a terminal, "jsonl" anywhere else and with [generation].log_probs."""
    output_file: FilePath | None = None
    """A file for the results, written whole at the end or not at all. None: stdout."""
    first_row: NonNegativeInt = 0
    """Row of the first text; the next ones follow. A seed has a stream of random numbers for each row: a
    result's "text.row" here has that text again, alone."""
    stream: bool = True
    """Show a single text on the terminal as it is written (on stderr where the result is JSON)."""

    def conflicts(self) -> Iterator[Problem]:
        """Prompts come from one place."""
        if self.prompt is not None and self.prompt_file is not None:
            yield Problem(("prompt_file",), "expected nothing beside a prompt")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalSection(Section):
    """[eval]: which model, or which two, on which text."""

    checkpoint: FilePath = "runs/python-stdlib"
    """A run's folder (its newest valid checkpoint) or one checkpoint of it."""
    compare: FilePath | None = None
    """Another one, for the difference on the same documents. None: no comparison."""
    text: FilePath | None = None
    """A file, a folder or a glob, all of which is scored; [data] says how it is read. None: the part of
    [data] that validates."""
    max_documents: PositiveInt | None = None
    """Score only so many documents, from the first on. None: all."""
    eos_token: str | None = None
    """Special token that stands before each document, and is to be predicted at its end. "": none. None: the
    one that ended documents in the model's own training ([data].document_separator there)."""
    stride: PositiveInt | None = None
    """Of documents longer than the model's context: tokens from the beginning of a window to that of the
    next, at most context_length, which is quickest; each token counts in the first window that it is in.
    None: half of context_length, so that each has at least as much before it."""
    batch_size: PositiveInt = 16
    """Sequences of context_length that are scored at a time, or as many tokens in shorter ones."""
    documents_file: FilePath | None = None
    """A .jsonl file to write, with what each document has cost. None: none is written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportSection(Section):
    """[export]: which model leaves, and as what."""

    checkpoint: FilePath = "runs/python-stdlib"
    """A run's folder (its newest valid checkpoint) or one checkpoint of it."""
    to: Literal["hf", "gguf"] = "hf"
    """"hf": a folder for Hugging Face's transformers. "gguf": a file for llama.cpp."""
    output: FilePath | None = None
    """The folder or the file, where there must be nothing yet. None: beside the run, named after it."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the weights; in a GGUF file that of the matrices."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportModelSection(Section):
    """[import_model]: which model comes in, and where it goes. (`import` is a word of Python's own.)"""

    source: FilePath | None = None
    """A Hugging Face folder: config.json, model.safetensors (or several), tokenizer.json."""
    run_dir: FilePath | None = None
    """The run's folder to make, where there must be nothing yet. None: runs/ and the source's name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainTokenizerConfig(Section):
    """transformerlm-train-tokenizer: from text to vocab.json and merges.txt."""

    data: CorpusConfig = field(default_factory=CorpusConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class MakeDataConfig(Section):
    """transformerlm-make-data: from text to token files."""

    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(Section):
    """transformerlm-train: from text, or from what is made of it already, to a model."""

    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    logging: TrainLoggingConfig = field(default_factory=TrainLoggingConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)

    def conflicts(self) -> Iterator[Problem]:
        """The schedule has to fit the run, and a step the machine."""
        tokens = self.training.batch_size * self.model.context_length
        if tokens > MAX_TOKENS_PER_STEP:
            what = f"expected at most {MAX_TOKENS_PER_STEP // self.model.context_length}"
            yield Problem(("training", "batch_size"), f"{what}, got {self.training.batch_size}")
        warmup_steps, steps = self.schedule.warmup_steps, self.schedule_steps
        if steps is not None and warmup_steps >= steps:
            what = f"expected fewer than the schedule's {steps} steps, got {warmup_steps}"
            yield Problem(("schedule", "warmup_steps"), what)

    @property
    def schedule_steps(self) -> int | None:
        """Step at which the learning rate reaches its minimum; None: where [training].max_time ends."""
        budget = self.training.steps_in_budget(self.model.context_length)
        return self.schedule.cosine_steps or budget


@dataclass(frozen=True, kw_only=True, slots=True)
class InferConfig(Section):
    """transformerlm-infer: from a model and a prompt to text."""

    infer: InferSection = field(default_factory=InferSection)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)

    def conflicts(self) -> Iterator[Problem]:
        """Text to be read has no place for numbers."""
        if self.generation.log_probs and self.infer.output_format == "text":
            what = 'expected "jsonl" or "auto" with [generation].log_probs, got "text"'
            yield Problem(("infer", "output_format"), what)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig(Section):
    """transformerlm-eval: from a model, or two, and text to loss, perplexity and bits per byte."""

    eval: EvalSection = field(default_factory=EvalSection)
    data: CorpusConfig = field(default_factory=CorpusConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig(Section):
    """transformerlm-export: from a run to what other programs read."""

    export: ExportSection = field(default_factory=ExportSection)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportConfig(Section):
    """transformerlm-import: from a Hugging Face folder to a run."""

    import_model: ImportModelSection = field(default_factory=ImportModelSection)
