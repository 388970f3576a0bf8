"""Quotas and memory limits of control groups: fabricated ones, and a real one where it can be made."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from transformerlm.limits import available_cores, memory_bytes, processor_name, quota_cores

GIB = 2**30


def system(root: Path, groups: str, mounts: str) -> None:
    """Write what Linux says of the groups of a process, and of where they are mounted."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    (root / "proc/self/mountinfo").write_text("22 1 0:1 / / rw - ext4 /dev/root rw\n" + mounts)


def write(folder: Path, **files: object) -> None:
    """Write a group's files; `cpu__max` is cpu.max."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


V2 = "30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 22 0:28 / /sys/fs/cgroup/cpu,cpuacct rw master:1 - cgroup cgroup rw,cpu,cpuacct\n"
    "32 22 0:29 / /sys/fs/cgroup/memory rw master:2 - cgroup cgroup rw,memory\n"
)


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000", None),
        ("100000 100000", 1),
        ("50000 100000", 1),
        ("190000 100000", 2),
        ("320000 50000", 6),
    ],
)
def test_a_quota_is_a_number_of_threads(tmp_path, quota, cores):
    system(tmp_path, "0::/\n", V2)
    write(tmp_path / "sys/fs/cgroup", cpu__max=quota)
    assert quota_cores(tmp_path) == cores


def test_the_tightest_of_the_own_group_and_those_above_it_counts(tmp_path):
    """A job of Slurm or a service of systemd has limits below the root of the tree."""
    system(tmp_path, "0::/system.slice/job.service/step\n", V2)
    top = tmp_path / "sys/fs/cgroup"
    write(top / "system.slice", cpu__max="400000 100000", memory__max="max")
    write(top / "system.slice/job.service", cpu__max="200000 100000", memory__max=2 * GIB)
    write(top / "system.slice/job.service/step", cpu__max="max 100000", memory__max=3 * GIB)
    write(top / "system.slice/other.service", cpu__max="100000 100000", memory__max=GIB)
    assert quota_cores(tmp_path) == 2
    assert memory_bytes(tmp_path) == 2 * GIB


def test_version_1_has_a_tree_for_each_controller(tmp_path):
    system(tmp_path, "5:cpu,cpuacct:/slurm/job_7\n4:memory:/slurm/job_7\n1:name=systemd:/x\n0::/\n", V1)
    cpu, memory = (tmp_path / "sys/fs/cgroup" / name for name in ("cpu,cpuacct", "memory"))
    write(cpu, cpu__cfs_quota_us=-1, cpu__cfs_period_us=100000)
    write(cpu / "slurm/job_7", cpu__cfs_quota_us=300000, cpu__cfs_period_us=100000)
    write(memory / "slurm", memory__limit_in_bytes=GIB)
    write(memory / "slurm/job_7", memory__limit_in_bytes=9223372036854771712)  # none
    assert quota_cores(tmp_path) == 3
    assert memory_bytes(tmp_path) == GIB


@pytest.mark.parametrize("group", ["/docker/abc", "/docker/abc/inner"])
def test_a_container_without_a_namespace_sees_its_group_as_the_top(tmp_path, group):
    mounts = "30 22 0:26 /docker/abc /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
    system(tmp_path, f"2:cpu:{group}\n", mounts)
    write(tmp_path / "sys/fs/cgroup/cpu", cpu__cfs_quota_us=100000, cpu__cfs_period_us=100000)
    assert quota_cores(tmp_path) == 1


@pytest.mark.parametrize("group", ["/", "/../elsewhere", "/not/mounted/here"])
def test_in_a_namespace_the_visible_top_counts(tmp_path, group):
    system(tmp_path, f"0::{group}\n", V2)
    write(tmp_path / "sys/fs/cgroup", cpu__max="100000 100000")
    assert quota_cores(tmp_path) == 1


def test_a_mount_point_may_have_spaces(tmp_path):
    system(tmp_path, "0::/\n", V2.replace("/sys/fs/cgroup", r"/sys/of\040groups"))
    write(tmp_path / "sys/of groups", cpu__max="100000 100000")
    assert quota_cores(tmp_path) == 1


def test_without_groups_there_is_no_limit_but_the_machine(tmp_path):
    system(tmp_path / "empty", "0::/\n5:cpu:/a\n", V1 + V2)  # both versions, without their files
    for root in (tmp_path / "empty", tmp_path / "no proc"):
        assert quota_cores(root) is None
        assert memory_bytes(root) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_this_process_may_use_some_processors():
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


LIMITED = """
import os, sys
from pathlib import Path
for group in sys.argv[1:]:
    Path(group, "cgroup.procs").write_text(str(os.getpid()))
import torch
from transformerlm.config import RuntimeConfig
from transformerlm.kernels.dispatch import num_threads
from transformerlm.limits import available_cores, memory_bytes
from transformerlm.runtime import set_up_process
before = torch.get_num_threads()
print(available_cores(), memory_bytes(), num_threads(), torch.get_num_threads() == before, end=" ")
set_up_process(RuntimeConfig(device="cpu"))
print(torch.get_num_threads())
"""


@pytest.fixture
def real_groups():
    """A quota of one processor and a limit of one GiB, in groups of this system."""
    name, root = f"transformerlm-test-{os.getpid()}", Path("/sys/fs/cgroup")
    is_unified = (root / "cgroup.controllers").exists()
    groups = [root / name] if is_unified else [root / "cpu" / name, root / "memory" / name]
    files = (
        {"cpu.max": "100000 100000", "memory.max": GIB}
        if is_unified
        else {
            "cpu.cfs_quota_us": 100000,
            "memory.limit_in_bytes": GIB,
        }
    )
    made: list[Path] = []
    try:
        for group in groups:
            group.mkdir()
            made.append(group)
            for file in files:
                if (group / file).exists():
                    (group / file).write_text(str(files[file]))
        yield made
    except OSError as error:
        pytest.skip(f"control groups cannot be made here: {error}")
    finally:
        for group in made:
            group.rmdir()


@pytest.mark.slow
def test_a_real_quota_and_limit_hold_for_the_process_in_them(real_groups):
    command = [sys.executable, "-c", LIMITED, *map(str, real_groups)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    # The library leaves torch's threads alone; the command sets them.
    assert done.stdout.split() == ["1", str(GIB), "1", "True", "1"]


def test_the_processors_name_is_linuxs_or_the_architecture(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nmodel name\t: A Fast One @ 3 GHz\nflags\t: a b\n")
    assert processor_name(tmp_path) == "A Fast One @ 3 GHz"
    assert processor_name(tmp_path / "nowhere") == processor_name(tmp_path / "proc") != ""
