"""Training on several ranks against one process, for real: losses and bits are compared."""

import json
import shutil

import pytest
import safetensors
import torch

from tests.distributed import group
from tests.distributed.cases import SAME, STRAIGHT, case
from tests.distributed.divided_checkpoints import check_read_by_others
from tests.distributed.ranks_that_train import run_case
from transformerlm.checkpoint.manifest import make_manifest, read_manifest
from transformerlm.checkpoint.store import checkpoint_paths, latest_checkpoint, read_checkpoint
from transformerlm.distributed.ranks import SINGLE_PROCESS
from transformerlm.errors import CheckpointError
from transformerlm.logging import names
from transformerlm.storage.files import remove_dead_temporaries
from transformerlm.storage.tree import flatten

pytestmark = [pytest.mark.distributed, pytest.mark.slow]
several = pytest.mark.parametrize("place", [2, pytest.param(4, marks=pytest.mark.endurance)], indirect=True)
both = pytest.mark.parametrize("sharding", ["none", "full"])


def results(folder, name):
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f"{name}.*.json"))]


def records(path, key=names.LOSS):
    found = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
    return [record for record in found if key in record]


def close(left, right, tolerance):
    torch.testing.assert_close(left, right, atol=tolerance, rtol=0)


def assert_same_curve(folder, other, tolerance=1e-5, validation_tolerance=1e-6):
    left, right = records(folder), records(other)
    assert [r["step"] for r in left] == [r["step"] for r in right]
    close([r[names.LOSS] for r in left], [r[names.LOSS] for r in right], tolerance)
    left, right = records(folder, names.VAL_LOSS), records(other, names.VAL_LOSS)
    assert [r["step"] for r in left] == [r["step"] for r in right]
    assert left
    close([r[names.VAL_LOSS] for r in left], [r[names.VAL_LOSS] for r in right], validation_tolerance)


@pytest.mark.parametrize("name", group.OPTIMIZERS)
def test_an_optimizer_steps_over_divided_parameters_as_over_whole_ones(ranks2, name):
    differences = [path.read_text() for path in ranks2.glob(f"optimizer_{name}.*")]
    assert differences == ["", ""]


@several
@both
@pytest.mark.parametrize("name", SAME)
def test_ranks_learn_what_one_process_learns(place, alone, name, sharding):
    # Validation after steps that differ by rounding differs by as much; before any step, see below.
    assert_same_curve(place / f"{name}_{sharding}", alone / name, validation_tolerance=1e-5)
    norms = {k for k in records(alone / name)[-1] if k.startswith("norms")} | {names.GRAD_L2_NORM, names.LR}
    assert len(norms) > 10
    for ours, theirs in zip(records(place / f"{name}_{sharding}"), records(alone / name), strict=True):
        torch.testing.assert_close([ours[k] for k in norms], [theirs[k] for k in norms], rtol=1e-3, atol=1e-5)
    everybody = results(place, f"{name}_{sharding}")
    assert {result["status"] for result in everybody} == {0}
    assert len({str(result["best"]) for result in everybody}) == 1
    shares = [result["parameters"] for result in everybody]
    assert max(shares) * (len(shares) if sharding == "full" else 1) < 1.1 * parameters_of(alone / name)
    assert everybody[0]["is_whole"]


def parameters_of(path):
    checkpoint = read_checkpoint(checkpoint_paths(path / "checkpoints")[-1])
    tied = checkpoint.about["config"]["model"]["tie_embeddings"]
    state = checkpoint.model_state()
    return sum(t.numel() for key, t in state.items() if not (tied and key.startswith("embedding")))


@several
@both
def test_fewer_windows_than_ranks_are_validated_all_the_same(place, alone, sharding):
    assert_same_curve(place / f"short_{sharding}", alone / "short")


@several
@both
def test_a_mixture_is_the_same_on_any_number_of_ranks(place, alone, sharding):
    ours, theirs = place / f"mixed_{sharding}", alone / "mixed"
    assert_same_curve(ours, theirs, validation_tolerance=1e-5)
    for key in (names.of_corpus(names.TOKENS, "short"), names.of_corpus(names.VAL_BITS_PER_BYTE, "short")):
        close(
            [record[key] for record in records(ours, key)],
            [record[key] for record in records(theirs, key)],
            1e-5,
        )


