"""The cores of this process are those of its affinity, or as many as the quotas of its cgroups leave."""

import os
from pathlib import Path

import pytest

from toolkit.cores import allowed_cores, usable_cores


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return the cores of a process that may run on eight, in the cgroups and with the files that are named."""
    monkeypatch.setattr("toolkit.cores.allowed_cores", lambda: list(range(8)))

    def system(cgroups: str | None, **files: str) -> int:
        for name, content in {"proc/self/cgroup": cgroups, **files}.items():
            if content is not None:
                path = tmp_path / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content + "\n")
        return usable_cores(tmp_path)

    return system


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("300000 100000", 3), ("150000 100000", 1), ("20000 100000", 1), ("max 100000", 8), ("900000 100000", 8)],
)
def test_a_quota_of_version_2_leaves_as_many_cores(system, quota, cores):
    assert system("0::/", **{"sys/fs/cgroup/cpu.max": quota}) == cores


@pytest.mark.parametrize(("quota", "cores"), [("250000", 2), ("-1", 8)])
@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_a_quota_of_version_1_leaves_as_many_cores(system, mount, quota, cores):
    folder = f"sys/fs/cgroup/{mount}/job"
    files = {f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": "100000"}
    assert system("3:cpuset:/\n2:cpu,cpuacct:/job", **files) == cores


def test_the_smallest_quota_counts_of_a_cgroup_and_those_around_it(system):
    files = {
        "sys/fs/cgroup/slice/cpu.max": "200000 100000",
        "sys/fs/cgroup/slice/job/cpu.max": "max 100000",
        "sys/fs/cgroup/other/cpu.max": "100000 100000",
    }
    assert system("0::/slice/job", **files) == 2


def test_a_container_whose_cgroup_the_host_names_reads_its_mount(system):
    assert system("0::/docker/0123abc", **{"sys/fs/cgroup/cpu.max": "400000 100000"}) == 4


def test_without_quotas_the_affinity_counts(system):
    assert system(None) == 8
    assert system("nonsense") == 8


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no affinity")
def test_the_affinity_is_the_system_s(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5, 3})
    assert allowed_cores() == [3, 5]
    assert usable_cores() <= 2
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert allowed_cores() == [0, 1, 2, 3, 4, 5]
