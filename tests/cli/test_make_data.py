import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.mixtures import write_corpora
from transformerlm.cli import make_data
from transformerlm.data import TokenFile
from transformerlm.tokenizer import Tokenizer

WORDS = ["--data.corpus=fables", "--tokenizer.vocab_size=300"]
FILES = ["train.memmap", "train.memmap.json", "val.memmap", "val.memmap.json"]


def test_it_makes_token_files_that_decode_to_the_corpus(workplace, capfd):
    assert make_data.main(WORDS) == 0
    out, err = capfd.readouterr()
    assert out == ""
    assert "token files in data/fables: made" in err
    tokenizer = Tokenizer.from_dir("data/fables/tokenizer")
    texts = []
    for name in ("train", "val"):
        file = TokenFile.open(f"data/fables/{name}.memmap")
        texts += tokenizer.decode(np.array(file.tokens)).split("<|endoftext|>")[:-1]
        assert (
            json.loads(Path(f"data/fables/{name}.memmap.json").read_text())["num_tokens"] == file.num_tokens
        )
    assert sorted(texts) == sorted(path.read_text() for path in Path("fables").iterdir())


def test_a_changed_corpus_is_refused(workplace, capfd):
    make_data.main(WORDS)
    Path("fables/new.txt").write_text("A new one.")
    capfd.readouterr()
    assert make_data.main(WORDS) == 3
    err = capfd.readouterr().err
    assert "100 files" in err
    assert "101 files" in err


EVERY_WAY = """
import sys
from pathlib import Path
from transformerlm.config import DataConfig
from transformerlm.data import build, make_data
from transformerlm.tokenizer import Tokenizer

build.WORKER_BYTES = 1
tokenizer = Tokenizer.from_dir("tok")
for num_workers, chunk_bytes in ((1, 700), (2, 5000), (4, 700), (3, 2**19)):
    config = DataConfig(corpus="fables", num_workers=num_workers)
    folder = Path(sys.argv[1], f"{num_workers}-{chunk_bytes}")
    make_data(config, tokenizer, folder, chunk_bytes=chunk_bytes, commit_bytes=3 * chunk_bytes)
"""


@pytest.mark.slow
def test_workers_chunks_hash_seeds_and_kernels_change_no_byte(workplace):
    """Both files and their sidecars, from real processes with hash seeds of their own."""
    assert make_data.main([*WORDS, "--data.token_dir=d", "--tokenizer.tokenizer_dir=tok"]) == 0
    expected = {name: Path("d", name).read_bytes() for name in FILES}
    for seed, kernels in (("0", "always"), ("4294967295", "never")):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "TRANSFORMERLM_KERNELS": kernels}
        subprocess.run([sys.executable, "-c", EVERY_WAY, seed], env=environment, check=True)
        folders = list(Path(seed).iterdir())
        assert len(folders) == 4
        for folder in folders:
            assert {name: (folder / name).read_bytes() for name in FILES} == expected


FORKS = """
import os, sys
from transformerlm.cli import make_data
import transformerlm.data.build, transformerlm.data.prepare  # imported once, before the forks

children = []
for number, words in enumerate(line.split("|") for line in sys.stdin.read().splitlines()):
    children.append(os.fork())
    if children[-1] == 0:
        errors = os.open(f"errors{number}", os.O_WRONLY | os.O_CREAT)
        os.dup2(errors, 2)
        os._exit(make_data.main(words))
for child in children:
    _, status, usage = os.wait4(child, 0)
    print(os.waitstatus_to_exitcode(status), 1024 * usage.ru_maxrss)
"""


def run_at_once(*commands):
    """The exit status, peak memory and stderr of each of these commands, run at once by forked processes."""
    lines = "\n".join("|".join(words) for words in commands)
    done = subprocess.run(
        [sys.executable, "-c", FORKS], input=lines, capture_output=True, text=True, check=True, timeout=120
    )
    found = [map(int, line.split()) for line in done.stdout.splitlines()]
    errors = [Path(f"errors{number}").read_text() for number in range(len(commands))]
    return [(*numbers, error) for numbers, error in zip(found, errors, strict=True)]


def test_of_several_started_at_once_one_makes_it_and_the_others_wait(workplace):
    statuses, _, errors = zip(*run_at_once(*[WORDS] * 4), strict=True)
    assert statuses == (0,) * 4, errors
    for what in ("tokenizer data/fables/tokenizer", "token files in data/fables"):
        assert sorted(re.search(f"{what}: (made|reused)", error)[1] for error in errors) == [
            "made",
            *["reused"] * 3,
        ]
    for name in FILES[::2]:
        TokenFile.open(Path("data/fables", name)).verify()


def test_verify_reads_it_all(workplace, capfd):
    assert make_data.main([*WORDS, "--verify"]) == 0
    assert capfd.readouterr().err.count("verified: all") == 2
    path = Path("data/fables/val.memmap")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)
    assert make_data.main(WORDS) == 0  # opening reads nothing
    capfd.readouterr()
    assert make_data.main([*WORDS, "--verify"]) == 3
    *_, line = capfd.readouterr().err.splitlines()
    assert line.startswith(f"{path}: damaged: bytes 0 to {len(content)} are not those that were written")


