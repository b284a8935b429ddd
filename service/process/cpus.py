"""Find how many CPUs this process may use: a container sees all CPUs of the host, and is throttled beyond its own."""

from __future__ import annotations

import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def available_cpus(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Return the smallest of the CPU affinity and the cgroup v2 quotas, rounded down, at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [_quota(directory / "cpu.max") for directory in _groups(cgroups, membership)]
    return max(1, int(min([affinity, *quotas])))


def _groups(cgroups: Path, membership: Path) -> list[Path]:
    """Return the directories of this process's cgroup and its ancestors: a quota on any of them applies."""
    try:
        line = next(line for line in membership.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return [cgroups]
    own = cgroups / line[len("0::") :].strip("/")
    return [own, *(parent for parent in own.parents if parent.is_relative_to(cgroups))]


def _quota(path: Path) -> float:
    """Return the CPUs that a `cpu.max` grants: 2 for "200000 100000", infinity for "max 100000" and without a file."""
    try:
        quota, period = path.read_text().split()
        return float("inf") if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return float("inf")
