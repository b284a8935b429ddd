"""The e-detector from the comparisons on disk, in the order in which their outcomes were stored.

A snapshot of its state allows rows to be deleted, and spares a start from reading all of them.
"""

from __future__ import annotations

import json
import sqlite3

import numpy as np

from service.monitor.evalues import EDetector
from service.shadow.totals import Floats


def replay(connection: sqlite3.Connection, bundle: str, teacher: str, null: Floats) -> tuple[EDetector, float | None]:
    """Return the e-detector against the ceilings `null` [B], and the time of the last comparison in Unix seconds.

    A snapshot against other ceilings says nothing about these, so that only comparisons that still have rows count
    then. Stores a new snapshot, in the caller's transaction.
    """
    owner = (bundle, teacher)
    query = "SELECT ceilings, evidence, upto, answered FROM detectors WHERE bundle = ? AND teacher = ?"
    ceilings, detector, upto, answered = json.dumps(null.tolist()), EDetector(null), 0, None
    if (found := connection.execute(query, owner).fetchone()) is not None:
        answered = found[3]
        if found[0] == ceilings:
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
    snapshot = (*owner, ceilings, json.dumps(detector.evidence), upto, answered)
    connection.execute("INSERT OR REPLACE INTO detectors VALUES (?, ?, ?, ?, ?, ?)", snapshot)
    return detector, answered


def load_ceilings(connection: sqlite3.Connection, bundle: str, teacher: str) -> list[tuple[float, Floats]]:
    """Return the ceilings [B] that were set since the bundle's, with the time from which each holds, oldest first."""
    query = "SELECT since, ceilings FROM ceilings WHERE bundle = ? AND teacher = ? ORDER BY since"
    found = connection.execute(query, (bundle, teacher))
    return [(since, np.array(json.loads(null))) for since, null in found]


def change_ceilings(
    connection: sqlite3.Connection, bundle: str, teacher: str, since: float, before: Floats, null: Floats
) -> EDetector:
    """Replace the ceilings `before` by `null` for slots from `since` on; return the e-detector, which keeps its state.

    As long as the new ceilings depend on earlier comparisons alone, its promise holds across the change.
    """
    detector = EDetector(null, replay(connection, bundle, teacher, before)[0].evidence)
    ceilings = json.dumps(null.tolist())
    connection.execute("INSERT OR REPLACE INTO ceilings VALUES (?, ?, ?, ?)", (bundle, teacher, since, ceilings))
    update = "UPDATE detectors SET ceilings = ? WHERE bundle = ? AND teacher = ?"
    connection.execute(update, (ceilings, bundle, teacher))
    return detector


def delete_old(connection: sqlite3.Connection, before: float, limit: int) -> int:
    """Delete those of the `limit` rows finished first that were answered before `before` (Unix seconds).

    Returns their number. Snapshots include them, for every bundle and teacher that has one.
    """
    for bundle, teacher, ceilings in connection.execute("SELECT bundle, teacher, ceilings FROM detectors").fetchall():
        replay(connection, bundle, teacher, np.array(json.loads(ceilings)))
    oldest = "SELECT seq, answered FROM rows WHERE finished IS NOT NULL ORDER BY finished LIMIT ?"
    deleted = connection.execute(
        f"DELETE FROM rows WHERE seq IN (SELECT seq FROM ({oldest}) WHERE answered < ?)", (limit, before)
    )
    return deleted.rowcount
