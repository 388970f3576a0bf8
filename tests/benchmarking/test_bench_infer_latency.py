import pytest

from benchmarking import bench_infer_latency
from benchmarking.timing import NO_BFLOAT16, has_bfloat16
from tests.benchmarking.tiny_bench import MODEL, run_bench

SHORT = ("prompt_length=4", "max_new_tokens=5", "rounds=2", "warmup_rounds=0", "batch_sizes=[1, 3]")
SHORT += ("long_prompt_length=9", "num_different=6")
SHORT += ('dtypes=["float32", "bfloat16"]',)
ARGUMENTS = [*(f"--model.{value}" for value in MODEL), *(f"--bench.{value}" for value in SHORT)]


@pytest.mark.slow
def test_each_precision_work_and_contestant_is_one_line(capsys, in_this_process):
    peers = ['--bench.peers=["transformers"]', "--runtime.num_threads=1"]
    main = bench_infer_latency.main
    status, lines, said = run_bench(main, "bench_infer.toml", *ARGUMENTS, *peers, capsys=capsys)
    assert status == 0, said
    assert (NO_BFLOAT16 in said) == (not has_bfloat16("auto"))
    works = ["1 x 4", "3 x 4", "first token after 9", "6 of 1 to 11"]
    peers = [] if "is not installed" in said else ["transformers"]
    entrants = {"float32": peers, "bfloat16": peers if has_bfloat16("auto") else []}
    assert [tuple(line[f"bench.{key}"] for key in ("weights", "work", "contestant")) for line in lines] == [
        (dtype, work, name)
        for dtype, others in entrants.items()
        for work in works
        for name in ("transformerlm", *others)
    ]
    for line in lines:
        if line["bench.contestant"] == "transformerlm":
            assert line["bench.times_slower_than_ours"] == 1
        num_tokens = line["bench.batch_size"] * (1 if line["bench.work"].startswith("first") else 5)
        assert line["metrics.tokens_per_second"] == pytest.approx(
            1000 * num_tokens / line["metrics.latency_ms"], 1e-4
        )


def test_texts_that_do_not_fit_the_context_are_refused(capsys):
    wrong = ["--bench.max_new_tokens=13", "--bench.long_prompt_length=16"]
    main = bench_infer_latency.main
    status, _, said = run_bench(main, "bench_infer.toml", *ARGUMENTS, *wrong, capsys=capsys)
    assert status == 2
    assert "[bench].max_new_tokens: expected at most 12" in said
    assert "[bench].long_prompt_length: expected less than" in said


def test_a_peer_that_is_not_installed_is_named(capsys, monkeypatch):
    monkeypatch.setitem(bench_infer_latency.MODULES, "llama.cpp", ("no_such_module",))
    assert bench_infer_latency.installed(["llama.cpp"]) == []
    assert capsys.readouterr().err == "no_such_module is not installed: llama.cpp is left out\n"
