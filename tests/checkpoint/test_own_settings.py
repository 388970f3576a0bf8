"""A run's own settings of generation: found without its weights, and never more than they say."""

import shutil

import pytest

from tests.small_models import bytes_only, language_model, save_run
from transformerlm.checkpoint.own_settings import generation_of_run, own_generation, own_table
from transformerlm.config import GenerationConfig

OWN = GenerationConfig(eos_token="", prompts=("The",), temperature=0.25)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return save_run(language_model(bytes_only(), generation=OWN), tmp_path_factory.mktemp("own") / "run")


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


def test_a_run_and_its_checkpoint_have_the_same(run):
    found = generation_of_run(run)
    assert (found["eos_token"], found["prompts"], found["temperature"]) == ("", ["The"], 0.25)
    assert generation_of_run(run / "checkpoints/step_00000001") == found


def test_the_weights_are_not_read_and_a_damaged_manifest_is_passed_over(run):
    (run / "checkpoints/step_00000001/model.safetensors").unlink()
    shutil.copytree(run / "checkpoints/step_00000001", run / "checkpoints/step_00000002")
    (run / "checkpoints/step_00000002/manifest.json").write_text("{}")
    assert generation_of_run(run)["temperature"] == 0.25


def test_where_there_is_nothing_to_read_there_are_no_settings(tmp_path):
    assert generation_of_run(tmp_path / "nowhere") == generation_of_run(tmp_path) == {}


def test_keys_of_other_versions_and_what_is_no_table_are_left_out():
    assert own_generation({"config": {"generation": {"top_k": 3, "of_2031": 1}}}) == {"top_k": 3}
    assert own_table({"config": {"generation": 7}}, "generation") == own_generation({"config": None}) == {}
