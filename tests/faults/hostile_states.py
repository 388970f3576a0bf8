"""Hostile content of well-formed checkpoints: changes to the trees and descriptions in them."""

import torch

MIB = 2**20


def with_(*path, value):
    """A change to a tree: what is at `path` becomes `value` (a function is given what was there)."""

    def change(tree):
        *parents, last = path
        for key in parents:
            tree = tree[key]
        tree[last] = value(tree[last]) if callable(value) else value

    return change


def without(*path):
    def change(tree):
        *parents, last = path
        for key in parents:
            tree = tree[key]
        del tree[last]

    return change


def named_often(tree):
    large = torch.zeros(MIB, dtype=torch.uint8)
    tree["state"][0] = {f"exp_avg_{n}": large for n in range(2000)}


HOSTILE_OPTIMIZERS = {
    "a list": lambda tree: tree.clear(),
    "no groups": without("param_groups"),
    "no states": without("state"),
    "groups that are a number": with_("param_groups", value=1),
    "groups that are texts": with_("param_groups", value=["a", "b"]),
    "one group too few": with_("param_groups", value=lambda groups: groups[1:]),
    "one group too many": with_("param_groups", value=lambda groups: [*groups, groups[0]]),
    "a group without parameters": without("param_groups", 0, "params"),
    "parameters that are lists": with_("param_groups", 0, "params", value=lambda old: [[] for _ in old]),
    "parameters that are one": with_("param_groups", 1, "params", value=[0]),
    "a learning rate that is text": with_("param_groups", 0, "lr", value="0.1"),
    "a learning rate that is a list": with_("param_groups", 0, "lr", value=[0.1]),
    "a learning rate of 10^400": with_("param_groups", 0, "lr", value=10**400),
    "a learning rate that is none": with_("param_groups", 0, "lr", value=None),
    "three betas": with_("param_groups", 0, "betas", value=[0.1, 0.1, 0.1]),
    "betas that are texts": with_("param_groups", 0, "betas", value=["0.1", "0.1"]),
    "states that are a list": with_("state", value=[]),
    "a state that is a number": with_("state", 0, value=1),
    "a state of nobody": with_("state", 10**30, value={}),
    "a state by text": with_("state", "0", value={}),
    "a moment of another shape": with_("state", 0, "exp_avg", value=torch.zeros(7, 7)),
    "a moment that is text": with_("state", 0, "exp_avg", value="zeros"),
    "a step that is text": with_("state", 0, "step", value="1"),
    "a step of 10^400": with_("state", 0, "step", value=10**400),
    "a step that is no number": with_("state", 0, "step", value=torch.tensor(float("nan"))),
    "a step of -1": with_("state", 0, "step", value=torch.tensor(-1.0)),
    "a step for each weight": with_("state", 0, "step", value=torch.ones(100)),
    "a tensor named two thousand times": named_often,
}
HOSTILE_MODELS = {
    "a list": with_("model", value=[]),
    "texts": with_("model", "weight", value="1"),
    "nothing": with_("model", value={}),
    "whole numbers": with_("model", "weight", value=lambda old: old.long()),
    "complex numbers": with_("model", "weight", value=lambda old: old.to(torch.complex64)),
    "another shape": with_("model", "weight", value=lambda old: old[:1]),
    "more": with_("model", "more", value=torch.ones(1)),
    "numbers for names": with_("model", value={1: torch.ones(1)}),
    "an iteration that is text": with_("iteration", value="1"),
    "an iteration that is true": with_("iteration", value=True),
    "no iteration": without("iteration"),
    "orders to a terminal": with_("model", "\x1b[2J\n", value=torch.ones(1)),
    "a thousand strange tensors": with_(
        "model", value=lambda old: old | {f"x{n}": torch.ones(1) for n in range(1000)}
    ),
}
HOSTILE_TRAINING_STATES = {
    "nothing": lambda tree: tree.clear(),
    "an optimizer that is text": with_("optimizer", value="adamw"),
    "no generators": without("rng"),
    "generators that are a list": with_("rng", value=[]),
    "a generator of another size": with_("rng", "cpu", value=torch.zeros(10, dtype=torch.uint8)),
    "a generator of zeros": with_("rng", "cpu", value=torch.zeros_like),
    "a generator that points beyond its numbers": with_(
        "rng", "cpu", value=lambda old: torch.full_like(old, 255)
    ),
    "a generator of fractions": with_("rng", "cpu", value=lambda old: old.float()),
    "a generator that is text": with_("rng", "cpu", value="mt19937"),
    "generators of a GPU that are a number": with_("rng", "cuda", value=1),
    "micro-batches that are text": with_("micro_batch_limit", value="all"),
    "a scaler that is text": with_("scaler", value="x"),
}
HOSTILE_ABOUTS = {
    "nothing": lambda about: about.clear(),
    "no identity": without("identity"),
    "an identity that is text": with_("identity", value="me"),
    "no tokenizer": without("identity", "tokenizer"),
    "another tokenizer": with_("identity", "tokenizer", value="0" * 64),
    "no config": without("config"),
    "a config that is a list": with_("config", value=[]),
    "no model": without("config", "model"),
    "a model that is text": with_("config", "model", value="gpt"),
    "an unknown key": with_("config", "model", "__class__", value="os.system"),
    "a width that is text": with_("config", "model", "d_model", value="8"),
    "a width of 10^30": with_("config", "model", "d_model", value=10**30),
    "a width of a million": with_("config", "model", "d_model", value=2**20),
    "a billion layers": with_("config", "model", "num_layers", value=10**9),
    "another width": with_("config", "model", "d_model", value=16),
    "a context of 10^12": with_("config", "model", "context_length", value=10**12),
}

HOSTILE_RESTORES = {
    "no best": lambda about, state: state.pop("best"),
    "a best that is text": lambda about, state: state.update(best="best"),
    "a best of texts": lambda about, state: state.update(best=["x", "y", "z"]),
    "a best of four": lambda about, state: state.update(best=[1, 2.0, 3.0, 4.0]),
    "no identity": lambda about, state: about.pop("identity"),
    "an identity that is text": lambda about, state: about.update(identity="me"),
    "an environment that is a list": lambda about, state: about.update(environment=[]),
    "no config": lambda about, state: about.pop("config"),
    "a clock that is text": lambda about, state: about.update(clock="noon"),
    "a clock of texts": lambda about, state: about.update(clock={"steps": ["a", "b"]}),
    "a clock of three": lambda about, state: about.update(clock={"steps": [1, 2, 3]}),
    "seconds that are text": lambda about, state: about.update(completed_seconds="long"),
}
