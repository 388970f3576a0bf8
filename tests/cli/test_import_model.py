import json
import shutil

import pytest

from transformerlm.cli import export, import_model, infer, train
from transformerlm.cli.command import Arguments, load_config
from transformerlm.config import TrainConfig
from transformerlm.logging import names


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "hf"
    assert export.main([f"--checkpoint={trained}/runs/fables", "--to", "hf", str(folder)]) == 0
    return folder


@pytest.fixture
def source(exported, workplace):
    """A Hugging Face folder, in a workplace."""
    shutil.copytree(exported, "hf")
    return "hf"


def records(capfd):
    out, err = capfd.readouterr()
    return [json.loads(line) for line in out.splitlines()], err


def test_a_folder_becomes_a_run_that_writes_what_the_first_one_wrote(source, trained, capfd):
    assert import_model.main(["--from", source, "runs/imported"]) == 0
    _, err = records(capfd)
    imported, checked, *_ = err.splitlines()
    assert imported.startswith("imported: hf: LlamaForCausalLM, ")
    assert checked.startswith("checked: all tensors the same bits on the way back")
    texts = []
    for run in (f"{trained}/runs/fables", "runs/imported"):
        words = ("--prompt=A fox", "--runtime.dtype=float32", "--generation.temperature=0")
        assert infer.main([f"--infer.checkpoint={run}", *words]) == 0
        (record,), _ = records(capfd)
        texts.append(record[names.OUTPUT])
    assert texts[0] == texts[1]


TRAINING = [
    *("--config=runs/imported/config.toml", "--data.corpus=fables", "--optimizer.lr=1e-2"),
    *("--schedule.warmup_steps=2", "--training.max_steps=12", "--training.batch_size=4"),
    *("--training.log_every=1", "--training.validate_every=6", "--training.checkpoint_every=6"),
    *("--model.context_length=16", "--generation.max_new_tokens=4"),
    *("--runtime.device=cpu", "--runtime.dtype=float32"),
]


def losses(found):
    return [record[names.LOSS] for record in found if names.LOSS in record]


def test_it_trains_on_and_goes_on_without_what_it_started_from(source, workplace, capfd):
    assert import_model.main(["--from", source, "runs/imported"]) == 0
    records(capfd)
    assert train.main(TRAINING) == 0
    found, err = records(capfd)
    assert "starting from the weights of runs/imported/checkpoints/step_00000000" in err
    begun = losses(found)
    assert begun[0] < 5  # the run before had come down to there from the log of 320, 5.77
    assert sum(begun[-3:]) < sum(begun[:3])
    run = workplace / "runs" / "imported-fables"
    manifest = json.loads((run / "checkpoints/step_00000012/manifest.json").read_text())
    assert manifest["about"]["config"]["training"]["start_from"] == "runs/imported"
    (workplace / "runs/imported").rename(workplace / "elsewhere")
    (workplace / "elsewhere/tokenizer").rename(workplace / "tokenizer")
    assert (
        train.main(
            [
                "--config=elsewhere/config.toml",
                *TRAINING[1:],
                "--training.max_steps=14",
                "--tokenizer.tokenizer_dir=tokenizer",
            ]
        )
        == 0
    )
    found, err = records(capfd)
    assert "resumed: runs/imported-fables" in err
    assert "starting from" not in err


def test_the_config_of_an_imported_run_is_one_to_train_with(source, workplace, capfd):
    assert import_model.main(["--import_model.source=hf"]) == 0
    config = load_config(TrainConfig, Arguments(config_path=workplace / "runs/hf/config.toml"))
    assert config.training.start_from == "runs/hf"
    assert config.tokenizer.tokenizer_dir == "runs/hf/tokenizer"
    assert (config.data.document_separator, config.generation.eos_token) == ("<|endoftext|>",) * 2
    assert (config.model.d_model, config.model.vocab_size) == (32, 320)


def test_training_in_the_imported_folder_itself_says_how_to_go_on(source, workplace, capfd):
    assert import_model.main(["--from", source, "runs/imported"]) == 0
    records(capfd)
    assert train.main([*TRAINING, "--training.run_dir=runs/imported"]) == 4
    _, err = records(capfd)
    line = err.splitlines()[-1]
    assert "imported weights, which have no training to go on with" in line
    assert "[training].start_from=runs/imported" in line


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ([], 2, "[import_model].source: expected a Hugging Face folder, got none"),
        (["--from"], 2, "command line: --from: expected a value after it, got none"),
        (["--from", "nowhere", "runs/x"], 4, "nowhere: expected a folder with config.json"),
        (["--from", "hf", "fables"], 2, "[import_model].run_dir: expected a path where there is nothing"),
    ],
)
def test_mistakes_are_one_line_with_their_status(words, status, message, source, workplace, capfd):
    assert import_model.main(words) == status
    out, err = capfd.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert not (workplace / "runs").exists()


def test_what_cannot_be_represented_is_named_and_nothing_is_left(source, workplace, capfd):
    values = json.loads((workplace / "hf/config.json").read_text()) | {"mlp_bias": True}
    (workplace / "hf/config.json").write_text(json.dumps(values))
    assert import_model.main(["--from", source, "runs/imported"]) == 4
    assert capfd.readouterr().err == "hf/config.json: mlp_bias: expected false, got true\n"
    assert not (workplace / "runs").exists()
