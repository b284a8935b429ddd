"""What is the same for every server of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.bundle.format import Bundle, cpu_features


@dataclass(frozen=True, slots=True)
class Conditions:
    """What is the same for every server of a run. Cores are numbers; times are in seconds, of each single load.

    An open loop sends `requests` at least: the p99 of fewer is too low, for queues grow slowly.
    `bundle` is what our server and the loop run, `portable` what the servers of others do. `labels` are those that the
    loop gives to the texts, `classes` all that there are.
    """

    bundle: Path
    portable: Path
    student: Path | None
    texts: Sequence[str]
    labels: Sequence[str]
    classes: Sequence[str]
    environments: Path
    logs: Path
    server_core: int
    load_core: int
    rounds: int
    seconds: float
    warm_up: float
    requests: int
    seed: int

    @property
    def same_graph(self) -> bool:
        """Whether the servers of others run our graph."""
        return self.portable == self.bundle

    def told(self) -> dict[str, Any]:
        """What the results say of them."""
        manifest = Bundle.open(self.bundle).manifest
        return {
            "bundle": manifest.name,
            "version": manifest.version,
            "same_graph": self.same_graph,
            "classes": len(self.classes),
            "texts": len(self.texts),
            "rounds": self.rounds,
            "seconds": self.seconds,
            "warm_up": self.warm_up,
            "requests": self.requests,
            "seed": self.seed,
            "cpu": cpu_features(),
        }
