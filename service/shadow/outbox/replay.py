"""The e-detector from the comparisons on disk, in the order in which their outcomes were stored.

A snapshot of its state allows rows to be deleted, and spares a start from reading all of them.
"""

from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np

from service.monitor.evalues import EDetector
from service.shadow.outbox.sql import Connection
from service.shadow.totals import Floats


class Replayed(NamedTuple):
    """The e-detector after the comparisons with `finished` <= `upto`, of which the last was answered at `last`.

    `last` is in Unix seconds, None without a comparison.
    """

    detector: EDetector
    last: float | None
    upto: int


def read_detector(connection: Connection, bundle: str, teacher: str, null: Floats) -> Replayed:
    """Return the e-detector against the ceilings `null` [B].

    A snapshot against other ceilings says nothing about these, so that only comparisons that still have rows count
    then.
    """
    owner = (bundle, teacher)
    query = "SELECT ceilings, evidence, upto, answered FROM detectors WHERE bundle = ? AND teacher = ?"
    detector, upto, answered = EDetector(null), 0, None
    if (found := connection.execute(query, owner).fetchone()) is not None:
        answered = found[3]
        if found[0] == json.dumps(null.tolist()):
            detector, upto = EDetector(null, json.loads(found[1])), found[2]
    rows = connection.execute(
        "SELECT finished, band, agree, answered FROM rows"
        " WHERE finished > ? AND bundle = ? AND teacher = ? AND agree IS NOT NULL AND band < ? ORDER BY finished",
        (upto, *owner, len(null)),
    )
    for finished, band, agree, time in rows:
        upto = finished
        detector.update(band, not agree)
        answered = time if answered is None else max(answered, time)
    return Replayed(detector, answered, upto)


def replay(connection: Connection, bundle: str, teacher: str, null: Floats) -> Replayed:
    """Return what `read_detector` does, and store it as the new snapshot, in the caller's transaction."""
    found = read_detector(connection, bundle, teacher, null)
    connection.execute(
        "INSERT INTO detectors VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (bundle, teacher) DO UPDATE SET"
        " ceilings = excluded.ceilings, evidence = excluded.evidence, upto = excluded.upto,"
        " answered = excluded.answered",
        (bundle, teacher, json.dumps(null.tolist()), json.dumps(found.detector.evidence), found.upto, found.last),
    )
    return found


def load_left(connection: Connection, bundle: str, teacher: str) -> float | None:
    """Return since when the student must leave, in Unix seconds; None if it need not."""
    query = "SELECT since FROM verdicts WHERE bundle = ? AND teacher = ?"
    found = connection.execute(query, (bundle, teacher)).fetchone()
    return None if found is None or found[0] is None else float(found[0])


def store_left(connection: Connection, bundle: str, teacher: str, since: float | None) -> None:
    """Store what `load_left` returns."""
    connection.execute(
        "INSERT INTO verdicts (bundle, teacher, since) VALUES (?, ?, ?)"
        " ON CONFLICT (bundle, teacher) DO UPDATE SET since = excluded.since",
        (bundle, teacher, since),
    )


def load_ceilings(connection: Connection, bundle: str, teacher: str) -> list[tuple[float, Floats]]:
    """Return the ceilings [B] that were set since the bundle's, with the time from which each holds, oldest first."""
    query = "SELECT since, ceilings FROM ceilings WHERE bundle = ? AND teacher = ? ORDER BY since"
    found = connection.execute(query, (bundle, teacher))
    return [(since, np.array(json.loads(null))) for since, null in found]


def change_ceilings(
    connection: Connection, bundle: str, teacher: str, since: float, before: Floats, null: Floats
) -> EDetector:
    """Replace the ceilings `before` by `null` for slots from `since` on; return the e-detector, which keeps its state.

    As long as the new ceilings depend on earlier comparisons alone, its promise holds across the change.
    """
    detector = EDetector(null, replay(connection, bundle, teacher, before).detector.evidence)
    ceilings = json.dumps(null.tolist())
    connection.execute(
        "INSERT INTO ceilings VALUES (?, ?, ?, ?)"
        " ON CONFLICT (bundle, teacher, since) DO UPDATE SET ceilings = excluded.ceilings",
        (bundle, teacher, since, ceilings),
    )
    update = "UPDATE detectors SET ceilings = ? WHERE bundle = ? AND teacher = ?"
    connection.execute(update, (ceilings, bundle, teacher))
    return detector


def delete_old(connection: Connection, before: float, limit: int) -> int:
    """Delete those of the `limit` rows finished first that were answered before `before` (Unix seconds).

    Returns their number. Snapshots include them, for every bundle and teacher that has one.
    """
    for bundle, teacher, ceilings in connection.execute("SELECT bundle, teacher, ceilings FROM detectors").fetchall():
        replay(connection, bundle, teacher, np.array(json.loads(ceilings)))
    oldest = "SELECT seq, answered FROM rows WHERE finished IS NOT NULL ORDER BY finished LIMIT ?"
    deleted = connection.execute(
        f"DELETE FROM rows WHERE seq IN (SELECT seq FROM ({oldest}) AS oldest WHERE answered < ?)", (limit, before)
    )
    return deleted.rowcount
