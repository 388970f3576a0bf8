import json
import shutil

import pytest
import torch

from transformerlm.cli import export
from transformerlm.conversion.hf_folder import read_folder
from transformerlm.language_model import LanguageModel


@pytest.fixture
def run_dir(trained):
    return trained / "runs" / "fables"


@pytest.mark.parametrize("words", [["--to", "hf"], ["--to=hf"]])
def test_to_a_folder(words, run_dir, tmp_path, capfd):
    argv = [f"--checkpoint={run_dir}", *words, str(tmp_path / "out"), "--export.dtype=bfloat16"]
    assert export.main(argv) == 0
    out, err = capfd.readouterr()
    assert out == ""
    exported, checked = err.splitlines()
    assert exported.startswith(f"exported: {tmp_path}/out: LlamaForCausalLM, ")
    assert exported.endswith(" parameters in bfloat16")
    assert checked.startswith("checked: ")
    found, lm = read_folder(tmp_path / "out"), LanguageModel.load(run_dir)
    assert found.tokenizer.fingerprint == lm.tokenizer.fingerprint
    generation = json.loads((tmp_path / "out/generation_config.json").read_text())
    assert generation["max_new_tokens"] == 8


def test_to_a_file(run_dir, tmp_path, capfd):
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "out.gguf"
    assert export.main(["--to", "gguf", str(path), f"--export.checkpoint={run_dir}"]) == 0
    assert "checked: read back with gguf: every tensor" in capfd.readouterr().err
    names = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
    lm = LanguageModel.load(run_dir)
    weight = lm.checkpoint.model_state()["blocks.0.attention.q_proj.weight"]
    assert torch.equal(torch.tensor(names["blk.0.attn_q.weight"]), weight)


def test_a_memory_of_n_grams_stays_behind_and_a_line_says_so(run_dir, tmp_path, capfd):
    shutil.copytree(run_dir, tmp_path / "fables")
    (tmp_path / "fables" / "ngrams").mkdir()
    assert export.main([f"--checkpoint={tmp_path}/fables", "--to", "hf", str(tmp_path / "out")]) == 0
    assert "the network alone is written: the run's memory of n-grams" in capfd.readouterr().err
    assert not list((tmp_path / "out").glob("ngram*"))


def test_beside_the_run_where_nothing_is_said(trained, tmp_path, capfd):
    shutil.copytree(trained / "runs" / "fables", tmp_path / "fables")
    assert export.main([f"--checkpoint={tmp_path}/fables"]) == 0
    assert (tmp_path / "fables-hf" / "config.json").exists()
    assert export.main([f"--checkpoint={tmp_path}/fables"]) == 2
    assert "[export].output: expected a path where there is nothing, got" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--to", "onnx", "out"], 2, 'command line: [export].to: expected one of "hf", "gguf", got "onnx"'),
        (["--to"], 2, "command line: --to: expected a value after it, got none"),
        (["--to", "hf", "out", "more"], 2, "command line: more: unknown argument"),
        (["--to", "hf", "fables"], 2, "[export].output: expected a path where there is nothing, got fables"),
        (
            ["--to", "hf", "out", "--checkpoint=nowhere"],
            4,
            "nowhere: expected a run's folder or a checkpoint",
        ),
        (["--to", "hf", "out", "--export.dtype=int8"], 2, "[export].dtype: expected"),
        (["--to", "hf", "out", "--export.dtype=q8_0"], 2, '"float16" with to = "hf", got "q8_0"'),
    ],
)
def test_mistakes_are_one_line_with_their_status(words, status, message, run_dir, workplace, capfd):
    assert export.main([f"--checkpoint={run_dir}", *words]) == status
    out, err = capfd.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1 + err.count("given 2 times")
    assert not (workplace / "out").exists()
