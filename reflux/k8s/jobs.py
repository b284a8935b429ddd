"""The Jobs that components bring: which Secrets their pods mount, and how they get the bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reflux.k8s.patches import Patch, job_template


@dataclass(frozen=True, slots=True)
class Job:
    """A Job, or a CronJob of some, with the volumes of its pod that are Secrets.

    `copied` says that the pod is a copy of the worker's, and so has its way to the bundle.
    """

    kind: Literal["CronJob", "Job"]
    name: str
    secrets: tuple[str, ...]
    copied: bool = False

    def merged(self, spec: dict[str, Any]) -> Patch:
        """Return the patch that merges `spec` into that of the pod."""
        return job_template(self.kind, self.name, spec)


JOBS = {
    "canary-plain": Job("CronJob", "reflux-promote", ("database", "registry")),
    "redistill": Job("CronJob", "reflux-redistill", ("database", "registry"), copied=True),
    "anchors": Job("CronJob", "reflux-anchors", ("teacher",), copied=True),
    "migrate": Job("Job", "reflux-migrate", ("database",)),
}
"""The Job of each component that has one."""


def jobs_of(components: Sequence[str]) -> list[Job]:
    """Return the Jobs of some components."""
    return [JOBS[name] for name in components if name in JOBS]
