"""One graph and no recompilation, whatever the options; without the C++ compiler, which takes a minute."""

import pytest
import torch
from torch import nn

from tests.training.tiny_runs import CONFIG, changed
from transformerlm.progress import SilentReporter
from transformerlm.runtime import Runtime
from transformerlm.training.compilation import CompiledLoss
from transformerlm.training.learner import Learner

CASES = {  # few, since tracing one takes seconds
    "tied, qk_norm, one key head, bfloat16, one micro-batch": {
        "model": {"tie_embeddings": True, "qk_norm": True, "num_kv_heads": 1},
        "runtime": {"dtype": "bfloat16"},
        "training": {"micro_batch_size": 4},
    },
    "reference, float16, dropout, checkpointing": {
        "model": {"num_layers": 1},
        "runtime": {"attention": "reference", "dtype": "float16", "activation_checkpointing": True},
        "training": {"dropout": 0.2},
    },
}


@pytest.fixture
def one_graph(monkeypatch):
    """Compile with a backend that runs what was traced; fail if something is traced twice."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    sound = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module, **options: sound(module, backend="eager", **options))
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield torch._dynamo.utils.counters
    torch._dynamo.reset()


@pytest.mark.parametrize("name", CASES)
def test_training_is_one_graph_that_is_compiled_once(name, one_graph):
    tables = {"runtime": {}, "training": {}, **CASES[name]}
    tables["runtime"] |= {"compile": True}
    config = changed(CONFIG, **{**tables, "training": {"micro_batch_size": 2} | tables["training"]})
    learner = Learner(config, Runtime.from_config(config.runtime), SilentReporter())
    learner.prepare()
    ids = torch.randint(64, (2, 4, 16), dtype=torch.long)
    for _ in range(3):
        learner.learn(*ids, 1.0)
    assert not one_graph["graph_break"]
    assert one_graph["stats"]["unique_graphs"] == 1


class Named(nn.Module):
    def __init__(self, name, calls):
        super().__init__()
        self.name, self.calls = name, calls

    def forward(self, token_ids, targets, num_targets=None):
        self.calls.append((self.name, *token_ids.shape))
        return token_ids.sum()


def test_validation_is_compiled_for_batches_of_the_shape_of_training_only():
    calls = []
    loss = CompiledLoss(Named("plain", calls), Named("fast", calls))

    def passes(*shapes):
        for shape in shapes:
            loss(torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long))
        found = [name for name, *_ in calls]
        calls.clear()
        return found

    assert passes((4, 16)) == ["fast"]
    with torch.no_grad():
        assert passes((4, 16), (3, 16), (1, 5)) == ["fast", "plain", "plain"]
    assert passes((2, 16), (4, 16)) == ["fast", "fast"]  # memory has run out, and is there again
