"""Several ranks against one process, for real: torchrun starts them, and the bytes are compared."""

import contextlib
import io
import json
import os
import random
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from transformerlm.cli import make_data, train_tokenizer
from transformerlm.distributed.collectives import (
    all_gather_bytes,
    barrier,
    broadcast_bytes,
    collective_errors,
    gathered,
    heartbeat,
    process_group,
)
from transformerlm.distributed.world import SINGLE_PROCESS
from transformerlm.errors import DataError

EOT = "<|endoftext|>"
SCRIPT = Path(__file__).parents[1] / "distributed" / "ranks_at_work.py"
COMMANDS = {"make_data": make_data, "train_tokenizer": train_tokenizer}

ranks = pytest.mark.distributed
several = pytest.mark.parametrize("place", [2, pytest.param(4, marks=pytest.mark.slow)], indirect=True)

MADE = {
    "by_document": (
        "make_data",
        "always",
        ["--data.corpus={corpora}/mixed", "--data.validation_fraction=0.3"],
    ),
    "by_document_plainly": (
        "make_data",
        "never",
        ["--data.corpus={corpora}/mixed", "--data.validation_fraction=0.3", "--data.num_workers=2"],
    ),
    "by_tail": (
        "make_data",
        "never",
        ["--data.corpus={corpora}/mixed", "--data.validation_split=tail", "--data.num_workers=1"],
    ),
    "lines": ("make_data", "always", ["--data.corpus={corpora}/mixed/lines.jsonl"]),
    "other_corpus": (
        "make_data",
        "always",
        ["--data.corpus={corpora}/mixed", "--data.validation_corpus={corpora}/other/*.txt"],
    ),
    "one_long_document": (
        "make_data",
        "always",
        ["--data.corpus={corpora}/mixed/long.txt", "--data.document_separator="],
    ),
    "no_validation": (
        "make_data",
        "always",
        ["--data.corpus={corpora}/other", "--data.validation_fraction=0", "--data.include=*.txt"],
    ),
    "overlapping_separator": (
        "make_data",
        "never",
        [
            "--data.corpus={corpora}/mixed",
            "--data.document_separator=%%",
            '--tokenizer.special_tokens=["%%"]',
            "--data.num_workers=1",
        ],
    ),
    "tokenizer": ("train_tokenizer", "always", ["--data.corpus={corpora}/mixed"]),
    "tokenizer_plainly": ("train_tokenizer", "never", ["--data.corpus={corpora}/mixed"]),
    "tokenizer_of_another_pattern": (
        "train_tokenizer",
        "always",
        ["--data.corpus={corpora}/mixed", r"--tokenizer.pattern=\p{L}+|\P{L}+", "--data.num_workers=1"],
    ),
    "tokenizer_verified": ("train_tokenizer", "always", ["--data.corpus={corpora}/mixed", "--verify"]),
}
"""Name -> command, kernels, arguments of what has to become the same files."""

REFUSED = {
    "bad_byte": (3, ["--data.corpus={corpora}/bad"]),
    "bad_line": (3, ["--data.corpus={corpora}/bad.jsonl"]),
    "bad_file_and_no_tokenizer_yet": (3, ["--data.corpus={corpora}/bad", "--data.validation_split=document"]),
    "no_corpus": (3, ["--data.corpus={corpora}/nowhere"]),
    "nothing_to_validate_on": (3, ["--data.corpus={corpora}/short.txt", "--data.validation_split=document"]),
    "no_such_separator": (3, ["--data.corpus={corpora}/mixed", "--data.document_separator=<|x|>"]),
    "no_such_key": (2, ["--data.corpora={corpora}/mixed"]),
    "a_file_for_a_folder": (74, ["--data.corpus={corpora}/mixed", "--data.token_dir={corpora}/short.txt/x"]),
}
"""Name -> exit status, arguments of what has to be refused in the same words."""


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora")
    generator = random.Random(0)
    words = ["the", " cat", "'s", " on", " mat", " 漢字", ".", "\n", "\n\n", " 123", "é", "  ", "%%", " %%%"]

    def story():
        return "".join(generator.choices(words, k=generator.randint(5, 80)))

    for name in ("mixed", "other", "bad"):
        (folder / name).mkdir()
        (folder / name / "lines.jsonl").write_text(
            "\n".join(json.dumps({"text": story()}) for _ in range(80))
        )
        (folder / name / "long.txt").write_text(" ".join(story() for _ in range(150)))
        for number in range(3):
            (folder / name / f"stories{number}.txt").write_text(EOT.join(story() for _ in range(80)))
    with (folder / "bad" / "long.txt").open("ab") as file:
        file.write(b" \xff " + b"text " * 100)
    (folder / "bad.jsonl").write_text(
        '{"text": "one"}\n' * 300 + '{"txt": "two"}\n' + '{"text": "one"}\n' * 300
    )
    (folder / "short.txt").write_text("one text")
    return folder


