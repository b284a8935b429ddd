"""What is the same for every server of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.bundle.format import Bundle, cpu_features


@dataclass(frozen=True, slots=True)
class Conditions:
    """What is the same for every server of a run. Cores are numbers; times are in seconds per load.

    An open loop sends at least `requests`: queues grow slowly, so the p99 of fewer requests would be too low. Our
    server and the loop run `bundle`, the servers of others `portable`. `labels` are the labels that the loop gives to
    the texts, `classes` all labels of the bundle.
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
        """Return whether the servers of others run our graph."""
        return self.portable == self.bundle

    def told(self) -> dict[str, Any]:
        """Return the conditions as they stand in the results."""
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
