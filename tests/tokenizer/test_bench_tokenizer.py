"""The benchmark runs, says what it leaves out, and writes nothing but lines of JSON on stdout."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_contestant_works_on_a_corpus(tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("A few words, and 1234 numbers; naïve 中文 <|endoftext|> it's\n\n  the end. " * 20)
    options = {
        "corpora": f'["{corpus}", "{tmp_path / "nowhere"}"]',
        "rounds": "1",
        "train_vocab_size": "300",
        "vocab_path": str(tmp_path / "vocab.json"),
        "merges_path": str(tmp_path / "merges.txt"),
    }
    command = [
        sys.executable,
        "-m",
        "benchmarking.bench_tokenizer",
        "--config",
        "configs/bench_tokenizer.toml",
    ]
    command += [f"--bench.{key}={value}" for key, value in options.items()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    contestants = {(line["bench.work"], line["bench.contestant"]) for line in lines}
    assert contestants >= {
        (work, name)
        for work in ("train", "encode", "decode")
        for name in ("transformerlm", "tokenizers", "tiktoken")
        if (work, name) != ("train", "tiktoken")
    }
    assert all(line["bench.equal_to_ours"] for line in lines if line["bench.work"] != "train")
    assert all(line["metrics.megabytes_per_second"] > 0 for line in lines)
    assert f"{tmp_path / 'nowhere'}: not found or empty, left out" in done.stderr
    assert "a vocabulary is trained instead" in done.stderr