@several
@both
def test_float16_scales_the_loss_alike_on_all_ranks(place, alone, sharding):
    assert_same_curve(place / f"float16_{sharding}", alone / "float16", 2e-3, 2e-3)


@several
@both
@pytest.mark.parametrize("begun_by", ["alone", "itself", "other"])
def test_what_some_ranks_have_begun_others_finish(place, alone, begun_by, sharding):
    folder = place / f"{begun_by}_to_{sharding}"
    assert [record["step"] for record in records(folder)] == list(range(1, 9))
    assert_same_curve(folder, alone / "straight", validation_tolerance=1e-5)


@several
@both
def test_as_many_ranks_go_on_to_the_same_bits(place, sharding):
    left, right = (
        read_checkpoint(place / name / "checkpoints" / "step_00000008")
        for name in (f"straight_{sharding}", f"itself_to_{sharding}")
    )
    assert left.members == right.members


def test_parts_are_read_whole_and_in_the_rows_of_any_number_of_ranks(ranks2):
    check_read_by_others(ranks2 / "divided")


def test_other_programs_read_the_parts(ranks2):
    folder = ranks2 / "divided" / "step_00000001"
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    ours = read_checkpoint(folder).model_state()
    assert index["metadata"]["total_size"] == sum(t.nbytes for name, t in ours.items() if name != "tied")
    assert index["weight_map"].keys() == ours.keys() - {"tied"}
    for name, file in index["weight_map"].items():
        with safetensors.safe_open(folder / file, "pt") as theirs:
            assert theirs.metadata()["format"] == "pt"
            assert torch.equal(theirs.get_tensor(name), ours[name])


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_a_checkpoint_without_all_its_parts_is_refused(ranks2, tmp_path, change):
    folder = shutil.copytree(ranks2 / "divided" / "step_00000001", tmp_path / "step_00000001")
    if change == "missing":
        (folder / "training-00002-of-00002.safetensors").unlink()
        with pytest.raises(CheckpointError, match=r"training-00002-of-00002\.safetensors: expected a file"):
            read_checkpoint(folder)
        return
    manifest = read_manifest(folder)
    del manifest.members["model-00002-of-00002.safetensors"]
    written = make_manifest(folder, 1, manifest.about, manifest.members)
    (folder / "manifest.json").write_bytes(written)
    with pytest.raises(CheckpointError, match="or all parts of both"):
        read_checkpoint(folder)


@several
@both
def test_one_process_finishes_what_ranks_have_begun(place, alone, sharding, tmp_path):
    for name in ("train", "val"):
        for path in place.glob(f"{name}.memmap*"):
            shutil.copy(path, tmp_path)
    options = case(**STRAIGHT, begun=place / f"begun_{sharding}")
    assert run_case(SINGLE_PROCESS, tmp_path, "run", **options)["status"] == 0
    assert_same_curve(tmp_path / "run", alone / "straight", validation_tolerance=1e-5)


@several
@both
def test_checkpoints_are_those_of_one_process(place, alone, sharding):
    ours, theirs = (
        read_checkpoint(folder / "checkpoints" / "step_00000008")
        for folder in (place / f"muon_{sharding}", alone / "muon")
    )
    (tensors, _), (other_tensors, _) = (flatten(one.training_state()) for one in (ours, theirs))
    assert {name: (t.dtype, t.shape) for name, t in tensors.items()} == {
        name: (t.dtype, t.shape) for name, t in other_tensors.items()
    }
    torch.testing.assert_close(ours.model_state(), theirs.model_state(), atol=1e-4, rtol=1e-3)


@several
@both
def test_a_signal_to_one_rank_ends_all_after_the_same_step(place, sharding):
    everybody = results(place, f"signalled_{sharding}")
    assert {(result["status"], result["step"]) for result in everybody} == {(143, 3)}
    assert read_checkpoint(checkpoint_paths(place / f"signalled_{sharding}" / "checkpoints")[-1]).step == 3