def test_folders_that_are_missing_with_spaces_and_in_any_script(workplace, capfd):
    Path("my fables").symlink_to("fables")
    folder = Path("nowhere yet", "Äsops  Fabeln", "寓言 ✓")
    words = ["--data.corpus=my fables", f"--data.token_dir={folder}"]
    words += [f"--tokenizer.tokenizer_dir={folder}/un deux", "--tokenizer.vocab_size=300"]
    for expected in ("made", "reused"):
        assert make_data.main(words) == 0
        assert f"token files in {folder}: {expected}" in capfd.readouterr().err
    assert make_data.main(WORDS) == 0
    for name in FILES[::2]:
        assert (folder / name).read_bytes() == Path("data/fables", name).read_bytes()


def test_what_is_made_within_the_corpus_is_no_part_of_it(workplace, capfd):
    words = [*WORDS, "--data.token_dir=fables/tokens", "--tokenizer.tokenizer_dir=fables/tok"]
    for expected in ("made", "reused", "reused"):
        assert make_data.main(words) == 0
        assert f"token files in fables/tokens: {expected}" in capfd.readouterr().err
        (Path("fables", "tokens", ".unfinished")).mkdir()  # as if killed
    assert make_data.main(WORDS) == 0
    assert Path("fables/tokens/train.memmap").read_bytes() == Path("data/fables/train.memmap").read_bytes()


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (["--data.corpus=d/train.memmap"], 2, "[data].token_dir: expected a folder whose files may"),
        (["--data.corpus=tok/merges.txt", "--tokenizer.tokenizer_dir=tok"], 2, "[tokenizer].tokenizer_dir: "),
        (["--data.token_dir=fables/ant-crow.txt"], 74, "fables/ant-crow.txt: File exists"),
    ],
)
def test_what_would_be_overwritten_is_refused_in_a_line_and_stays(workplace, capfd, words, status, line):
    text = Path("fables/ant-crow.txt").read_text()
    for path in (Path("d/train.memmap"), Path("tok/merges.txt")):
        path.parent.mkdir()
        path.write_text(text * 50)
    first = ["--data.corpus=fables", "--tokenizer.vocab_size=300", "--data.token_dir=d"]
    assert make_data.main([*first, "--tokenizer.tokenizer_dir=other", *words]) == status
    assert line in capfd.readouterr().err.splitlines()[-1]
    assert Path("d/train.memmap").read_text() == Path("tok/merges.txt").read_text() == text * 50
    assert Path("fables/ant-crow.txt").read_text() == text


def words_for_one_line(num_bytes):
    """The command's arguments for a text of one line of that length."""
    line = "the cat's on the mat, isn't it? The 12 cats — das Mädchen, 漢字。 "
    folder = Path(str(num_bytes))
    folder.mkdir()
    (folder / "line.txt").write_text(line * (num_bytes // len(line.encode()) + 1))
    words = [f"--data.corpus={folder}/line.txt", f"--data.token_dir={folder}/d", "--data.num_workers=1"]
    return [*words, "--tokenizer.tokenizer_dir=anybody's", "--tokenizer.vocab_size=300"]


@pytest.mark.slow
@pytest.mark.parametrize("num_bytes", [10**7, pytest.param(10**8, marks=pytest.mark.endurance)])
def test_one_line_of_any_length_is_encoded_in_bounded_memory(workplace, num_bytes):
    """Measured against a line that is a tenth of 10 MB, with the tokenizer there already."""
    assert make_data.main([*WORDS, "--tokenizer.tokenizer_dir=tok"]) == 0
    Tokenizer.from_dir("tok").save("anybody's")  # it says nothing of a corpus, so it suits every one
    sizes = (10**6, num_bytes)
    statuses, peaks, errors = zip(*run_at_once(*map(words_for_one_line, sizes)), strict=True)
    assert statuses == (0, 0), errors
    for size in sizes:
        files = [TokenFile.open(Path(str(size), "d", name)) for name in FILES[::2]]
        assert sum(file.num_bytes for file in files) == Path(str(size), "line.txt").stat().st_size
    assert peaks[1] - peaks[0] < 40 * 2**20


def test_a_mixture_has_a_folder_for_each_corpus_and_is_verified(tmp_path, monkeypatch, capfd):
    write_corpora(tmp_path)
    monkeypatch.chdir(tmp_path)
    parts = '[{path = "books", weight = 1}, {path = "notes.jsonl", passes = 2, name = "my-notes"}]'
    words = [f"--data.mixture={parts}", "--tokenizer.vocab_size=300"]
    assert make_data.main(words) == 0
    assert "token files in data/books+my-notes/my-notes: made" in capfd.readouterr().err
    assert make_data.main([*words, "--data.mixture.0.weight=7", "--verify"]) == 0
    said = capfd.readouterr().err
    assert said.count(": reused") == 3
    assert said.count(": verified: all ") == 4
    assert make_data.main([*words, "--data.mixture.1.path=nowhere", "--data.mixture.1.name=other"]) == 3
    assert "[data].mixture.1.path: expected a file, a folder" in capfd.readouterr().err
