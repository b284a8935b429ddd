"""What a bundle's graph costs, as its export measured it, and how that of a candidate differs. It decides nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from export.build_cascade import JOINED
from export.bundle.format import Bundle


@dataclass(frozen=True)
class Graph:
    """The variant of a graph, such as int8, its size in bytes, its time per text, and the reason for the variant.

    Of a cascade: the variants of all stages, their sizes together, and the expected time of a text. `milliseconds` were
    measured where the bundle was exported. What a manifest does not say is None.
    """

    variant: str
    bytes: int | None
    milliseconds: float | None
    reason: str

    @classmethod
    def of(cls, bundle: Bundle) -> Self:
        """Read what the manifest of a bundle says."""
        parts = [bundle.stage(stage).manifest for stage in bundle.manifest.stages] or [bundle.manifest]
        reasons = [(part.name, part.measured.get("reason")) for part in parts]
        measured = bundle.manifest.measured
        return cls(
            JOINED.join(part.variant for part in parts),
            measured.get("bytes"),
            measured.get("milliseconds"),
            ", ".join(f"{name}: {reason}" for name, reason in reasons if reason),
        )

    def __str__(self) -> str:
        size = "unknown size" if self.bytes is None else f"{self.bytes / 1e6:.1f} MB"
        time = "unknown time" if self.milliseconds is None else f"{self.milliseconds:.2f} ms per text"
        return f"{self.variant}, {size}, {time}"


def compared(candidate: Graph, current: Graph) -> str:
    """Say what both graphs are, and why the candidate's variant is another one, if it is."""
    told = f"graph of the candidate: {candidate}; of the current bundle: {current}"
    if candidate.variant == current.variant:
        return told
    return f"{told}. The variants differ ({candidate.reason or 'the manifest does not say why'})"