@several
def test_a_budget_in_time_is_one_of_rank_0_s_clock(place):
    everybody = results(place, "timed")
    assert len({(result["step"], result["seconds"]) for result in everybody}) == 1
    assert everybody[0]["seconds"] == pytest.approx(40, abs=4)  # two steps
    assert everybody[0]["step"] > 10
    assert records(place / "timed")[-1][names.LR] == pytest.approx(1e-3, rel=0.1)


@several
@both
def test_what_is_not_finite_ends_all_ranks_alike(place, sharding):
    everybody = results(place, f"nan_{sharding}")
    assert {result["status"] for result in everybody} == {6}
    assert len({str(result["error"]) for result in everybody}) == 1
    assert everybody[0]["error"][0].startswith("step 1: not finite: loss nan")
    assert not (place / f"nan_{sharding}" / "checkpoints").exists()


@several
@both
def test_one_rank_s_faulty_step_has_all_go_back_to_the_same_place(place, alone, sharding):
    everybody = results(place, f"back_{sharding}")
    assert {(result["status"], result["step"], result["left_out"]) for result in everybody} == {(0, 8, 2)}
    assert_same_curve(place / f"back_{sharding}", alone / "back", validation_tolerance=1e-5)


@several
def test_where_one_rank_lacks_memory_all_take_smaller_micro_batches(place, alone):
    everybody = results(place, "no_memory")
    assert {result["micro_batch_size"] for result in everybody} == {1}
    assert_same_curve(place / "no_memory", alone / "plain", validation_tolerance=1e-5)
    line = "going on with 1 sequences at a time instead of {}; the mathematics is the same"
    share = 8 // len(everybody)
    assert everybody[0]["heard"] == [f"out of memory on another rank: {line.format(share)}"]
    assert everybody[1]["heard"][-1] == f"out of memory: {line.format(2)}"


@several
def test_a_batch_that_cannot_be_shared_is_one_line(place):
    for name, line in (
        ("unequal", "batch_size: expected a multiple of the {ranks} ranks, got 9"),
        ("unequal_parts", "micro_batch_size: expected a divisor of the {share} sequences of each of {ranks}"),
    ):
        everybody = results(place, name)
        assert {result["status"] for result in everybody} == {2}
        ((found,),) = {tuple(result["error"]) for result in everybody}
        assert found.startswith("[training]." + line.format(ranks=len(everybody), share=8 // len(everybody)))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_while_it_saves_leaves_the_former_checkpoint(ranks2, tmp_path, rank):
    check_others_have_ended(ranks2, f"saving_{rank}")
    checkpoints = shutil.copytree(ranks2 / f"saving_{rank}" / "checkpoints", tmp_path / "checkpoints")
    assert latest_checkpoint(checkpoints, pytest.fail).step == 3
    remove_dead_temporaries(checkpoints)  # as each start does
    assert [path.name for path in checkpoints.iterdir()] == ["step_00000003"]


@both
def test_memory_that_runs_out_on_one_rank_later_is_one_line_for_all(ranks2, sharding):
    told, own = results(ranks2, f"memory_{sharding}")
    line = "out of memory for 4 sequences at a time: take a smaller [training].micro_batch_size"
    assert told["error"] == own["error"]
    assert (told["status"], own["status"], len(own["error"])) == (1, 1, 1)
    assert own["error"][0].startswith(line)


@pytest.mark.parametrize("name", ["killed_none", "killed_full", "last"])
def test_a_killed_rank_ends_the_others_within_seconds(ranks2, name):
    left = check_others_have_ended(ranks2, name)
    assert len(left["error"]) == 1


def check_others_have_ended(folder, name):
    """Check that the others of a killed rank have soon seen it and said so; what they have said."""
    ended = max(float(path.read_text()) for path in folder.glob(f"{name}.*ended"))
    assert ended - float((folder / f"{name}.killed").read_text()) < 30
    (left,) = results(folder, name)
    assert "another rank has ended, or cannot be reached" in left["error"][0], (folder / "errors").read_text()
    return left
