"""Is a tokenizer what its corpus makes of it, and are token files what was written? Slow checks, on demand.

That of a tokenizer goes from the text on and takes nothing on trust: it shares reading and dividing the
text with what it checks, and neither the kernels nor the trainer. That of token files reads every byte.
"""

from __future__ import annotations

from pathlib import Path

from transformerlm.config import CorpusConfig, DataConfig, TokenizerConfig
from transformerlm.data.build import token_paths
from transformerlm.data.corpus import find_corpora
from transformerlm.data.prepare import fill_placeholders, training_texts
from transformerlm.data.token_file import TokenFile
from transformerlm.errors import DataError
from transformerlm.progress import Reporter, SilentReporter
from transformerlm.tokenizer import Tokenizer, verify_merges
from transformerlm.tokenizer.train import count_pretokens


def verify_tokenizer(
    data: CorpusConfig, config: TokenizerConfig, tokenizer: Tokenizer, reporter: Reporter | None = None
) -> None:
    """Count the training split in plain Python and replay the merges: each has to be of maximal count.

    Takes some 3 seconds for 4 MB of source code and 10,000 ids, on one core.

    Raises:
        DataError: the first merge that is not, or a corpus that cannot be read.
    """
    reporter = reporter or SilentReporter()
    pretokenizer, merges = tokenizer.pretokenizer, tokenizer.merges
    corpora = find_corpora(data)
    with reporter.bar(corpora.num_bytes, "B", "counting words again") as bar:
        texts = training_texts(data, corpora, pretokenizer.safe_cut, bar)
        counts = count_pretokens(
            texts,
            pretokenizer.special_tokens,
            pattern=pretokenizer.pattern,
            num_workers=data.num_workers,
        )
    with reporter.bar(len(merges), "merge", "replaying merges") as bar:
        wrong = verify_merges(counts, merges, bar.update)
    name = f"tokenizer {fill_placeholders(config.tokenizer_dir, data)}"
    if wrong:
        advice = "the tokenizer was learned from other text, or not by counting pairs"
        raise DataError(f"{name}: in this corpus {wrong}: {advice}")
    reporter.say(f"{name}: merges verified: {len(merges)} of {len(merges)} are of maximal count")


def verify_token_files(data: DataConfig, reporter: Reporter | None = None) -> None:
    """Read the token files and compare them with the checksums that were taken when they were written.

    Raises:
        DataError: one line for each file that is not what was written, with the bytes that are wrong.
    """
    reporter = reporter or SilentReporter()
    lines = []
    for path in token_paths(data, Path(fill_placeholders(data.token_dir, data))):
        try:
            file = TokenFile.open(path)
            with reporter.bar(file.tokens.nbytes, "B", f"reading {path.name}") as bar:
                file.verify(bar.update)
        except DataError as error:
            lines += error.lines
        else:
            reporter.say(f"{path}: verified: all {file.num_tokens:,} tokens are as they were written")
    if lines:
        raise DataError(lines)