def case_of(command, arguments, corpora, folder, kernels="always"):
    """A case for one process or for ranks: what differs is the folder of the results."""
    first = [f"--tokenizer.tokenizer_dir={folder}/tokenizer", "--tokenizer.vocab_size=320"]
    first += [f"--data.token_dir={folder}/tokens"] if command == "make_data" else []
    arguments = [*first, *(argument.replace("{corpora}", str(corpora)) for argument in arguments)]
    return {"command": command, "arguments": arguments, "kernels": kernels, "piece_bytes": 2000}


def all_cases(corpora, folder):
    cases = {
        name: case_of(command, arguments, corpora, folder / name, kernels)
        for name, (command, kernels, arguments) in MADE.items()
    }
    for name, (_, arguments) in REFUSED.items():
        cases[name] = case_of("make_data", arguments, corpora, folder / name)
    own = folder / "own{rank}"
    cases["folders_of_their_own"] = case_of("make_data", MADE["by_document"][2], corpora, own)
    for name in ("larger", "damaged"):
        arguments = [f"--data.corpus={folder}/{name}{{rank}}"]
        cases[f"a_{name}_copy"] = case_of("make_data", arguments, corpora, folder / f"a_{name}_copy")
    return {**cases, "made_again": cases["by_document"]}


def write_copies(folder, num_ranks):
    """A corpus for each rank; the last rank's is another one."""
    for rank in range(num_ranks):
        is_last = rank == num_ranks - 1
        for name, other in (("larger", b"more"), ("damaged", b"\xff")):
            (folder / f"{name}{rank}").mkdir()
            content = b"a story<|endoftext|>" * 1000
            content = content + other if is_last and name == "larger" else content
            content = content[:-1] + other if is_last and name == "damaged" else content
            (folder / f"{name}{rank}" / "a.txt").write_bytes(content)


def torchrun(num_ranks, *arguments, where=("--standalone",)):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        *where,
        "--nproc-per-node",
        num_ranks,
        *arguments,
    ]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(list(map(str, command)), env={**os.environ, "OMP_NUM_THREADS": "1"}, **options)


@pytest.fixture(scope="module")
def place(request, tmp_path_factory, corpora):
    """The folder in which so many ranks have worked on all cases."""
    folder = tmp_path_factory.mktemp(f"ranks{request.param}")
    write_copies(folder, request.param)
    (folder / "cases.json").write_text(json.dumps(all_cases(corpora, folder)))
    process = torchrun(request.param, SCRIPT, folder)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return folder


def of_ranks(folder, name):
    """Of a case: the exit status of each rank, and what each has printed."""
    paths = sorted(folder.glob(f"{name}.*.status"))
    outputs = [path.with_suffix(".output").read_text() for path in paths]
    return [int(path.read_text()) for path in paths], outputs


def alone(command, arguments, corpora, folder, kernels="always"):
    """The same by one process, with pieces of the usual size: exit status and output."""
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(output):
        patch.setenv("TRANSFORMERLM_KERNELS", kernels)
        status = COMMANDS[command].main(case_of(command, arguments, corpora, folder)["arguments"])
    return status, output.getvalue()


def content_of(folder):
    """All files but locks, which say who held them last."""
    found = [path for path in Path(folder).rglob("*") if path.is_file() and path.name != ".lock"]
    files = {path.relative_to(folder): path for path in found}
    return {name: path.read_bytes() for name, path in files.items()}


@ranks
@several
@pytest.mark.parametrize("name", MADE)
def test_ranks_make_the_bytes_that_one_process_makes(place, corpora, tmp_path, name):
    command, kernels, arguments = MADE[name]
    status, output = alone(command, arguments, corpora, tmp_path / name, kernels)
    expected = content_of(tmp_path)
    assert status == 0
    assert len(expected) in (3, 5, 7)
    assert {key: content for key, content in content_of(place).items() if key.parts[0] == name} == expected
    statuses, outputs = of_ranks(place, name)
    assert set(statuses) == {0}
    assert outputs == [output.replace(str(tmp_path), str(place)), *[""] * (len(statuses) - 1)]


@ranks
@several
@pytest.mark.parametrize("name", REFUSED)
def test_what_one_process_refuses_ranks_refuse_once_in_the_same_words(place, corpora, tmp_path, name):
    expected, arguments = REFUSED[name]
    status, output = alone("make_data", arguments, corpora, tmp_path / name)
    statuses, outputs = of_ranks(place, name)
    assert status == expected
    assert set(statuses) == {expected}
    assert outputs == [output.replace(str(tmp_path), str(place)), *[""] * (len(statuses) - 1)]
    assert not list(place.glob(f"{name}/tokens/*"))


@ranks
@several
def test_what_is_there_is_reused(place):
    statuses, outputs = of_ranks(place, "made_again")
    assert set(statuses) == {0}
    assert outputs[0].count("reused") == 2


@ranks
@several
def test_only_rank_0_writes_and_the_others_need_not_see_its_files(place):
    statuses, outputs = of_ranks(place, "folders_of_their_own")
    assert set(statuses) == {0}
    assert outputs[0].count("made") == 2
    assert content_of(place / "own0") == content_of(place / "by_document")
    assert not (place / "own1").exists()


