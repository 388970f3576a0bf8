"""Words that are no options are answered with the command that was meant."""

import shlex

import pytest

from transformerlm.cli import eval as evaluation
from transformerlm.cli import export, import_model, infer, make_data, train
from transformerlm.cli.meant import joined_words, quoted

MAINS = {
    "train": train.main,
    "make-data": make_data.main,
    "infer": infer.main,
    "eval": evaluation.main,
    "export": export.main,
    "import": import_model.main,
}
ONE_LINE = [
    ("train configs/train.toml", "train --config=configs/train.toml"),
    ("train configs/missing.toml --debug", "train --config=configs/missing.toml --debug"),
    (
        "train configs/train.toml --data.include '*.md' --resume=must",
        "train --config=configs/train.toml --data.include '*.md' --resume=must",
    ),
    ("train texts/", "train --data.corpus=texts/"),
    ("train 'my texts' --plan", "train --data.corpus='my texts' --plan"),
    ("train texts configs/train.toml", "train --data.corpus=texts --config=configs/train.toml"),
    ("train 'texts/*.txt'", "train --data.corpus='texts/*.txt'"),
    ("train texts/a.txt texts/b.txt", "train --data.corpus='texts/*.txt'"),
    ("train no/such/folder", "train --data.corpus=no/such/folder"),
    ("train runs/tiny", "train --config=runs/tiny/config.toml"),
    ("train must", "train --resume=must"),
    ("train max_steps=5 model.d_model=64", "train --training.max_steps=5 --model.d_model=64"),
    ("train --max-steps 500 texts", "train --training.max_steps 500 --data.corpus=texts"),
    ("train -max_time=5m", "train --training.max_time=5m"),
    ("make-data texts", "make-data --data.corpus=texts"),
    ("infer runs/tiny", "infer --checkpoint=runs/tiny"),
    ("infer runs/tiny/checkpoints/step_1", "infer --checkpoint=runs/tiny/checkpoints/step_1"),
    ("infer runs/tpyo", "infer --checkpoint=runs/tpyo"),
    ("infer 'Once upon a time'", "infer --prompt='Once upon a time'"),
    ("infer Once upon a time", "infer --prompt='Once upon a time'"),
    ("infer runs/tiny What is it?", "infer --checkpoint=runs/tiny --prompt='What is it?'"),
    ("infer texts/a.txt", "infer --infer.prompt_file=texts/a.txt"),
    (f"infer '{'word ' * 100}'", f"infer --prompt='{'word ' * 100}'"),
    ("eval runs/tiny texts", "eval --checkpoint=runs/tiny --text=texts"),
    ("eval runs/tiny runs/tiny", "eval --checkpoint=runs/tiny --compare=runs/tiny"),
    ("eval --text=texts runs/tiny", "eval --text=texts --checkpoint=runs/tiny"),
    ("export runs/tiny gguf", "export --checkpoint=runs/tiny --to=gguf"),
    ("export runs/tiny runs/out", "export --checkpoint=runs/tiny --export.output=runs/out"),
    ("import texts out", "import --from=texts --import_model.run_dir=out"),
]
SEVERAL_LINES = [
    ("train stray", ["stray: unknown argument; known here: --config"]),
    ("train plan", ['plan: unknown argument; did you mean "--plan"?']),
    (
        "train --resmue=must configs/train.toml",
        [
            "--resmue=must: unknown argument; did",
            "configs/train.toml: not an option; did you mean: --config=c",
        ],
    ),
    (
        "train configs/train.toml b.toml",
        ["configs/train.toml: not an option; did", "b.toml: unknown argument"],
    ),
    (
        "train texts --resume",
        ["texts: not an option; did you mean: --data.corpus=texts", "--resume: expected"],
    ),
    ("train name=adamw", ["name=adamw: unknown argument"]),  # a key of two tables
    ("infer interactive", ['interactive: unknown argument; did you mean "--interactive"?']),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("meant")
    for name in ("configs", "texts", "my texts", "runs/tiny/checkpoints/step_1"):
        (folder / name).mkdir(parents=True)
    for name in ("configs/train.toml", "texts/a.txt", "texts/b.txt", "runs/tiny/config.toml"):
        (folder / name).touch()
    (folder / "runs/tiny/checkpoints/step_1/model.safetensors").touch()
    return folder


def refused(line, capsys):
    command, *words = shlex.split(line)
    assert MAINS[command](words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = [one for one in err.splitlines() if one.startswith("command line: ")]
    assert "--debug" in words or len(lines) == err.count("\n")
    return [one.removeprefix("command line: ") for one in lines]


@pytest.mark.parametrize(("line", "meant"), ONE_LINE)
def test_the_whole_command_that_was_meant_is_said(line, meant, folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    (said,) = refused(line, capsys)
    _, found, command = said.partition(": not an option; did you mean: ")
    assert found, said
    assert command == f"transformerlm-{meant}"


@pytest.mark.parametrize(("line", "meant"), ONE_LINE)
def test_what_was_meant_is_a_command_line_that_can_be_parsed(line, meant, folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    command, *words = shlex.split(meant)
    assert MAINS[command]([*words, "--help"]) == 0


@pytest.mark.parametrize(("line", "starts"), SEVERAL_LINES)
def test_where_it_cannot_be_told_each_word_has_its_line(line, starts, folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    lines = refused(line, capsys)
    assert len(lines) == len(starts), lines
    assert all(one.startswith(start) for one, start in zip(lines, starts, strict=True)), lines


@pytest.mark.parametrize("words", [["--a.b=c d"], ["--a.b", "c'd"], ["$HOME", "--a.b="], ["--a b=c"], [""]])
def test_quoted_words_are_read_back_by_a_shell(words):
    assert shlex.split(" ".join(map(quoted, words))) == words


def test_words_are_joined_only_to_a_text_or_a_glob(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.txt", "b.md"):
        (tmp_path / name).touch()
    assert joined_words(["a.txt", "b.md"], False) == "*"
    assert joined_words(["one", "two"], True) == "one two"
    assert joined_words(["one", "two"], False) == ""
    assert joined_words(["one", "a.txt"], True) == ""
    assert joined_words(["one"], True) == joined_words(["one", "x=1"], True) == ""
