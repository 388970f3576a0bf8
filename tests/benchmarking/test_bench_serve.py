import sys

import pytest

from benchmarking import bench_serve
from tests.benchmarking.tiny_bench import MODEL, run_bench

SHORT = ("num_clients=[1, 3]", "texts_per_client=2", "max_new_tokens=5", "rounds=1", "warmup_rounds=0")
ARGUMENTS = [*(f"--model.{value}" for value in MODEL), *(f"--bench.{value}" for value in SHORT)]


@pytest.mark.slow
def test_each_number_of_clients_and_server_is_one_line(capsys):
    main = bench_serve.main
    peers = ["--bench.peers=[]", "--runtime.num_threads=1"]
    status, lines, said = run_bench(main, "bench_serve.toml", *ARGUMENTS, *peers, capsys=capsys)
    assert status == 0, said
    assert [(line["bench.work"], line["bench.contestant"]) for line in lines] == [
        ("1 clients", "transformerlm"),
        ("3 clients", "transformerlm"),
    ]
    for line in lines:
        assert 0 < line["metrics.first_token_ms"] <= line["metrics.latency_ms"]
        assert line["bench.times_slower_than_ours"] == 1


def test_all_servers_are_asked_the_same_and_others_in_each_round():
    section = bench_serve.BenchSection()
    first = bench_serve.requests(section, 3, 0)
    assert first == bench_serve.requests(section, 3, 0) != bench_serve.requests(section, 3, 1)
    prompts = [request["prompt"] for own in first for request in own]
    assert len(set(prompts)) == 6


def test_a_peer_that_is_not_installed_is_named(capsys, monkeypatch):
    monkeypatch.setattr(bench_serve, "SERVER", "no_such_module")
    assert not bench_serve.is_installed(sys.executable)
    said = capsys.readouterr().err
    assert "does not import no_such_module (ModuleNotFoundError" in said
    assert said.endswith(": llama.cpp is left out\n")
    assert not bench_serve.is_installed("/no/such/python")
    assert "No such file or directory" in capsys.readouterr().err
