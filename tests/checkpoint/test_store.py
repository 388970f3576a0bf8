import copy
import hashlib
import io
import json
import os
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from transformerlm.checkpoint.run_directory import RunDirectory
from transformerlm.checkpoint.store import (
    checkpoint_paths,
    latest_checkpoint,
    load_checkpoint,
    open_checkpoint,
    prune_checkpoints,
    read_checkpoint,
    save_checkpoint,
    write_checkpoint,
)
from transformerlm.config import TrainConfig
from transformerlm.data import TokenData, TokenFile, TokenWriter
from transformerlm.errors import CheckpointError
from transformerlm.logging import NullLogger
from transformerlm.optim import AdamW
from transformerlm.progress import SilentReporter
from transformerlm.runtime import prepare_process
from transformerlm.schema import from_dict
from transformerlm.storage.checksummed_json import dump
from transformerlm.storage.files import remove_dead_temporaries
from transformerlm.storage.tree import load_tree
from transformerlm.training.trainer import Trainer

GOLDEN = Path(__file__).parents[1] / "golden"
MEMBERS = ["model.safetensors", "training.safetensors", "manifest.json"]


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


def write(directory, step, about=None, train_more=False):
    model = net()
    if train_more:
        model[0].weight.data += 1
    state = {"x": torch.full((3,), float(step))}
    return write_checkpoint(directory, step, model.state_dict(), state, about or {"n": step})


def test_a_run_checkpoint_tells_what_it_is(tmp_path):
    write(tmp_path, 500, {"config": {"model": {"d_model": 8}}})
    found = read_checkpoint(tmp_path / "step_00000500")
    assert (found.step, found.about) == (500, {"config": {"model": {"d_model": 8}}})
    assert torch.equal(found.training_state()["x"], torch.full((3,), 500.0))
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


