"""A container's quota counts, not the host's CPUs."""

import os

import pytest

from service.process.cpus import available_cpus


@pytest.fixture
def cpus(tmp_path, monkeypatch):
    """`cpus(own, parent)`: what is found with these `cpu.max` files and 8 CPUs of affinity."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    membership = tmp_path / "membership"
    membership.write_text("1:cpu:/elsewhere\n0::/pod/container\n")
    own = tmp_path / "cgroups" / "pod" / "container"
    own.mkdir(parents=True)

    def find(own_quota, parent_quota=None):
        for directory, quota in ((own, own_quota), (own.parent, parent_quota)):
            if quota is not None:
                (directory / "cpu.max").write_text(quota)
        return available_cpus(tmp_path / "cgroups", membership)

    return find


@pytest.mark.parametrize(
    ("own", "parent", "expected"),
    [
        ("max 100000", None, 8),
        (None, None, 8),
        ("200000 100000", None, 2),
        ("150000 100000", None, 1),
        ("50000 100000", None, 1),
        ("max 100000", "300000 100000", 3),
        ("200000 100000", "max 100000", 2),
        ("1600000 100000", None, 8),
        ("garbage", None, 8),
    ],
)
def test_the_smallest_of_affinity_and_quotas_counts(cpus, own, parent, expected):
    assert cpus(own, parent) == expected


def test_without_cgroups_the_affinity_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3})
    assert available_cpus(tmp_path / "none", tmp_path / "none") == 2
