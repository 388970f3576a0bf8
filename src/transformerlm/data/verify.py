"""Verification: a tokenizer against its corpus, and token files against their checksums.

The check of a tokenizer starts from the text and uses neither the kernels nor the trainer: it shares with
them only the reading and division of text. The check of token files reads every byte.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

from transformerlm.config import CorpusConfig, DataConfig, TokenizerConfig
from transformerlm.data.build import token_paths
from transformerlm.data.corpus import find_corpora
from transformerlm.data.mixture import corpora_of
from transformerlm.data.prepare import fill_placeholders, training_texts
from transformerlm.data.token_file import TokenFile
from transformerlm.errors import DataError, Problem
from transformerlm.progress import Reporter, SilentReporter
from transformerlm.tokenizer import Tokenizer, verify_merges
from transformerlm.tokenizer.train import count_pretokens


def verify_tokenizer(
    data_config: CorpusConfig,
    tokenizer_config: TokenizerConfig,
    tokenizer: Tokenizer,
    reporter: Reporter | None = None,
) -> None:
    """Count the training split in plain Python and replay the merges: each must be of a most frequent pair.

    Takes some 3 seconds for 4 MB of source code and 10,000 ids, on one core.

    Raises:
        DataError: a merge is not (the message names the first), or the corpus cannot be read.
    """
    reporter = reporter or SilentReporter()
    pretokenizer, merges = tokenizer.pretokenizer, tokenizer.merges
    corpora = [(config, find_corpora(config)) for config in corpora_of(data_config).values()]
    num_bytes = sum(found.num_bytes for _, found in corpora)
    with reporter.bar(num_bytes, "B", "counting words again") as bar:
        texts = (training_texts(config, found, pretokenizer.safe_cut, bar) for config, found in corpora)
        counts = count_pretokens(
            itertools.chain.from_iterable(texts),
            pretokenizer.special_tokens,
            pattern=pretokenizer.pattern,
            num_workers=data_config.num_workers,
        )
    with reporter.bar(len(merges), "merge", "replaying merges") as bar:
        wrong = verify_merges(counts, merges, bar.update)
    name = f"tokenizer {fill_placeholders(tokenizer_config.tokenizer_dir, data_config)}"
    if wrong:
        advice = "the tokenizer was learned from other text, or not by counting pairs"
        raise DataError(f"{name}: in this corpus {wrong}: {advice}")
    reporter.say(f"{name}: merges verified: {len(merges)} of {len(merges)} are of maximal count")


def all_token_paths(data_config: DataConfig) -> list[Path]:
    """Return the paths of the token files, those of all corpora of a mixture."""
    parts = corpora_of(data_config).values()
    return [path for own in parts for path in token_paths(own, Path(fill_placeholders(own.token_dir, own)))]


def verify_token_files(data_config: DataConfig, reporter: Reporter | None = None) -> None:
    """Read the token files and compare them with the checksums in their sidecars.

    Raises:
        DataError: a file is damaged; one line for each, with the range of bytes.
    """
    verify_files(all_token_paths(data_config), reporter)


def verify_files(paths: Iterable[Path], reporter: Reporter | None = None) -> None:
    """Read token files and compare them with the checksums in their sidecars.

    Raises:
        DataError: as `verify_token_files`.
    """
    reporter = reporter or SilentReporter()
    problems: list[Problem] = []
    for path in paths:
        try:
            file = TokenFile.open(path)
            with reporter.bar(file.tokens.nbytes, "B", f"reading {path.name}") as bar:
                file.verify(bar.update)
        except DataError as error:
            problems += error.problems
        else:
            reporter.say(f"{path}: verified: all {file.num_tokens:,} tokens are as they were written")
    if problems:
        raise DataError(problems)


def token_files_of(paths: Iterable[str]) -> list[Path]:
    """Return token files, and for each folder those in it.

    Raises:
        DataError: a folder holds none.
    """
    found: list[Path] = []
    for path in (Path(path).expanduser() for path in paths):
        own = sorted(path.glob("*.memmap")) if path.is_dir() else [path]
        if not own:
            raise DataError(f"{path}: expected a folder with token files (*.memmap), got none in it")
        found += own
    return found