def damage_block(path):
    data = bytearray(path.read_bytes())
    at = next(i for i in range(len(data) // 2, len(data)) if data[i])
    data[at : at + 512] = bytes(len(data[at : at + 512]))
    path.write_bytes(data)


def replace_by(make):
    def damage(path):
        path.unlink()
        make(path)

    return damage


def link_to_itself_elsewhere(path):
    shutil.copy(path, path.parent.parent / "elsewhere")
    path.unlink()
    path.symlink_to(path.parent.parent / "elsewhere")


DAMAGES = {
    "a flipped bit": damage_flip,
    "a zeroed block": damage_block,
    "a byte less": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "a byte more": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "a space more": lambda path: path.write_bytes(path.read_bytes() + b" "),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "nothing": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
    "a folder": replace_by(lambda path: path.mkdir()),
    "a FIFO": replace_by(os.mkfifo),
    "a device": replace_by(lambda path: path.symlink_to("/dev/zero")),
    "a link": link_to_itself_elsewhere,
    "a link to nothing": replace_by(lambda path: path.symlink_to("nothing")),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("member", MEMBERS)
def test_damage_is_found_and_the_member_named(damage, member, tmp_path):
    path = write(tmp_path, 1).path
    DAMAGES[damage](path / member)
    (line,) = refusal_of(path)
    assert line.startswith(f"{path / member}: ")
    # A manifest that is no JSON any more cannot say what it was to be.
    assert ("expected" in line and "got" in line) or (member == MEMBERS[2] and "not valid JSON" in line)


@pytest.mark.parametrize("members", [MEMBERS[:1], MEMBERS[1:2], MEMBERS[:2], MEMBERS[2:], MEMBERS])
def test_what_is_swapped_between_two_checkpoints_is_found(members, tmp_path):
    one, two = write(tmp_path, 1).path, write(tmp_path, 2, train_more=True).path
    for member in members:
        (one / member).rename(tmp_path / "third")
        (two / member).rename(one / member)
        (tmp_path / "third").rename(two / member)
    for path in (one, two):
        (line,) = refusal_of(path)
        assert "expected" in line
        assert "got" in line


def test_what_is_swapped_within_a_checkpoint_is_found(tmp_path):
    path = write(tmp_path, 1).path
    (path / MEMBERS[0]).rename(path / "third")
    (path / MEMBERS[1]).rename(path / MEMBERS[0])
    (path / "third").rename(path / MEMBERS[1])
    assert "expected" in refusal_of(path)[0]


def refusal_of(path) -> list[str]:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert all(line.isprintable() for line in caught.value.lines)
    return caught.value.lines


def check_flips(path, count: int, seed: int) -> None:
    """Flip single bits all over a checkpoint, and see each one found and its file named."""
    rng = random.Random(seed)
    contents = {path / name: (path / name).read_bytes() for name in MEMBERS}
    for _ in range(count):
        member = rng.choice(list(contents))  # not by size: the manifest is the smallest
        bit = rng.randrange(8 * len(contents[member]))
        flipped = bytearray(contents[member])
        flipped[bit // 8] ^= 1 << bit % 8
        member.write_bytes(flipped)
        (line,) = refusal_of(path)
        assert line.startswith(f"{member}: "), (bit, line)
        member.write_bytes(contents[member])
    read_checkpoint(path)


def test_every_flipped_bit_is_found_and_its_file_named(tmp_path):
    check_flips(write(tmp_path, 1).path, 500, seed=0)


@pytest.mark.slow
@pytest.mark.endurance
def test_ten_thousand_flipped_bits_are_found(tmp_path):
    check_flips(write(tmp_path, 1).path, 10_000, seed=1)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", b'{"format_version": 1}', b"[" * 9999])
def test_a_broken_manifest_is_one_line(content, tmp_path):
    path = write(tmp_path, 1).path
    (path / "manifest.json").write_bytes(content)
    assert len(refusal_of(path)) == 1


MEMBER = {"num_bytes": 1, "sha256": "0" * 64}
WRONG_MANIFESTS = {
    "no version": {"format_version": None},
    "a version that is text": {"format_version": "2"},
    "a version that is true": {"format_version": True},
    "a version that is a fraction": {"format_version": 2.0},
    "a version of before the first": {"format_version": 0},
    "no step": {"step": None},
    "a negative step": {"step": -1},
    "another step than its folder's": {"step": 2},
    "a step with four thousand digits": {"step": 10**4000},
    "no words about it": {"about": []},
    "no members": {"members": None},
    "one member": {"members": {MEMBERS[0]: MEMBER}},
    "members that are a list": {"members": MEMBERS[:2]},
    "a third member": {"members": {MEMBERS[0]: MEMBER, MEMBERS[1]: MEMBER, "../../etc/passwd": MEMBER}},
    "a member elsewhere": {"members": {MEMBERS[0]: MEMBER, "/dev/zero": MEMBER}},
    "a member without a sum": {"members": {name: {"num_bytes": 1} for name in MEMBERS[:2]}},
    "a size that is text": {"members": dict.fromkeys(MEMBERS[:2], MEMBER | {"num_bytes": "1"})},
    "orders to a terminal": {"members": {"\x1b[2J\n": MEMBER}},
}


@pytest.mark.parametrize("wrong", WRONG_MANIFESTS)
@pytest.mark.parametrize("is_sealed", [True, False])
def test_a_manifest_that_promises_nonsense_is_refused_in_one_line(wrong, is_sealed, tmp_path):
    path = write(tmp_path, 1).path
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["seal"]
    manifest = manifest | {"format_version": 2 if is_sealed else 1} | WRONG_MANIFESTS[wrong]
    (path / "manifest.json").write_bytes(dump(manifest) if is_sealed else json.dumps(manifest).encode())
    (line,) = refusal_of(path)
    assert line.startswith(f"{path / 'manifest.json'}: ")
    assert len(line) < 500


def test_a_huge_manifest_is_not_read(tmp_path):
    path = write(tmp_path, 1).path
    with (path / "manifest.json").open("r+b") as file:
        file.truncate(2**40)  # has holes: takes no room on the disk
    (line,) = refusal_of(path)
    assert line.endswith("expected at most 4,194,304 bytes, got 1,099,511,627,776")


def test_a_manifest_that_could_not_be_read_is_not_written(tmp_path):
    with pytest.raises(CheckpointError, match="expected at most"):
        write(tmp_path, 1, {"text": "a" * 2**22})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_sealed", [True, False])
def test_a_newer_format_is_refused(is_sealed, tmp_path):
    path = write(tmp_path, 1).path
    newer = {"format_version": 99, "and": "what not"}
    (path / "manifest.json").write_bytes(dump(newer) if is_sealed else json.dumps(newer).encode())
    (line,) = refusal_of(path)
    assert "expected format 2 or older, got 99: " in line


def test_a_checksum_cannot_be_left_out(tmp_path):
    path = write(tmp_path, 1).path
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["seal"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert "its own checksum is missing" in refusal_of(path)[0]


def test_a_checkpoint_of_the_first_format_loads_and_training_goes_on_from_it(tmp_path):
    # Written by the first version, as is what its next step made of the weights. The data were these.
    shutil.copytree(GOLDEN / "checkpoint_1" / "step_00000002", tmp_path / "checkpoints" / "step_00000002")
    ids = np.arange(200, dtype=np.uint16)
    with TokenWriter.create(tmp_path / "t", vocab_size=16, fingerprint="golden") as writer:
        writer.write((ids * ids + ids // 7) % 16, num_documents=1, num_bytes=400)
    data = TokenData(TokenFile.open(tmp_path / "t"), None)

    heard = []
    found = latest_checkpoint(tmp_path / "checkpoints", heard.append)
    assert (found.step, heard) == (2, [])
    config = from_dict(TrainConfig, found.about["config"])
    runtime, run = prepare_process(config.runtime), RunDirectory(tmp_path)
    trainer = Trainer(config, data, run, runtime, SilentReporter())
    trainer.restore(found)
    assert trainer.train(NullLogger()) == 0
    assert trainer.step == 3
    expected = load_tree(GOLDEN / "checkpoint_1" / "weights_of_step_3.safetensors")
    torch.testing.assert_close(trainer.model.state_dict(), expected)
    assert read_checkpoint(tmp_path / "checkpoints" / "step_00000003").step == 3


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


def of_run(best, newest, is_complete=True):
    return {"is_complete": is_complete, "best_validation": best, "newest_validation": newest}


def test_a_complete_run_is_its_best_checkpoint(tmp_path):
    checkpoints, heard = tmp_path / "checkpoints", []
    best, last = [3, 1.5, 0.5], [5, 2.0, 0.7]
    write(checkpoints, 3)
    write(checkpoints, 5, of_run(best, last, is_complete=False))
    assert open_checkpoint(tmp_path, heard.append).step == 5
    write(checkpoints, 5, of_run([5, 1.5, 0.5], [5, 1.5, 0.5]))
    assert open_checkpoint(tmp_path, heard.append).step == 5
    write(checkpoints, 5, of_run([3, 2.0, 0.7], last))  # no worse
    assert open_checkpoint(tmp_path, heard.append).step == 5
    assert heard == []
    write(checkpoints, 5, of_run(best, last))
    assert open_checkpoint(tmp_path, heard.append).step == 3
    numbers = "the best of its run, with a validation loss of 1.500; the last one, of step 5, has 2.000"
    assert heard == [f"{checkpoints / 'step_00000003'}: {numbers}"]
    assert open_checkpoint(checkpoints / "step_00000005", silent).step == 5
    assert latest_checkpoint(checkpoints, silent).step == 5


def test_a_best_checkpoint_that_is_damaged_or_gone_is_left_out(tmp_path):
    checkpoints, heard = tmp_path / "checkpoints", []
    write(checkpoints, 3)
    write(checkpoints, 5, of_run([3, 1.5, 0.5], [5, 2.0, 0.7]))
    damage_flip(checkpoints / "step_00000003" / "model.safetensors")
    assert open_checkpoint(tmp_path, heard.append).step == 5
    assert [line.partition(": ")[0] for line in heard] == ["skipped a damaged checkpoint"]
    shutil.rmtree(checkpoints / "step_00000003")
    assert open_checkpoint(tmp_path, heard.append).step == 5
    assert len(heard) == 1


@pytest.mark.parametrize("best", [None, [], [3], ["3", 1.5], [3, "x"], [True, 1.0], {"step": 3}, [-4, 0.5]])
def test_what_is_no_validation_in_a_manifest_chooses_nothing(best, tmp_path):
    write(tmp_path / "checkpoints", 5, of_run(best, [5, 2.0, 0.7]))
    assert open_checkpoint(tmp_path, silent).step == 5


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


def steps_in(directory) -> list[int]:
    return [int(path.name[5:13]) for path in checkpoint_paths(directory)]


@pytest.mark.parametrize(
    ("damaged", "keep", "best", "own", "left"),
    [
        ([5], 2, None, [], [3, 4]),  # a damaged one does not count
        ([5, 4, 3], 2, None, [], [1, 2]),
        ([5], 2, 5, [], [3, 4, 5]),  # the best one stays, whatever it is like
        ([1, 2, 3, 4, 5], 1, None, [], [1, 2, 3, 4, 5]),  # none is valid: none goes
        ([4, 5], 2, None, [3, 2], [2, 3, 4, 5]),  # went back past 4 and 5, and has just written 3
        ([4, 5], 1, None, [3, 2], [3, 4, 5]),
        ([2, 5], 2, None, [4], [3, 4, 5]),
        ([3], 3, 1, [5, 4], [1, 2, 4, 5]),
    ],
)
def test_pruning_keeps_what_is_valid(damaged, keep, best, own, left, tmp_path):
    for step in range(1, 6):
        write(tmp_path, step)
    for step in damaged:
        damage_block(tmp_path / f"step_{step:08d}" / MEMBERS[step % 2])
    prune_checkpoints(tmp_path, keep, best, own)
    assert steps_in(tmp_path) == left


def test_pruning_leaves_links_and_strangers_alone(tmp_path):
    elsewhere = write(tmp_path / "elsewhere", 1).path
    run = tmp_path / "run"
    for step in (2, 3):
        write(run, step)
    (run / elsewhere.name).symlink_to(elsewhere)
    (run / "step_of_mine").mkdir()
    prune_checkpoints(run, 1, None)
    assert sorted(path.name for path in run.iterdir()) == ["step_00000001", "step_00000003", "step_of_mine"]
    assert read_checkpoint(run / "step_00000001").step == 1


def test_the_newest_is_that_of_the_highest_step_however_long_its_number(tmp_path):
    for step in (99_999_999, 100_000_000):
        write(tmp_path, step)
    assert latest_checkpoint(tmp_path, silent).step == 100_000_000


def test_checkpoints_that_cannot_be_listed_are_not_taken_for_none(tmp_path):
    (tmp_path / "checkpoints").write_text("no folder")
    with pytest.raises(CheckpointError, match="checkpoints: cannot be read: Not a directory"):
        latest_checkpoint(tmp_path / "checkpoints", silent)


def test_one_that_is_written_while_others_are_tried_is_found(tmp_path):
    damage_flip(write(tmp_path, 1).path / "manifest.json")
    assert latest_checkpoint(tmp_path, lambda _: write(tmp_path, 2)).step == 2


def test_a_failed_write_leaves_the_older_one_of_its_step_as_it_was(tmp_path):
    write(tmp_path, 1, {"n": "old"})
    with pytest.raises(TypeError, match="JSON"):
        write(tmp_path, 1, {"n": {1, 2}})
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
    assert read_checkpoint(tmp_path / "step_00000001").about == {"n": "old"}


def leave_one(directory):
    write(directory, 1, {"n": "old"})


def leave_both(directory):
    write(directory, 1, {"n": "older"}).path.rename(directory / "step_00000001.replaced")
    write(directory / "aside", 1, {"n": "old"}).path.rename(directory / "step_00000001")
    (directory / "aside").rmdir()


def leave_a_damaged_one_and_the_older(directory):
    leave_both(directory)
    damage_flip(directory / "step_00000001" / MEMBERS[0])


def leave_the_older(directory):
    leave_both(directory)
    shutil.rmtree(directory / "step_00000001")


@pytest.mark.slow
@pytest.mark.parametrize("leave", [leave_one, leave_both, leave_a_damaged_one_and_the_older, leave_the_older])
def test_a_crash_at_any_call_leaves_a_valid_one_where_there_was_one(leave, tmp_path):
    leave(tmp_path / "before")
    for number in range(1, 500):
        directory = tmp_path / str(number)
        shutil.copytree(tmp_path / "before", directory)
        crashed = ends_in_a_crash(number, directory)
        found = latest_checkpoint(directory, silent)
        assert found.step == 1
        assert found.about["n"] in ("older", "old", "new")
        assert found.training_state().keys() == {"x"}
        remove_dead_temporaries(directory)
        write(directory, 1, {"n": "again"})
        assert [path.name for path in directory.iterdir()] == ["step_00000001"]
        if not crashed:
            break
    assert not crashed
    assert number > 15
    assert found.about == {"n": "new"}


def ends_in_a_crash(number: int, directory) -> bool:
    """Write step 1 anew in a child that ends, as if killed, before its `number`th call that touches files."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    calls = 0

    def crash(event, arguments):
        nonlocal calls
        if event.startswith(("open", "os.", "shutil.")):
            calls += 1
            if calls == number:
                os._exit(9)

    sys.addaudithook(crash)
    write(directory, 1, {"n": "new"})
    os._exit(0)


def flip(path, rng):
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def cut(path, rng):
    os.truncate(path, rng.randrange(path.stat().st_size))


def zero(path, rng):
    data = bytearray(path.read_bytes())
    at = rng.randrange(len(data))
    data[at : at + 64] = bytes(len(data[at : at + 64]))
    path.write_bytes(data)


def swap(path, rng):
    other = rng.choice(sorted(path.parent.parent.glob(f"*/{path.name}")))
    mine, yours = path.read_bytes(), other.read_bytes()
    path.write_bytes(yours)
    other.write_bytes(mine)


RANDOM_DAMAGES = [
    flip,
    cut,
    zero,
    swap,
    lambda path, rng: path.unlink(),
    lambda path, rng: path.write_bytes(path.read_bytes() + rng.randbytes(3)),
    lambda path, rng: shutil.rmtree(path.parent),
]


def fingerprints(directory) -> dict[str, str]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("number", [30, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.endurance])])
def test_of_damaged_checkpoints_the_newest_whole_one_is_resumed_from_or_none(number, tmp_path):
    write(tmp_path / "before", 1)
    for step in (2, 3, 4):
        write(tmp_path / "before", step, train_more=step % 2)
    whole, outcomes = fingerprints(tmp_path / "before"), []
    for seed in range(number):
        rng, directory = random.Random(seed), tmp_path / str(seed)
        shutil.copytree(tmp_path / "before", directory)
        for _ in range(rng.choice([1, 2, 4, 8, 16])):
            if files := sorted(path for path in directory.rglob("*") if path.is_file()):
                rng.choice(RANDOM_DAMAGES)(rng.choice(files), rng)
        now, there = fingerprints(directory), [path.name for path in directory.iterdir()]
        as_written = [
            name for name in there if all(now.get(f"{name}/{m}") == whole[f"{name}/{m}"] for m in MEMBERS)
        ]
        heard = []
        if not there:
            assert latest_checkpoint(directory, heard.append) is None
        elif as_written:
            assert latest_checkpoint(directory, heard.append).path.name == max(as_written)
            assert len(heard) == len([name for name in there if name > max(as_written)])
        else:
            with pytest.raises(CheckpointError, match=f"none of {len(there)} checkpoints is valid"):
                latest_checkpoint(directory, heard.append)
        outcomes.append(max(as_written, default="none"))
    assert len(set(outcomes)) == 5  # each of the four was the newest at times, and none at others


def test_a_hugging_face_folder_is_told_from_a_damaged_checkpoint(tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    advice = f'transformerlm-import --from "{tmp_path}" runs/{tmp_path.name}-imported'
    with pytest.raises(
        CheckpointError, match="a Hugging Face folder, which has to become a run first"
    ) as caught:
        open_checkpoint(tmp_path, lambda line: None)
    assert str(caught.value).endswith(advice)
