"""Model cards, read by the hub's own library."""

import dataclasses
import json
import re
import shutil

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from tests.mixtures import data_config, write_corpora
from tests.report.written_runs import write_run, write_samples
from tests.small_models import language_model, save_run
from transformerlm.cli import export, import_model
from transformerlm.config import ExportSection, TrainConfig
from transformerlm.conversion.convert import EXACT
from transformerlm.evaluation.held_out import held_out_estimate
from transformerlm.evaluation.statistics import DEVIATIONS_95
from transformerlm.language_model import LanguageModel
from transformerlm.report.card import CardModel, Quality, chosen_files, corpus, model_card
from transformerlm.report.card_config import public_config, public_path
from transformerlm.report.card_source import bytes_drawn, card_of, validation_tokens
from transformerlm.report.run import read_run
from transformerlm.schema import from_dict, to_dict
from transformerlm.training import train

QUALITY = Quality(1.25, 8.5, (1.1, 1.4), "As it was found.")
MODEL = CardModel("tales", "LlamaForCausalLM", 1_234_567, 2000, "float32", QUALITY, {"train data": "5a" * 32})
ODD = [
    "```\n---\nlicense: other\n---\n````",
    "<script>alert(1)</script> | </details> {{ name }}",
    "x" * 100_000,
    "\x00\x1b[2J\r\n\u2028\ud800 ends",
]


@pytest.fixture
def in_workplace(trained, monkeypatch):
    """The folder of the trained run as the current one, as where it was trained."""
    monkeypatch.chdir(trained)
    return trained


def headings(card):
    parsed = MarkdownIt("commonmark").enable("table").parse(card.text)
    return [parsed[at + 1].content for at, token in enumerate(parsed) if token.type == "heading_open"]


def tags(card):
    parsed = MarkdownIt("commonmark").enable("table").parse(card.text)
    html = [
        part.content for token in parsed for part in (token, *(token.children or [])) if "html" in part.type
    ]
    return set(re.findall(r"<[^>]*>", " ".join(html)))


SECTIONS = [
    *("How to use it", "What it was trained on", "Quality", "Training", "Environment"),
    *("What it writes", "Limits"),
]


def test_an_exported_folder_has_a_card_that_the_hub_reads(in_workplace, tmp_path):
    argv = ["--checkpoint=runs/fables", "--to", "hf", str(tmp_path / "out"), "--export.license=cc-by-4.0"]
    assert export.main(argv) == 0
    card = ModelCard.load(tmp_path / "out/README.md")
    assert (card.data.library_name, card.data.license) == ("transformers", "cc-by-4.0")
    assert card.data.model_name == "out"
    about = json.loads((in_workplace / "runs/fables/checkpoints/step_00000006/manifest.json").read_text())
    _, _, bits = about["about"]["best_validation"]
    found = {result.metric_type: result for result in card.data.eval_results}["bits_per_byte"]
    assert found.metric_value == round(bits, 4)
    assert found.metric_args["low"] < bits < found.metric_args["high"]
    assert (found.dataset_name, found.dataset_split) == ("fables", "validation")
    details = card.data.to_dict()["transformerlm"]
    assert details["config"]["model"]["d_model"] == 32
    assert details["data"]["train_sha256"] == about["about"]["identity"]["train data"]
    assert details["environment"]["torch"] == about["about"]["environment"]["torch"]
    assert [example["text"] for example in card.data.to_dict()["widget"]] == ["The ", "A fox"]
    assert headings(card) == ["out", *SECTIONS]
    for words in ("100 files", "9 | 2,043", "by a hash of each document", "768, 0.127 passes"):
        assert words in card.text, words


def test_the_card_is_the_same_again_and_names_no_folder_of_its_user(in_workplace):
    lm = LanguageModel.load("runs/fables", EXACT)
    card = card_of(lm, "fables", ExportSection())
    assert card == card_of(lm, "fables", ExportSection())
    about = json.loads(json.dumps(lm.checkpoint.about))
    about["config"]["data"]["corpus"] = f"{in_workplace}/fables"
    about["config"]["wandb"] = {"entity": "a-secret"}
    away = dataclasses.replace(lm, checkpoint=dataclasses.replace(lm.checkpoint, about=about))
    card = card_of(away, "fables", ExportSection())
    assert "trained from scratch on fables by" in card
    assert str(in_workplace) not in card
    assert "a-secret" not in card


