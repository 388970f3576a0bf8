import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from transformerlm.cli import train_tokenizer
from transformerlm.tokenizer import Tokenizer, kernel_library, train_bpe_from_texts
from transformerlm.tokenizer.kernel_library import CHOICE_VARIABLE

WORDS = ["--data.corpus=fables", "--tokenizer.vocab_size=300"]


def test_it_trains_a_tokenizer_and_reuses_it(workplace, capfd):
    assert train_tokenizer.main(WORDS) == 0
    out, err = capfd.readouterr()
    assert out == ""
    assert "tokenizer data/fables/tokenizer: made (300 ids)" in err
    tokenizer = Tokenizer.from_dir("data/fables/tokenizer")
    assert tokenizer.vocab_size == 300
    assert tokenizer.special_token_ids == {"<|endoftext|>": 299}
    text = Path("fables/fox-crow.txt").read_text()
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert train_tokenizer.main(WORDS) == 0
    assert "reused" in capfd.readouterr().err


def test_a_pattern_that_does_not_compile_is_a_config_error(workplace, capfd):
    assert train_tokenizer.main([*WORDS, "--tokenizer.pattern=("]) == 2
    assert capfd.readouterr().err.count("\n") == 1
    assert not Path("data").exists()


def test_a_text_with_little_to_merge_gives_a_smaller_vocabulary_and_says_so(workplace, capfd):
    Path("short.txt").write_text("abc abc abc")
    words = ["--data.corpus=short.txt", "--tokenizer.vocab_size=1000", "--data.validation_fraction=0"]
    assert train_tokenizer.main(words) == 0
    assert "fewer than asked for" in capfd.readouterr().err


def test_verify_checks_what_it_trains_and_what_is_there_already(workplace, capfd):
    for made in ("made", "reused"):
        assert train_tokenizer.main(["--verify", *WORDS]) == 0
        out, err = capfd.readouterr()
        assert out == ""
        assert f"tokenizer data/fables/tokenizer: {made} (300 ids" in err
        assert "tokenizer data/fables/tokenizer: merges verified: 43 of 43 are of maximal count\n" in err


def test_verify_refuses_a_tokenizer_of_other_text_with_one_line_and_status_3(workplace, capfd):
    vocab, merges = train_bpe_from_texts(["zq zq zq"], 259, ["<|endoftext|>"])
    Tokenizer(vocab, merges, ["<|endoftext|>"]).save("other")
    assert train_tokenizer.main([*WORDS, "--tokenizer.tokenizer_dir=other"]) == 0
    capfd.readouterr()
    assert train_tokenizer.main([*WORDS, "--tokenizer.tokenizer_dir=other", "--verify"]) == 3
    reused, line = capfd.readouterr().err.splitlines()
    assert reused == "tokenizer other: reused (259 ids)"
    assert line.startswith(
        "tokenizer other: in this corpus merge 0 is of (b'z', b'q'), which occurs 0 times, while"
    )


@pytest.mark.slow
@pytest.mark.parametrize("num_kills", [20, pytest.param(200, marks=pytest.mark.endurance)])
def test_a_killed_training_leaves_a_whole_tokenizer_or_none(tmp_path, num_kills):
    program = Path(__file__).with_name("killed_tokenizers.py")
    command = [sys.executable, str(program), str(tmp_path), str(num_kills)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    seen = json.loads(done.stdout)
    print(seen)
    committed = seen["committed"]
    assert committed["kills"] == num_kills
    assert committed["torn"] == 0
    # What is whole loads; the next start makes the same bytes and leaves nothing over.
    assert committed["wrong"] == []
    assert committed["while_writing"] > num_kills / 20
    assert committed["temporaries"] > 0  # some kills hit the middle of it
    assert seen["in_place"]["torn"] > 0  # files that are written in place are found out


MANY_WAYS = """
import functools, hashlib, sys
from pathlib import Path
from transformerlm.cli.train_tokenizer import main
from transformerlm.data import prepare
from transformerlm.tokenizer import train

corpus_items, made = prepare.corpus_items, set()
for num_workers, chunk_bytes in ((1, 3_000), (2, 20_000), (4, 3_000), (3, 1 << 20)):
    prepare.corpus_items = functools.partial(corpus_items, chunk_bytes=chunk_bytes)
    train.CHUNK_BYTES = chunk_bytes
    folder = Path(sys.argv[1], f"{num_workers}-{chunk_bytes}")
    words = [f"--data.num_workers={num_workers}", f"--tokenizer.tokenizer_dir={folder}"]
    assert main(["--data.corpus=corpus", "--tokenizer.vocab_size=600", *words]) == 0
    contents = [(folder / name).read_bytes() for name in ("vocab.json", "merges.txt", "manifest.json")]
    made.add(hashlib.sha256(b"".join(contents)).hexdigest())
print(*made)
"""


def write_words(path, num_bytes, line_end, num_words=3000):
    """About so many bytes of text in which many words are equally frequent."""
    generator = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyzäé漢1'. "
    words = ["".join(generator.choices(letters, k=generator.randint(1, 12))) for _ in range(num_words)]
    block = (" ".join(generator.choices(words, k=min(10_000, num_bytes // 10))) + line_end).encode()
    with path.open("wb") as file:
        for _ in range(max(1, num_bytes // len(block))):
            file.write(block)


@pytest.mark.slow
def test_workers_chunks_hash_seeds_and_kernels_change_no_byte(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("corpus").mkdir()
    for name in "ab":
        write_words(Path(f"corpus/{name}.txt"), 60_000, "\n\n<|endoftext|>", num_words=1500)
    made = set()
    for kernels, seed in (("never", "0"), ("never", "4711"), ("always", "1")):
        environment = {**os.environ, "PYTHONHASHSEED": seed, CHOICE_VARIABLE: kernels}
        command = [sys.executable, "-c", MANY_WAYS, f"{kernels}-{seed}"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        made |= set(done.stdout.split())
    assert len(made) == 1
    assert len(list(Path().glob("*-*/*/vocab.json"))) == 12


PEAK = """
import sys
from transformerlm.cli.train_tokenizer import main
status = main(sys.argv[1:])
with open("/proc/self/status") as file:
    print(status, *(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM")))
"""


def peak_megabytes(path, tokenizer_dir):
    words = [f"--data.corpus={path}", f"--tokenizer.tokenizer_dir={tokenizer_dir}", "--data.num_workers=2"]
    environment = {**os.environ, CHOICE_VARIABLE: "always"}
    command = [sys.executable, "-c", PEAK, *words, "--tokenizer.vocab_size=1000"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    status, peak = done.stdout.split()
    assert status == "0", done.stderr
    return float(peak)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
@pytest.mark.slow
@pytest.mark.parametrize("megabytes", [10, pytest.param(100, marks=pytest.mark.endurance)])
def test_a_file_of_one_line_takes_bounded_memory(tmp_path, megabytes):
    kernel_library.kernels()  # compiled here, if they have to be, and not in what is measured
    peaks = []
    for size in (1, megabytes):
        path = tmp_path / f"{size}.txt"
        write_words(path, size * 1_000_000, " ")
        assert b"\n" not in path.read_bytes()
        peaks.append(peak_megabytes(path, tmp_path / f"tokenizer-{size}"))
    print(peaks)
    assert peaks[1] - peaks[0] < 16
