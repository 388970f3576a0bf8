"""Whole sweeps: trials that end in every way, and what the sweep makes of them."""

import pytest

from tests.faults.programs import run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found():
    return run("tests.sweep.jobs")


def outcomes(results: dict) -> dict[str, str]:
    return {name: result["outcome"] for name, result in results.items()}


def test_trials_that_diverge_run_out_of_memory_or_are_refused_are_counted_and_the_others_go_on(found):
    results = found["ends"]["results"]
    refused, diverged, failed = (
        {name for name, outcome in outcomes(results).items() if outcome == kind}
        for kind in ("refused", "diverged", "failed")
    )
    # In the order of the grid: lr (good, too high), then d_model (16, 24, too large), then num_heads (2, 3).
    assert refused == {"0001", "0007"}
    assert diverged == {"0006", "0008", "0009"}
    assert failed == {"0004", "0005", "0010", "0011"}
    assert all("num_heads" in results[name]["reason"] for name in refused)
    assert all("memory" in results[name]["reason"] for name in failed)
    assert all("not finite" in results[name]["reason"] for name in diverged)
    assert found["ends"]["statuses"] == [0, 0]


def test_each_run_is_printed_once_as_json(found):
    records = found["ends"]["output"]
    assert sorted(record["sweep.run"] for record in records) == sorted(found["ends"]["results"])
    for record in records:
        value = found["ends"]["results"][record["sweep.run"]]["value"]
        assert record.get("metrics.val_bits_per_byte") == (
            None if value is None else pytest.approx(value, 1e-4)
        )


def test_the_page_has_each_trial_and_why_it_is_where_it_is(found):
    page = found["ends"]["page"]
    for name, result in found["ends"]["results"].items():
        shown = f"{result['value']:.4f}" if result["value"] is not None else result["outcome"]
        assert page.count(f"<title>{name}: {shown} ") == 3, name  # in the chart of each key


def test_a_planted_learning_rate_is_found_and_better_beyond_doubt(found):
    sweep = found["planted"]
    assert sweep["best"] == {"optimizer.lr": 0.01, "training.start_from": None}
    assert sweep["finalists"] == [2, 0]
    (verdict,) = sweep["verdicts"]
    assert verdict.startswith("better by ")
    assert "lr = 0.01" in sweep["config"]
    assert verdict in sweep["config"]


def test_a_run_that_fails_or_is_killed_again_and_again_is_left_out(found):
    results = found["planted"]["results"]
    assert {name for name, outcome in outcomes(results).items() if outcome == "failed"} == {
        *("0001", "0003", "0004", "0005")
    }
    assert "SIGKILL 3 times" in results["0004"]["reason"]
    assert "nowhere" in results["0001"]["reason"]


def test_a_sweep_goes_on_only_with_what_it_was_begun_with(found):
    (line,) = found["planted"]["refused"]
    assert line.startswith("[sweep].[space].optimizer.lr: ")


def test_a_full_disk_stops_the_sweep_and_no_trial_counts_as_failed(found):
    assert found["stopped_by_the_disk"] == {"status": 74, "before": {}, "then": 0}


def test_a_second_scheduler_is_refused(found):
    assert found["locked"] == {"status": 0, "second": 75}
