import json

import numpy as np
import pytest

from tests.report.written_runs import records, write_run
from transformerlm.logging import MetricsFile, names
from transformerlm.report.metrics import MetricsReader, number, read_metrics


def test_all_values_are_read_exactly(tmp_path):
    run = write_run(tmp_path / "run", 50, changes={100: {names.LOSS: float("nan")}})
    metrics = read_metrics(run / "metrics.jsonl")
    for name in (names.LOSS, names.GRAD_L2_NORM, names.VAL_LOSS):
        expected = records(run, name)
        assert metrics[name].steps.tolist() == list(expected)
        assert np.array_equal(metrics[name].values, list(expected.values()), equal_nan=True)
    assert metrics.last_step == 500
    assert len(metrics["metrics.unknown"]) == 0


def test_time_follows_from_tokens_and_throughput(tmp_path):
    with MetricsFile(tmp_path / "metrics.jsonl") as file:
        for step, rate in ((10, 100.0), (20, 50.0), (30, float("nan"))):
            file.log({names.TOKENS: step * 10, names.TOKENS_PER_SECOND: rate}, step)
    metrics = read_metrics(tmp_path / "metrics.jsonl")
    assert metrics.seconds_at(np.array([0.0, 5, 10, 15, 20, 30])).tolist() == [0, 0.5, 1, 2, 3, 3]
    assert metrics.tokens_at(np.array([5.0, 25.0])).tolist() == [50, 250]
    assert np.isnan(read_metrics(tmp_path / "none.jsonl").seconds_at(np.array([1.0]))).all()


def test_a_file_is_read_as_it_grows_and_again_when_it_goes_back(tmp_path):
    path = tmp_path / "metrics.jsonl"
    reader, file = MetricsReader(path), MetricsFile(path)
    assert len(reader.read()[names.LOSS]) == 0
    file.log({names.LOSS: 3.0}, 1)
    file.log({names.LOSS: 2.0}, 2)
    assert reader.read()[names.LOSS].values.tolist() == [3, 2]
    with path.open("a") as half:
        half.write('{"step": 3, "metrics.lo')
    offset = reader.offset
    assert reader.read()[names.LOSS].values.tolist() == [3, 2]
    assert reader.offset == offset
    file.truncate_after(1)  # as a run does that goes back
    file.log({names.LOSS: 5.0}, 2)
    file.log({names.LOSS: 4.0}, 3)
    assert reader.read()[names.LOSS].values.tolist() == [3, 5, 4]
    assert reader.generation == 1


def test_lines_that_are_no_records_are_left_out(tmp_path):
    lines = ["[]", "{", '{"step": "x", "metrics.loss": 1}', '{"metrics.loss": 1}', '{"step": 1e999}', "\x00"]
    lines += ['{"step": 7, "metrics.loss": [1]}', '{"step": 5, "metrics.loss": "NaN"}', "[" * 100_000]
    lines += [json.dumps({"step": 3, "metrics.loss": 10**400}), '{"step": 4, "metrics.loss": 2}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    loss = read_metrics(tmp_path / "metrics.jsonl")[names.LOSS]
    assert loss.steps.tolist() == [4, 5]
    assert loss.values[0] == 2
    assert np.isnan(loss.values[1])


@pytest.mark.parametrize(
    ("value", "expected"), [(True, None), ([], None), ("x", None), ("-Infinity", -np.inf)]
)
def test_a_logged_value_is_a_number_or_none(value, expected):
    assert number(value) == expected
