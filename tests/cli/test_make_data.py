import json
from pathlib import Path

import numpy as np

from transformerlm.cli import make_data
from transformerlm.data import TokenFile
from transformerlm.tokenizer import Tokenizer

WORDS = ["--data.corpus=fables", "--tokenizer.vocab_size=300"]


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


def test_the_result_does_not_depend_on_the_workers(workplace):
    for workers in (1, 2):
        words = [
            f"--data.num_workers={workers}",
            f"--data.token_dir=d{workers}",
            f"--tokenizer.tokenizer_dir=t{workers}",
        ]
        assert make_data.main(WORDS + words) == 0
    for name in ("d{}/train.memmap", "d{}/val.memmap", "t{}/vocab.json", "t{}/merges.txt"):
        assert Path(name.format(1)).read_bytes() == Path(name.format(2)).read_bytes()
