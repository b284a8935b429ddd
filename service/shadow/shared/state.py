"""What all processes together have stored about one bundle, read at one moment."""

from __future__ import annotations

import json
from typing import NamedTuple

from service.shadow.outbox.checks import Checks, ModelCalls, StoredChecks
from service.shadow.outbox.replay import load_ceilings, load_left, read_detector
from service.shadow.outbox.rows import Restored, TeacherIdentity
from service.shadow.outbox.sql import Connection
from service.shadow.outbox.tallies import Tallies
from service.shadow.totals import Floats

ABANDONED_SECONDS = 600.0
"""A text that has waited for so long, and none of whose version a process has taken, waits for nobody."""

Mark = tuple[str, int, int]
"""What tells whether there are other answers about a teacher: its key, the latest to an anchor, the repeats."""


class SharedState(NamedTuple):
    """The counts, for the `teacher` that answers now, None as long as none has.

    `waiting` rows are pending and `in_flight` ones taken by a process; the text of the `oldest` of both was answered at
    this time (Unix seconds, None without one). `checks` is None if `mark` is the one that was given. `abandoned` has,
    for each other version about which no process asks, the number of its pending rows.
    """

    restored: Restored
    teacher: TeacherIdentity | None
    waiting: int
    in_flight: int
    oldest: float | None
    models: list[ModelCalls]
    checks: StoredChecks | None
    mark: Mark
    abandoned: dict[str, int]


def read_abandoned(connection: Connection, bundle: str) -> dict[str, int]:
    """Count the pending rows of each version but `bundle` about which no process asks."""
    return dict(
        connection.execute(
            "SELECT bundle, count(*) FROM rows WHERE bundle <> ? AND outcome IS NULL GROUP BY bundle"
            " HAVING min(time) < extract(epoch FROM now()) - ? AND count(*) FILTER (WHERE lease >= now()) = 0"
            " ORDER BY bundle",
            (bundle, ABANDONED_SECONDS),
        ).fetchall()
    )


def read_state(
    connection: Connection, bundle: str, null: Floats, mark: Mark | None, abandoned: dict[str, int]
) -> SharedState:
    """Read the state of a bundle version with the ceilings `null` [B], in a transaction that sees one moment."""
    query = "SELECT teacher, identity FROM bundles WHERE version = ?"
    teacher, identity = connection.execute(query, (bundle,)).fetchone()
    ceilings = load_ceilings(connection, bundle, teacher)
    detector, last, _ = read_detector(connection, bundle, teacher, ceilings[-1][1] if ceilings else null)
    tallies, pairs = Tallies(bundle, teacher).load(connection, len(null))
    waiting, in_flight, oldest = connection.execute(
        "SELECT count(*) FILTER (WHERE lease IS NULL OR lease < now()), count(*) FILTER (WHERE lease >= now()),"
        " min(time) FROM rows WHERE bundle = ? AND outcome IS NULL",
        (bundle,),
    ).fetchone()
    checks = Checks(bundle, teacher)
    now = (str(teacher), *checks.count(connection))
    return SharedState(
        Restored(tallies, pairs, [], ceilings, detector, last, load_left(connection, bundle, teacher)),
        _identity(identity),
        waiting,
        in_flight,
        oldest,
        checks.load_models(connection),
        None if now == mark else checks.load(connection),
        now,
        abandoned,
    )


def _identity(stored: str | None) -> TeacherIdentity | None:
    if stored is None:
        return None
    name, version, origin = json.loads(stored)
    return TeacherIdentity(name, version, tuple(origin))
