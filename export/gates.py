"""Gates: the checks that an exported graph must pass before it may be served. A gate fails; it does not warn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]


FASTER = 0.95
"""A graph is faster than another if it takes at most this share of its time: two measurements of one graph, medians of
paired runs, differ by less."""


_SPEED = "share of fp32's time"


class GateError(Exception):
    """A graph does not pass a gate; the message gives the number, the limit and the remedy."""


@dataclass(frozen=True, slots=True)
class Gate:
    """One check: what was measured, what was required, and whether it passed."""

    name: str
    measured: float
    required: float
    passed: bool

    @property
    def of_speed(self) -> bool:
        """Whether it limits the time that a graph takes, which no setting changes."""
        return self.name.endswith(_SPEED)


def parity(reference: Floats, graph: Floats, limit: float) -> list[Gate]:
    """Check that an fp32 graph computes what the student does: logits [N, K] within `limit`, every choice the same.

    A row whose two best logits lie within twice `limit` of each other may choose either.
    """
    difference = float(np.abs(reference - graph).max())
    best = np.sort(reference, axis=1)[:, -2:]
    decided = best[:, -1] - best[:, 0] > 2 * limit  # with a single label, none is
    same = float((reference.argmax(1) == graph.argmax(1))[decided].mean()) if decided.any() else 1.0
    return [
        Gate("parity: largest difference of a logit", difference, limit, difference <= limit),
        Gate("parity: share of equal choices", same, 1.0, same == 1.0),
    ]


def agreement(
    variant: str,
    reference: Floats,
    graph: Floats | None,
    least: float,
    cut: float | None = None,
    *,
    against: str = "fp32",
) -> Gate:
    """Check the share of rows on which a graph chooses as a reference graph does, from the logits [N, K] of both.

    `against` names the reference graph. `graph` is None if the graph failed. With `cut`, the logit from which a label
    is given, a row may have several labels, and all of them must be the same.
    """
    if graph is None:
        share = 0.0
    elif cut is None:
        share = float((reference.argmax(1) == graph.argmax(1)).mean())
    else:
        share = float(((reference >= cut) == (graph >= cut)).all(axis=1).mean())
    return Gate(f"{variant}: agreement with {against}", share, least, share >= least)


def faster(variant: str, share: float) -> Gate:
    """Check that a reduced graph takes at most `FASTER` of the time of the fastest fp32 one, `share` being its share.

    Otherwise there is no reason to use it.
    """
    return Gate(f"{variant}: {_SPEED}", share, FASTER, share <= FASTER)


def remedy(gates: list[Gate]) -> str:
    """Say what to do about a reduced graph that was asked for and does not pass its gates.

    No setting makes one pass that is slow, or that failed on a text and so agrees on nothing.
    """
    auto = "Set export.variant to auto to serve what passes"
    hopeless = any(not gate.passed and (gate.of_speed or not gate.measured) for gate in gates)
    return f"{auto}." if hopeless else f"{auto}, or lower export.gates.agreement."


def enforce(gates: list[Gate], what: str, remedy: str) -> None:
    """Raise GateError that names every gate that did not pass."""
    failed = [f"{gate.name}: {gate.measured:.6g}, required {gate.required:.6g}" for gate in gates if not gate.passed]
    if failed:
        raise GateError(f"{what} does not pass: {'; '.join(failed)}. {remedy}")
