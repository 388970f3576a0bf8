"""transformerlm-data: inspect, show, verify, merge, and by itself make-data."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from transformerlm.cli import data, main, make_data
from transformerlm.data.token_file import TokenFile
from transformerlm.tokenizer import Tokenizer

WORDS = ["--tokenizer.vocab_size=300", "--data.validation_fraction=0.2"]
FABLES = ["--data.corpus=fables", *WORDS]


@pytest.fixture
def made(workplace, capfd):
    assert make_data.main(FABLES) == 0
    capfd.readouterr()
    return workplace


def test_by_itself_it_makes_token_files(workplace, capfd):
    assert data.main([*FABLES, "--data.token_dir=one"]) == 0
    assert main.main(["data", *FABLES, "--data.token_dir=two"]) == 0
    assert Path("one/train.memmap").read_bytes() == Path("two/train.memmap").read_bytes()
    assert "token files in two: made" in capfd.readouterr().err


def test_its_help_names_the_words(capsys):
    assert data.main(["--help"]) == 0
    printed = capsys.readouterr().out
    for part in ("inspect", "show", "verify", "merge"):
        assert re.search(rf"^  {part} +\w", printed, flags=re.MULTILINE)
        assert data.main([part, "--help"]) == 0
        own = capsys.readouterr().out
        assert f"usage: transformerlm-data {part} [" in own
        assert own.count("\n") <= 80
        assert max(map(len, own.splitlines())) <= 110
        assert main.main(["data", part, "--help"]) == 0
        assert capsys.readouterr().out == own


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["inspet", "fables"], 'command line: inspet: unknown command; did you mean "inspect"?'),
        (
            ["fables"],
            "command line: fables: not an option; did you mean: transformerlm-data --data.corpus=fables",
        ),
        (["inspect", "fables", "--html"], "command line: --html: expected a value after it, got none"),
        (["merge", "a"], "[merge].paths: expected at least two token files"),
        (["show", "nowhere.memmap"], "nowhere.memmap: no such token file"),
        (["verify", "fables"], "fables: expected a folder with token files"),
    ],
)
def test_what_was_typed_wrong_is_said_in_a_line(words, line, workplace, capfd):
    assert data.main(words) in (2, 3)
    out, err = capfd.readouterr()
    assert out == ""
    assert line in err


def test_inspect_prints_what_is_in_a_text(made, capfd):
    for name in ("one", "two"):
        Path(f"fables/{name}.md").write_text("the same words in both of these files, which are copies")
    assert data.main(["inspect", "fables", *WORDS]) == 0
    out, err = capfd.readouterr()
    for heading in ("text", "copies", "tokens", "leakage"):
        assert f"\n{heading}\n" in out
    assert re.search(r"files +100 \.txt, ", out)
    assert re.search(r"exact +1 copy in 1 cluster, 55 B\n +2: one.md, two.md", out)
    assert re.search(r"from +the tokenizer data/fables/tokenizer\n", out)
    assert "no run of 50 tokens" in out or "of the validation bytes" in out
    assert "tokenizer data/fables/tokenizer: reused" in err
    assert not list(Path().rglob("*inspect*"))  # nothing that stays


def test_inspect_of_files_with_any_name_and_any_script(workplace, capfd):
    names = ["two\nlines.txt", "an \x1b[31m escape.txt", "寓言 ✓.txt", "'quotes' & <tags>.txt"]
    Path("odd").mkdir()
    for name in names:
        Path("odd", name).write_text("Было хорошо. 漢字かな交じり文。 " * 9)
    words = [
        "inspect",
        "odd",
        "--data.validation_corpus=fables",
        "--tokenizer.vocab_size=300",
        "--html=p.html",
    ]
    assert data.main(words) == 0
    assert data.main(words[:-1]) == 0
    out = capfd.readouterr().out
    assert "\x1b" not in out
    assert "odd/two\\nlines.txt" in out
    assert "寓言 ✓.txt" in out
    assert re.search(r"scripts +Latin .*%, Cyrillic .*%, Han .*%", out)
    assert "&lt;tags&gt;.txt" in Path("p.html").read_text()


def test_inspect_prints_json_and_writes_a_page(made, capfd):
    assert (
        data.main(["inspect", "fables", *WORDS, "--json", "--html=page.html", "--inspect.near_copies=false"])
        == 0
    )
    out, err = capfd.readouterr()
    found = json.loads(out)
    assert found["corpus"]["documents"] == 100
    assert found["copies"]["has_near"] is False
    assert found["leaks"]["min_tokens"] == 50
    page = Path("page.html").read_text()
    assert "<h1>fables</h1>" in page
    assert "page.html: written" in err
    assert "near copies" not in page


def test_inspect_of_token_files(made, capfd):
    assert data.main(["inspect", "data/fables", "--inspect.min_leak_tokens=20"]) == 0
    out = capfd.readouterr().out
    assert "token files data/fables" in out
    assert "in runs of at least 20 tokens" in out
    assert re.search(r"stand in \w+-\w+\.txt:\d\n", out)  # told from the corpus, which is still there


def test_show_prints_tokens_told_apart(made, capfd):
    file = TokenFile.open("data/fables/train.memmap")
    tokenizer = Tokenizer.from_dir("data/fables/tokenizer")
    for at in (0, 33, file.num_tokens - 2):
        assert data.main(["show", "data/fables/train.memmap", "--at", str(at), "--json"]) == 0
        found = json.loads(capfd.readouterr().out)
        ids = [token["id"] for token in found["tokens"]]
        assert ids == file.tokens[at : at + 100].tolist()
        assert [token["position"] for token in found["tokens"]] == [*range(at, at + len(ids))]
        assert "".join(token["text"] for token in found["tokens"]) == tokenizer.decode(ids)
        end_id = tokenizer.special_token_ids["<|endoftext|>"]
        assert found["document"] == np.count_nonzero(file.tokens[:at] == end_id) + 1
    assert data.main(["show", "data/fables/train.memmap", "--show.num_tokens=5"]) == 0
    head, line = capfd.readouterr().out.splitlines()
    assert head.startswith(f"data/fables/train.memmap: tokens 0 to 4 of {file.num_tokens:,}; document 1")
    assert line.count("|") == 4
    assert data.main(["show", "data/fables/train.memmap", "--at", str(file.num_tokens)]) == 2


def test_verify_reads_every_byte(made, capfd):
    assert data.main(["verify", "data/fables"]) == 0
    assert capfd.readouterr().err.count("verified: all") == 2
    path = Path("data/fables/val.memmap")
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(content)
    assert data.main(["verify", "data/fables/train.memmap", str(path)]) == 3
    err = capfd.readouterr().err
    assert err.count("verified: all") == 1
    assert f"{path}: damaged" in err


def test_merge_writes_token_files(made, capfd):
    assert data.main(["merge", "data/fables", "data/fables", "--output=data/twice"]) == 0
    assert capfd.readouterr().err.count("written: ") == 2
    assert data.main(["verify", "data/twice"]) == 0
    one, two = (TokenFile.open(f"data/{name}/train.memmap") for name in ("fables", "twice"))
    assert two.num_documents == 2 * one.num_documents


def test_without_a_word_it_makes_nothing_and_says_what_it_can(workplace, capfd):
    before = sorted(workplace.rglob("*"))
    assert data.main([]) == main.main(["data"]) == 2
    assert "--data.corpus=TEXT" in capfd.readouterr().err
    assert sorted(workplace.rglob("*")) == before
