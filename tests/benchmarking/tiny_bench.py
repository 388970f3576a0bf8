"""Benchmarks on models and texts of the smallest size, run in this process."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODEL = ("vocab_size=300", "context_length=16", "d_model=16", "num_layers=1", "num_heads=2", "d_ff=16")


def run_bench(main, config, *arguments, capsys):
    """Return the exit status, the records on stdout, and what was said on stderr."""
    capsys.readouterr()
    status = main(["--config", str(ROOT / "configs" / config), *arguments])
    printed = capsys.readouterr()
    return status, [json.loads(line) for line in printed.out.splitlines()], printed.err