@ranks
@several
def test_one_rank_s_trouble_is_everybody_s(place):
    last = len(list(place.glob("by_tail.*.status"))) - 1
    for name, words in (
        ("a_larger_copy", f"on rank 0 and 1 file, 20004 bytes, names and sizes .* on rank {last}"),
        ("a_damaged_copy", f"damaged{last}/a.txt: expected UTF-8, but byte 19999 is 0xff"),
    ):
        statuses, outputs = of_ranks(place, name)
        assert set(statuses) == {3}
        assert re.search(words, outputs[0])
        assert outputs[0].count("\n") == 1
        assert not any(outputs[1:])


@ranks
def test_a_bad_file_ends_the_command_with_one_line(corpora, tmp_path):
    arguments = case_of("make_data", ["--data.corpus={corpora}/bad"], corpora, tmp_path)["arguments"]
    process = torchrun(2, "-m", "transformerlm.cli.make_data", *arguments)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert errors.count("bad/long.txt: expected UTF-8, but byte ") == 1
    assert "exitcode  : 3" in errors
    assert not content_of(tmp_path)


def lone_case(corpora, folder, kernels="always", **options):
    """One case for ranks_at_work.py, with nothing after it."""
    arguments = ["--data.corpus={corpora}/mixed", "--data.num_workers=2"]
    case = case_of("make_data", arguments, corpora, folder / "result", kernels)
    (folder / "cases.json").write_text(json.dumps({"case": {**case, **options}}))
    return folder / "result" / "tokens"


@ranks
@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["always", "never"])
def test_a_killed_rank_ends_the_others_and_nothing_half_written_is_left(corpora, tmp_path, kernels):
    tokens = lone_case(corpora, tmp_path, kernels, killed_at=2)
    process = torchrun(3, SCRIPT, tmp_path)
    _, errors = process.communicate(timeout=120)
    ended = time.time()
    assert process.returncode == 1
    assert ended - float((tmp_path / "case.2.killed").read_text()) < 10
    assert "Signal 9 (SIGKILL)" in errors
    assert not content_of(tokens)


@ranks
@pytest.mark.slow
def test_torchrun_s_own_end_is_the_ranks_end_and_nothing_half_written_is_left(corpora, tmp_path):
    tokens = lone_case(corpora, tmp_path, seconds=2)
    process = torchrun(2, SCRIPT, tmp_path)
    deadline = time.time() + 60
    while not (tokens.exists() and list(tokens.iterdir())) and time.time() < deadline:
        time.sleep(0.1)
    assert list(tokens.iterdir())
    process.terminate()
    terminated = time.time()
    process.communicate(timeout=120)
    assert time.time() - terminated < 10
    assert not content_of(tokens)


def two_nodes(*arguments):
    """Two machines of one rank each, which both are this one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = ["--nnodes", 2, "--master-addr", "127.0.0.1", "--master-port", free.getsockname()[1]]
    return [torchrun(1, *arguments, where=[*address, "--node-rank", node]) for node in range(2)]


@ranks
@pytest.mark.slow
def test_two_nodes_make_the_bytes_that_one_process_makes(corpora, tmp_path):
    command, _, arguments = MADE["by_document"]
    assert alone(command, arguments, corpora, tmp_path / "alone")[0] == 0
    arguments = case_of(command, arguments, corpora, tmp_path / "nodes")["arguments"]
    nodes = two_nodes("-m", "transformerlm.cli.make_data", *arguments)
    errors = [node.communicate(timeout=120)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], errors
    assert content_of(tmp_path / "nodes") == content_of(tmp_path / "alone")
    assert (errors[0].count("made"), errors[1].count("made")) == (2, 0)


@ranks
@pytest.mark.slow
def test_a_rank_killed_on_one_node_ends_those_of_the_other(corpora, tmp_path):
    tokens = lone_case(corpora, tmp_path, killed_at=2)
    nodes = two_nodes(SCRIPT, tmp_path)
    for node in nodes:
        node.communicate(timeout=120)
    assert time.time() - float((tmp_path / "case.1.killed").read_text()) < 10
    assert [node.returncode for node in nodes] == [1, 1]
    assert "another rank has ended, or cannot be reached" in (tmp_path / "case.0.output").read_text()
    assert not content_of(tokens)


def test_alone_nothing_is_exchanged(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it would fail
    with process_group(SINGLE_PROCESS), collective_errors(SINGLE_PROCESS):
        assert list(gathered(SINGLE_PROCESS, iter([b"one", b"two"]))) == [b"one", b"two"]
        assert all_gather_bytes(SINGLE_PROCESS, b"one") == [b"one"]
        assert broadcast_bytes(SINGLE_PROCESS, b"one") == b"one"
        barrier(SINGLE_PROCESS)
        heartbeat(SINGLE_PROCESS)()
    with pytest.raises(DataError), collective_errors(SINGLE_PROCESS):
        raise DataError("one's own")
