"""The comparisons that a shadow store holds, for what judges another student by them. Reads, and changes nothing."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from service.shadow.errors import OutboxError
from service.shadow.outbox.file import APPLICATION
from service.shadow.outbox.sql import Connection
from service.shadow.outbox.tables import SCHEMA

BUSY_SECONDS = 10.0


class AnsweredRow(NamedTuple):
    """A text, redacted, that student and teacher have answered.

    `student` and `teacher` are the positions of the labels that each put first. `split` is `train` or `eval`.
    """

    text: str
    band: int
    propensity: float
    split: str
    student: int
    teacher: int


@dataclass(frozen=True)
class ShadowLog:
    """What a store has of one bundle version and the teacher that answered last.

    `labels` [K] are the version's. `requests` maps a band to its answered texts, `rows` are the comparisons whose texts
    are kept, the oldest first, and `erased` counts those whose texts are not.
    """

    bundle: str
    teacher: str
    labels: tuple[str, ...]
    requests: dict[int, float]
    rows: list[AnsweredRow]
    erased: int


@contextmanager
def reading(path: Path) -> Iterator[Connection]:
    """Open the outbox file at `path` for reading, beside the service that uses it.

    Raises OutboxError if it is no outbox of this version, or cannot be read.
    """
    if not path.is_file():
        raise OutboxError(f"{path}: no such file; give the shadow.path of the service")
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)) as opened:
            (application,) = opened.execute("PRAGMA application_id").fetchone()
            (schema,) = opened.execute("PRAGMA user_version").fetchone()
            if application != APPLICATION:
                raise OutboxError(f"{path} is no shadow outbox; give the shadow.path of the service")
            if schema != SCHEMA:
                raise OutboxError(f"{path}: schema {schema}, this version reads {SCHEMA}; start the service once")
            yield opened
    except sqlite3.Error as error:
        raise OutboxError(f"{path}: {error}; see whether the file is whole, and may be read") from error


def read_log(connection: Connection, version: str, since: float = 0.0) -> ShadowLog:
    """Read what was compared with bundle `version` for requests answered from `since` on (Unix seconds).

    Raises OutboxError if there is nothing of this version, or nothing was compared.
    """
    bundle, labels = _bundle(connection, version)
    found = connection.execute(
        "SELECT teacher FROM rows WHERE bundle = ? AND outcome = 'completed' ORDER BY finished DESC LIMIT 1", (bundle,)
    ).fetchone()
    if found is None:
        raise OutboxError(f"no text of the bundle {version} has been compared with a teacher yet; wait for comparisons")
    (teacher,) = found
    where = "bundle = ? AND teacher = ? AND outcome = 'completed' AND time >= ?"
    owner = (bundle, teacher, since)
    rows = connection.execute(
        "SELECT text, band, propensity, split, student_class, teacher_class FROM rows"
        f" WHERE {where} AND text IS NOT NULL AND student_class IS NOT NULL ORDER BY seq",
        owner,
    ).fetchall()
    (compared,) = connection.execute(f"SELECT count(*) FROM rows WHERE {where}", owner).fetchone()
    # Requests are counted in slots and, when they are older, in hours: the one that `since` falls into belongs to it.
    requests = connection.execute(
        "SELECT band, sum(requests) FROM tallies WHERE bundle = ? AND teacher = ? AND slot >= ? GROUP BY band",
        (bundle, teacher, since // 3600 * 3600),
    ).fetchall()
    return ShadowLog(
        bundle, teacher, labels, dict(requests), [AnsweredRow(*row) for row in rows], int(compared) - len(rows)
    )


def _bundle(connection: Connection, version: str) -> tuple[str, tuple[str, ...]]:
    """Return the name under which a version is stored, which names its witness too, and its labels."""
    stored = dict(connection.execute("SELECT version, labels FROM bundles", ()).fetchall())
    names = [name for name in stored if name == version or name.startswith(f"{version}+")]
    if not names:
        raise OutboxError(
            f"the log has nothing of the bundle {version}, only of {', '.join(sorted(stored)) or 'none'}; give the "
            "bundle that was served"
        )
    counts = {
        name: connection.execute(
            "SELECT count(*) FROM rows WHERE bundle = ? AND outcome = 'completed'", (name,)
        ).fetchone()[0]
        for name in names
    }
    chosen = max(names, key=lambda name: counts[name])
    return chosen, tuple(json.loads(stored[chosen]))
