import copy
import io
import json
import shutil

import pytest
import torch
from torch import nn

from transformerlm.checkpoint import (
    checkpoint_paths,
    latest_checkpoint,
    load_checkpoint,
    open_checkpoint,
    prune_checkpoints,
    read_checkpoint,
    save_checkpoint,
    write_checkpoint,
)
from transformerlm.errors import CheckpointError
from transformerlm.optim import AdamW


def silent(message: str) -> None:
    pass


def net(width: int = 5) -> nn.Module:
    torch.manual_seed(width)
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


def tied() -> nn.Module:
    model = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 4, bias=False))
    model[1].weight = model[0].weight
    return model


OPTIMIZERS = {
    "ours": lambda p: AdamW(p, lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1),
    "torch AdamW with amsgrad": lambda p: torch.optim.AdamW(p, amsgrad=True),
    "SGD with momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "RMSprop": lambda p: torch.optim.RMSprop(p),
    "Adafactor": lambda p: torch.optim.Adafactor(p),
}


def train(model, optimizer, steps, seed):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        model(torch.randn(8, 3, generator=generator)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("to_file", [False, True])
def test_any_module_and_optimizer_go_on_to_the_same_bits(kind, to_file, tmp_path):
    model = net()
    optimizer = OPTIMIZERS[kind](model.parameters())
    train(model, optimizer, 3, seed=1)
    out = io.BytesIO() if to_file else tmp_path / "deep" / "checkpoint"
    save_checkpoint(model, optimizer, 3, out)
    train(model, optimizer, 3, seed=2)

    other = net()
    restored = OPTIMIZERS[kind](other.parameters())
    if to_file:
        out.seek(0)
    assert load_checkpoint(out, other, restored) == 3
    train(other, restored, 3, seed=2)
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_tied_weights_stay_tied(tmp_path):
    model, other = tied(), tied()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    save_checkpoint(model, optimizer, 0, tmp_path / "c")
    load_checkpoint(tmp_path / "c", other, torch.optim.SGD(other.parameters(), lr=0.1))
    assert other[0].weight is other[1].weight
    assert torch.equal(other[0].weight, model[0].weight)


def test_another_model_is_refused_and_left_as_it_was(tmp_path):
    model = net()
    save_checkpoint(model, OPTIMIZERS["ours"](model.parameters()), 1, tmp_path / "c")
    other = net(7)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "c", other, OPTIMIZERS["ours"](other.parameters()))
    assert f"{tmp_path / 'c'}: 0.weight: expected shape (7, 3), got (5, 3)" in caught.value.lines
    for name, value in other.state_dict().items():
        assert torch.equal(value, before[name])
    with pytest.raises(CheckpointError, match=r"2\.bias: the model has no such tensor"):
        load_checkpoint(tmp_path / "c", other[:2], OPTIMIZERS["ours"](other[:2].parameters()))


def test_another_optimizer_is_refused(tmp_path):
    model = net()
    save_checkpoint(model, OPTIMIZERS["ours"](model.parameters()), 1, tmp_path / "c")
    groups = [{"params": [p]} for p in model.parameters()]
    with pytest.raises(CheckpointError, match="optimizer"):
        load_checkpoint(tmp_path / "c", model, torch.optim.SGD(groups, lr=0.1))


def test_a_pickle_is_refused_and_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    model = net()
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        load_checkpoint(tmp_path / "evil.pt", model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert not (tmp_path / "owned").exists()


def write(directory, step, about=None):
    return write_checkpoint(directory, step, net().state_dict(), {"x": torch.ones(3)}, about or {"n": step})


def test_a_run_checkpoint_tells_what_it_is(tmp_path):
    write(tmp_path, 500, {"config": {"model": {"d_model": 8}}})
    found = read_checkpoint(tmp_path / "step_00000500")
    assert (found.step, found.about) == (500, {"config": {"model": {"d_model": 8}}})
    assert torch.equal(found.training_state()["x"], torch.ones(3))
    assert found.model_state().keys() == net().state_dict().keys()
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000500"]


def test_the_same_step_can_be_written_again(tmp_path):
    write(tmp_path, 1, {"n": "old"})
    write(tmp_path, 1, {"n": "new"})
    assert read_checkpoint(tmp_path / "step_00000001").about == {"n": "new"}
    assert len(list(tmp_path.iterdir())) == 1


def damage_flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "a flipped bit": damage_flip,
    "a byte less": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "a byte more": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("member", ["model.safetensors", "training.safetensors"])
def test_damage_is_found_and_the_member_named(damage, member, tmp_path):
    path = write(tmp_path, 1).path
    DAMAGES[damage](path / member)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert str(path / member) in caught.value.lines[0]
    assert len(caught.value.lines) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", b'{"format_version": 1}', b"[" * 9999])
def test_a_broken_manifest_is_one_line(content, tmp_path):
    path = write(tmp_path, 1).path
    (path / "manifest.json").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert len(caught.value.lines) == 1


def test_a_newer_format_is_refused(tmp_path):
    path = write(tmp_path, 1).path
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"format_version": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        read_checkpoint(path)


def test_the_newest_valid_checkpoint_is_taken(tmp_path):
    assert latest_checkpoint(tmp_path / "none", silent) is None
    for step in (1, 2, 10):
        write(tmp_path, step)
    assert latest_checkpoint(tmp_path, silent).step == 10
    damage_flip(tmp_path / "step_00000010" / "model.safetensors")
    warnings = []
    assert latest_checkpoint(tmp_path, warnings.append).step == 2
    assert len(warnings) == 1
    assert "step_00000010" in warnings[0]
    for step in (1, 2):
        shutil.rmtree(tmp_path / f"step_{step:08d}")
    with pytest.raises(CheckpointError, match="none of 1 checkpoints is valid"):
        latest_checkpoint(tmp_path, silent)


def test_a_half_written_checkpoint_is_not_seen(tmp_path):
    write(tmp_path, 1)
    shutil.copytree(tmp_path / "step_00000001", tmp_path / ".step_00000002.tmp.1.abc")
    assert [p.name for p in checkpoint_paths(tmp_path)] == ["step_00000001"]


def test_opening_by_run_or_by_checkpoint(tmp_path):
    write(tmp_path / "checkpoints", 3)
    assert open_checkpoint(tmp_path, silent).step == 3
    assert open_checkpoint(tmp_path / "checkpoints" / "step_00000003", silent).step == 3
    with pytest.raises(CheckpointError, match="no checkpoint there"):
        open_checkpoint(tmp_path / "elsewhere", silent)


@pytest.mark.parametrize(
    ("keep", "best", "left"), [(2, None, [4, 5]), (2, 1, [1, 4, 5]), (2, 5, [4, 5]), (9, 1, [1, 2, 3, 4, 5])]
)
def test_pruning_keeps_the_newest_and_the_best(keep, best, left, tmp_path):
    for step in range(1, 6):
        write(tmp_path, step)
    prune_checkpoints(tmp_path, keep, best)
    assert [int(p.name[5:]) for p in checkpoint_paths(tmp_path)] == left
