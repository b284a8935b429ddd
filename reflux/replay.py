"""`reflux replay`: the gap of a candidate less that of the served student, on the texts of the shadow log.

Both bundles answer the texts of the shadow log that the teacher has answered, and are compared text by text. It is the
gate before a rollout: it costs no call to the teacher, and sees no traffic that is newer than the log.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError
from rich.console import Console

from distill.progress import track
from distill.teachers.names import names_of, same_teacher, text_of
from export.bundle.cascade import load_classifier
from export.bundle.format import Bundle
from reflux.exit_codes import GateResult
from service.monitor.paired import PairedDifference, paired_difference
from service.shadow.outbox.answered import AnsweredRow, ShadowLog, read_log, reading
from service.shadow.outbox.sql import Connection
from service.shadow.settings import ShadowSettings
from service.shadow.shared.schema import check
from service.shadow.stores import make_database

FEWEST = 200
"""With fewer texts nothing is decided: the interval is an approximation that needs some hundred."""

Rows = Literal["eval", "all"]


class ReplayError(Exception):
    """The log and the bundles do not fit together; the message says what to give instead."""


@dataclass(frozen=True)
class Replayed:
    """The gate of a candidate, and what it follows from.

    `margin` is how much more often the candidate may disagree, in [0, 1]. `texts` were answered by both; on `same` of
    them the current bundle gave the label that it gave in production, whose text was not redacted.
    """

    gate: GateResult
    message: str
    margin: float
    rows: Rows
    texts: int
    erased: int
    same: float
    teacher: str
    candidate_version: str
    current_version: str
    found: PairedDifference | None


def source(
    store: Path | None, database: str | None = None, password_file: Path | None = None
) -> AbstractContextManager[Connection]:
    """Return what opens the log, in a file or in a database. Raises ReplayError unless exactly one is given."""
    if store is not None and database is not None:
        raise ReplayError(
            "there are two logs, --store and --database: leave one out, or unset REFLUX_SHADOW__DATABASE to read a file"
        )
    if store is None and database is None:
        raise ReplayError(
            "give the log: the service's shadow.path with --store, or its shadow.database with --database"
        )
    if store is not None:
        return reading(store)
    try:
        settings = ShadowSettings(database=database, database_password_file=password_file)
    except ValidationError as error:  # it does not repeat the URL, which may hold a password
        raise ReplayError(f"--database {error.errors()[0]['msg']}") from None
    shared = make_database(settings)

    def prepare(connection: Connection) -> None:
        check(connection, shared.place)
        for limit in ("statement_timeout", "idle_in_transaction_session_timeout"):  # a long log takes its time
            connection.execute("SELECT set_config(?, '0', false)", (limit,))

    shared.prepare = prepare
    return shared.transaction(writes=False)


def replay(
    candidate: Bundle,
    current: Bundle,
    store: AbstractContextManager[Connection],
    *,
    margin: float,
    rows: Rows = "eval",
    days: float | None = None,
) -> Replayed:
    """Let both bundles answer the log's texts and compare them.

    With `eval` rows only those that are never trained on are used, a tenth; `all` is for a candidate that was not
    distilled from this log. Raises ReplayError if the bundles do not fit each other or the log, and OutboxError if the
    store cannot be read.
    """
    _require_fit(candidate, current)
    since = 0.0 if days is None else max(time.time() - days * 86400.0, 0.0)
    with store as connection:
        log = read_log(connection, current.manifest.version, since)
    if log.labels != current.manifest.labels:
        raise ReplayError(f"the log of {log.bundle} has other labels than the bundle; give the bundle that was served")
    chosen = [row for row in log.rows if rows == "all" or row.split == "eval"]
    found, same = _compared(candidate, current, log, chosen)
    gate, message = _decide(found, len(chosen), margin, rows)
    return Replayed(
        gate,
        message,
        margin,
        rows,
        len(chosen),
        log.erased,
        same,
        log.teacher,
        candidate.manifest.version,
        current.manifest.version,
        found,
    )


def _require_fit(candidate: Bundle, current: Bundle) -> None:
    ours, theirs = set(candidate.manifest.labels), set(current.manifest.labels)
    if ours != theirs:
        differ = ", ".join(sorted(ours ^ theirs))
        raise ReplayError(f"{candidate.path} and {current.path} differ in the labels {differ}; distil with the same")
    if candidate.manifest.multi_label or current.manifest.multi_label:
        raise ReplayError("multi-label bundles cannot be replayed: the gap is defined for one label per text")
    new, old = (names_of(bundle.manifest.teacher) for bundle in (candidate, current))
    if not same_teacher(new, old):
        raise ReplayError(
            f"{candidate.path} learned from {text_of(new[0])}, but {current.path} from {text_of(old[0])}; the "
            "answers in the log are no measure of the candidate, so serve it with a teacher of its own"
        )


def _compared(
    candidate: Bundle, current: Bundle, log: ShadowLog, rows: Sequence[AnsweredRow]
) -> tuple[PairedDifference | None, float]:
    """Return the difference, and the share of the texts on which the current bundle answers as it did."""
    if not rows:
        return None, 1.0
    texts = [row.text for row in rows]
    theirs, ours = best_labels(candidate, texts), best_labels(current, texts)
    teacher = np.array([log.labels[row.teacher] for row in rows])
    before = np.array([log.labels[row.student] for row in rows])
    bands = 1 + max(max(row.band for row in rows), max(log.requests, default=0))
    found = paired_difference(
        np.array([log.requests.get(band, 0.0) for band in range(bands)], dtype=np.float64),
        np.array([row.band for row in rows], dtype=np.intp),
        np.array([row.propensity for row in rows]),
        theirs != teacher,
        ours != teacher,
    )
    return found, float((ours == before).mean())


def best_labels(bundle: Bundle, texts: Sequence[str]) -> Any:
    """Return the names of the labels [N] that a bundle puts first."""
    what = f"asking {bundle.manifest.version}"
    given = load_classifier(bundle).probabilities(texts, track=lambda each: track(each, what, len(texts)))
    return np.array(bundle.manifest.labels)[given.argmax(axis=1)]


def _decide(found: PairedDifference | None, texts: int, margin: float, rows: Rows) -> tuple[GateResult, str]:
    allowed = f"{100 * margin:.2g} points"
    if found is None or texts < FEWEST:
        held_out = " that are never trained on" if rows == "eval" else ""
        return GateResult.INCONCLUSIVE, f"{texts} texts{held_out} are too few to decide; wait for {FEWEST}"
    told = (
        f"the candidate's gap less the current one is {100 * found.difference:+.2f} points "
        f"[{100 * found.lower:+.2f}, {100 * found.upper:+.2f}]"
    )
    if found.upper <= margin:
        return GateResult.PASS, f"{told}, at most {allowed} are allowed"
    if found.lower > margin:
        return GateResult.FAIL, f"{told}, and {allowed} are allowed; keep the current bundle"
    return (
        GateResult.INCONCLUSIVE,
        f"{told}, which does not show whether it is within {allowed}; wait for more comparisons",
    )


def show(replayed: Replayed, console: Console) -> None:
    """Print the outcome and its reason."""
    console.print(f"{replayed.gate.upper()}: {replayed.message}")
    if replayed.rows == "eval" and replayed.texts < FEWEST:
        console.print("if the candidate was not distilled from this log, --rows all compares more of its texts")
    used = "texts that are never trained on" if replayed.rows == "eval" else "texts, trained on or not"
    console.print(f"{replayed.texts} {used}, answered by {replayed.teacher}", end="")
    console.print(f"; {replayed.erased} more were erased after their answer" if replayed.erased else "")
    if replayed.found is not None:
        found = replayed.found
        console.print(
            f"gap {100 * found.candidate:.2f} % of {replayed.candidate_version}, {100 * found.current:.2f} % of "
            f"{replayed.current_version}; alone wrong on {found.worse} and {found.better} texts"
        )
        console.print(f"the current bundle answers {100 * replayed.same:.1f} % of them as it did in production")


def to_json(replayed: Replayed) -> dict[str, Any]:
    """Return the outcome for JSON."""
    return asdict(replayed)
