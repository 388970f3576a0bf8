"""The benchmark of reading: every contestant finds the same text, and is one line."""

import shutil

import pytest

from benchmarking import bench_read
from tests.benchmarking.tiny_bench import run_bench


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("zstd"), reason="zstd is not installed")
def test_each_contestant_is_one_line(capsys, in_this_process):
    words = [
        "--bench.megabytes=2",
        "--bench.rounds=1",
        "--bench.num_workers=1",
        '--bench.codecs=["gz", "zst"]',
    ]
    status, lines, said = run_bench(bench_read.main, "bench_read.toml", *words, capsys=capsys)
    assert status == 0, said
    found = [(line["bench.codec"], line["bench.work"]) for line in lines]
    assert found == [(codec, name) for codec in ("gz", "zst") for name in bench_read.CONTESTANTS]
    assert all(line["bench.mb_per_second"] > 0 for line in lines)
    assert len({line["bench.text_bytes"] for line in lines}) == 1