def test_the_interval_is_that_of_the_validation_tokens(in_workplace, tmp_path, monkeypatch):
    lm = LanguageModel.load("runs/fables", EXACT)
    found = held_out_estimate(lm, validation_tokens(lm.checkpoint).val)
    result = evaluation(card_of(lm, "fables", ExportSection()))
    half = DEVIATIONS_95 * found.bits_per_byte.standard_error
    assert result.metric_args["high"] == pytest.approx(result.metric_value + half, abs=2e-4)
    monkeypatch.chdir(tmp_path)  # where the token files are not
    card = card_of(lm, "fables", ExportSection())
    assert evaluation(card).metric_value == result.metric_value
    assert evaluation(card).metric_args is None
    assert "There is no interval" in card
    assert "not at hand" in card


def evaluation(content):
    return ModelCard(content).data.eval_results[0]


@pytest.mark.parametrize("name", ['a "name": {x}', "--- # `x`", "<b>|</b>", "日本語 😀"])
def test_no_name_and_no_sample_breaks_the_card(name, tmp_path):
    run_dir = write_run(tmp_path / "run")
    write_samples(run_dir, [(2000, text, text) for text in ODD])
    run = dataclasses.replace(read_run(run_dir), config={"data": {"corpus": name}, "odd": {name: [name]}})
    content = model_card(run, dataclasses.replace(MODEL, name=name)).encode("utf-8", "replace").decode()
    card = ModelCard(content)
    assert card.data.model_name == name
    assert card.data.license is None
    assert card.data.eval_results[0].dataset_name == name
    assert headings(card)[1:] == SECTIONS
    assert len(headings(card)) == 1 + len(SECTIONS)
    assert tags(card) == {"<details>", "<summary>", "</summary>", "</details>"}
    assert len(content) < 40_000


def test_an_odd_manifest_makes_a_card_all_the_same(tmp_path):
    run = read_run(write_run(tmp_path / "run"))
    facts = {**run.facts, "text": {"a|b": "c|d", "<b>": "`"}, "environment": {"x|y": [1], "": None}}
    config = {"model": {"d_model": float("nan"), "a": None}, "data": {"mixture": [{"path": "a"}, 7]}, "x": 3}
    odd = dataclasses.replace(run, facts=facts, config=config)
    identity = {"train data of a|b": 1, "val data of <script>": None, "tokenizer": ["x"]}
    card = ModelCard(model_card(odd, dataclasses.replace(MODEL, identity=identity)))
    assert headings(card)[1:] == SECTIONS
    assert tags(card) == set()  # without a config there are no details to open
    assert card.data.eval_results[0].dataset_name == "a"


def test_what_a_run_does_not_know_is_not_said(tmp_path):
    """A folder with a checkpoint and a tokenizer alone."""
    lm = LanguageModel.load(save_run(language_model(), tmp_path / "bare"), EXACT)
    card = ModelCard(card_of(lm, "bare", ExportSection()))
    assert headings(card) == ["bare", *SECTIONS]
    assert card.data.eval_results is None
    for words in ("It is not known how well", "There are no samples", "It is not known where"):
        assert words in card.text


