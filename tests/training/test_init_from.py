"""Runs that begin with another run's weights."""

import dataclasses

import pytest
import torch

from tests.small_models import END, random_model, tokenizer
from transformerlm.checkpoint.store import write_checkpoint
from transformerlm.config import RuntimeConfig, TokenizerConfig, TrainConfig, TrainingConfig
from transformerlm.errors import CheckpointError
from transformerlm.progress import SilentReporter
from transformerlm.runtime import prepare_process
from transformerlm.schema import to_dict
from transformerlm.tokenizer import Tokenizer
from transformerlm.training.init_from import load_initial_weights, starting_point
from transformerlm.training.learner import Learner


@pytest.fixture
def config(tmp_path):
    """Of a run that can begin with the checkpoint in `tmp_path/first`."""
    model = random_model(num_kv_heads=2)
    first = TrainConfig(model=model.config)
    about = {"config": to_dict(first), "identity": {"tokenizer": tokenizer().fingerprint}}
    write_checkpoint(tmp_path / "first" / "checkpoints", 7, model.state_dict(), {}, about)
    tokenizer().save(tmp_path / "first" / "tokenizer")
    return TrainConfig(
        model=dataclasses.replace(model.config, context_length=16),
        tokenizer=TokenizerConfig(tokenizer_dir=str(tmp_path / "first" / "tokenizer")),
        training=TrainingConfig(start_from=str(tmp_path / "first"), batch_size=2, micro_batch_size=2),
        runtime=RuntimeConfig(device="cpu", dtype="float32"),
    )


def test_the_weights_are_taken_and_nothing_else(config):
    runtime = prepare_process(config.runtime)
    learner = Learner(config, runtime, SilentReporter())
    before = torch.get_rng_state()
    load_initial_weights(learner, config, SilentReporter())
    assert torch.equal(torch.get_rng_state(), before)
    assert not learner.optimizer.state
    for name, tensor in random_model(num_kv_heads=2).state_dict().items():
        assert torch.equal(learner.model.state_dict()[name], tensor), name


def test_a_checkpoint_by_its_own_folder(config, tmp_path):
    path = tmp_path / "first" / "checkpoints" / "step_00000007"
    training = dataclasses.replace(config.training, start_from=str(path))
    assert starting_point(dataclasses.replace(config, training=training), SilentReporter()).path == path


def test_what_a_model_leaves_open_is_what_it_comes_to(config):
    model = dataclasses.replace(config.model, vocab_size=None)
    assert starting_point(dataclasses.replace(config, model=model), SilentReporter()).step == 7


def test_rotations_may_be_scaled_to_extend_the_context(config):
    model = dataclasses.replace(
        config.model, rope_scaling="yarn", rope_factor=4.0, rope_original_length=48, context_length=192
    )
    assert starting_point(dataclasses.replace(config, model=model), SilentReporter()).step == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_head": 16}, r"\[model\].d_head: 12 -> 16"),
        ({"sliding_window": 9}, r"\[model\].sliding_window: None -> 9"),
        ({"d_ff": 88}, r"\[model\].d_ff: 80 -> 88"),
        ({"rope_theta": 5e5}, r"\[model\].rope_theta: 10000.0 -> 500000.0"),
        ({"norm_eps": 1e-5}, r"\[model\].norm_eps: 0.0001 -> 1e-05"),
        ({"num_kv_heads": None}, r"\[model\].num_kv_heads: 2 -> 4"),
        ({"vocab_size": 400}, r"\[model\].vocab_size: \d+ -> 400"),
    ],
)
def test_another_model_is_refused_key_by_key(config, changes, message):
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, **changes))
    with pytest.raises(CheckpointError, match=r"\[training\].start_from: another model than .*" + message):
        starting_point(config, SilentReporter())


@pytest.mark.parametrize("there", [True, False])
def test_another_tokenizer_is_refused_with_the_right_one(config, tmp_path, there):
    if there:
        Tokenizer(tokenizer().vocab, [], [END]).save(tmp_path / "other")
    config = dataclasses.replace(config, tokenizer=TokenizerConfig(tokenizer_dir=str(tmp_path / "other")))
    with pytest.raises(
        CheckpointError, match=r"has another tokenizer than .*--tokenizer\.tokenizer_dir="
    ) as caught:
        starting_point(config, SilentReporter())
    assert str(tmp_path / "first" / "tokenizer") in str(caught.value)


def test_nothing_to_start_from_is_refused(config, tmp_path):
    training = dataclasses.replace(config.training, start_from=str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match="nowhere: expected a run's folder or a checkpoint"):
        starting_point(dataclasses.replace(config, training=training), SilentReporter())
