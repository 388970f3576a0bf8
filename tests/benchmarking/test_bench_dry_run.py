"""What eight ranks would hold and send, beside the formulas of the docs."""

import pytest

from benchmarking import bench_dry_run as dry_run
from transformerlm.config import ModelConfig, RuntimeConfig

CONFIG = dry_run.DryRunConfig(
    dry_run=dry_run.DryRunSection(num_ranks=8, batch_size=32, micro_batch_size=2),
    model=ModelConfig(vocab_size=512, context_length=64, d_model=64, num_layers=4, num_heads=4, d_ff=160),
    runtime=RuntimeConfig(dtype="float32", kernels=False, sharding="full"),
)


def test_what_is_counted_is_what_the_formulas_say():
    counted = dry_run.count(CONFIG)
    parameters = counted.parameters
    assert counted.weights == pytest.approx(4 * parameters / 8, rel=0.01)
    assert counted.optimizer == pytest.approx(8 * parameters / 8, rel=0.01)
    # In each of two micro-batches all but what stays whole is gathered twice, and summed once.
    most = 2 * 4 * (2 + 1) * parameters * 7 / 8
    assert 0.7 * most < counted.sent < most
    lines = dry_run.report(CONFIG, counted)
    assert lines[0].startswith(f"{parameters:,} parameters on 8 ranks, 2 micro-batches")
    assert len(lines) == 9