@pytest.mark.slow
def test_an_imported_model_has_a_card_too(in_workplace, tmp_path):
    assert export.main(["--checkpoint=runs/fables", "--to", "hf", str(tmp_path / "out")]) == 0
    assert import_model.main(["--from", str(tmp_path / "out"), str(tmp_path / "run")]) == 0
    assert export.main([f"--checkpoint={tmp_path}/run", "--to", "hf", str(tmp_path / "again")]) == 0
    card = ModelCard.load(tmp_path / "again/README.md")
    assert "imported from out by transformerlm" in card.text
    assert card.data.eval_results is None
    assert "passes" not in card.text
    # The config of an import has defaults, for training it further: nothing that the model has seen.
    for word in ("python-stdlib", "adamw", "weight_decay"):
        assert word not in card.content
    for name in ("config.json", "model.safetensors", "tokenizer.json", "generation_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


@pytest.mark.slow
def test_the_program_in_the_card_writes_text(in_workplace, tmp_path, monkeypatch, capsys):
    assert export.main(["--checkpoint=runs/fables", "--to", "hf", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "out/README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace("=100", "=3"), "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("The ")


def test_damaged_files_of_a_run_do_not_stop_its_card(in_workplace, tmp_path):
    shutil.copytree("runs/fables", tmp_path / "run")
    for name in ("metrics.jsonl", "samples.jsonl", "history.jsonl", "config.toml"):
        (tmp_path / "run" / name).write_bytes(b"\xff{]\n" * 9)
    lm = LanguageModel.load(tmp_path / "run", EXACT)
    card = ModelCard(card_of(lm, "run", ExportSection()))
    assert card.data.eval_results[0].metric_type == "bits_per_byte"
    assert "There are no samples" in card.text


@pytest.mark.parametrize(
    ("path", "public"),
    [
        ("books/a", "books/a"),
        ("/home/me/books", "books"),
        ("~/books", "books"),
        (r"C:\Users\me\books", "books"),
        ("python-stdlib", "python-stdlib"),
    ],
)
def test_paths_without_folders(path, public):
    assert public_path(path) == public
    config = {"data": {"corpus": path, "jsonl_field": path}, "wandb": {"entity": path}}
    assert public_config(config) == {"data": {"corpus": public, "jsonl_field": path}}


def test_of_a_mixture_all_corpora_are_there_and_the_interval_is_over_them(tmp_path):
    write_corpora(tmp_path)
    config = from_dict(
        TrainConfig,
        {
            "data": to_dict(data_config(tmp_path, books={"weight": 1}, notes={"weight": 3})),
            "tokenizer": {"vocab_size": 300, "tokenizer_dir": str(tmp_path / "tokenizer")},
            "model": {"context_length": 16, "d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 32},
            "schedule": {"warmup_steps": 2},
            "training": {"run_dir": str(tmp_path / "run"), "max_steps": 6, "batch_size": 4},
            "generation": {"max_new_tokens": 4},
            "runtime": {"device": "cpu", "dtype": "float32"},
        },
    )
    train(config, loggers=[])
    lm = LanguageModel.load(tmp_path / "run", EXACT)
    content = card_of(lm, "mixed", ExportSection())
    card, result = ModelCard(content), evaluation(content)
    assert result.dataset_name == "books + notes.jsonl"
    assert str(tmp_path) not in content
    assert card.data.to_dict()["transformerlm"]["data"]["mixture"] == {"books": 0.25, "notes": 0.75}
    assert "| notes | 75.0% |" in card.text
    data = validation_tokens(lm.checkpoint)
    found = {name: held_out_estimate(lm, file).bits_per_byte for name, file in data.val.files.items()}
    sizes = bytes_drawn(data)
    value = sum(size * found[name].value for name, size in sizes.items()) / sum(sizes.values())
    error = sum((size * found[name].standard_error) ** 2 for name, size in sizes.items()) ** 0.5
    assert result.metric_value == pytest.approx(value, rel=1e-3)
    low, high = result.metric_args["low"], result.metric_args["high"]
    assert high - low == pytest.approx(2 * DEVIATIONS_95 * error / sum(sizes.values()), abs=2e-4)
    about = lm.checkpoint.about | {"identity": {**lm.checkpoint.about["identity"], "mixture": {"books": "x"}}}
    odd = dataclasses.replace(lm, checkpoint=dataclasses.replace(lm.checkpoint, about=about))
    assert "There is no interval" in card_of(odd, "mixed", ExportSection())


@pytest.mark.parametrize(
    ("include", "said"),
    [(None, ""), (["*"], ""), (["argparse.py", "*.md"], " (only files argparse.py, *.md)")],
)
def test_a_card_says_which_files_of_the_text_were_read(tmp_path, include, said):
    run = read_run(write_run(tmp_path / "run"))
    config = {"data": {"corpus": "python-stdlib", **({"include": include} if include else {})}}
    run = dataclasses.replace(run, config=config)
    assert corpus(run) + chosen_files(run) == "python-stdlib" + said
