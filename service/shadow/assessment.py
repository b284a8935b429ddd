"""What the counts of now say about the student: the gap in every window, what drifted, and the verdict.

The report, the metrics and the console all show one assessment.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.teachers.names import may_be, names_of, text_of
from export.bundle.format import Manifest
from export.bundle.reference import Reference
from service.monitor.cells import SLOT_SECONDS, Cells, Floats
from service.monitor.findings import Findings
from service.monitor.verdict import Judgement, Verdict, judge
from service.monitor.windows import log_certify, measure_each, start_of
from service.process.parts import Parts, whole
from service.shadow.history import History
from service.shadow.input_drift import InputDrift
from service.shadow.outbox.rows import TeacherIdentity
from service.shadow.outcome import OUTCOMES, Outcome
from service.shadow.slots import slot_of
from service.shadow.teacher_report import model_change, teacher_drift
from service.shadow.view import View
from service.shadow.witness import Witness

if TYPE_CHECKING:
    from service.shadow.active import ActiveShadow

_TINY = 1e-6  # an SLO of 0 or 1 is judged as one that is this far from it


@dataclass(frozen=True, slots=True)
class Slo:
    """The gap that must not be exceeded, in [0, 1], and whether the bundle or a setting gives it."""

    ratio: float
    source: str


@dataclass(frozen=True, slots=True)
class Assessment:
    """All that is known at `now` (Unix seconds). `drift` holds the sections `input` and `teacher` of `GET /gap`.

    `history` is a copy of the counts, `cells` are its cells. `verdict_since` is the time since which every assessment
    of this process gave this verdict.
    """

    now: float
    verdict_since: float
    slo: Slo
    history: History
    cells: Cells
    findings: Findings
    judgement: Judgement
    drift: dict[str, Any]


class Assessor:
    """Assesses one student by what `view` shows.

    `active` is set while texts are shadowed, `witness` while there is one. `slo` is the setting, if any; otherwise that
    of the `reference` holds. `foreseen` [B] is the disagreement rate of each band that evidence on the whole gap
    expects.
    """

    def __init__(
        self, view: View, reference: Reference, manifest: Manifest, inputs: InputDrift, slo: float | None
    ) -> None:
        self.active: ActiveShadow | None = None
        self.witness: Witness | None = None
        self.slo = Slo(reference.slo, "bundle") if slo is None else Slo(slo, "setting")
        self._view, self._manifest, self._inputs = view, manifest, inputs
        self.foreseen = foreseen(reference)
        self._verdict: Verdict | None = None
        self._since = 0.0
        self._storing: set[asyncio.Task[None]] = set()

    @property
    def limit(self) -> float:
        """The SLO as it is judged, in (0, 1)."""
        return min(max(self.slo.ratio, _TINY), 1.0 - _TINY)

    def assess(self) -> Assessment:
        """Assess the counts of now."""
        return whole(self.assess_parts())

    def assess_parts(self) -> Parts[Assessment]:
        """Assess the counts of now in parts."""
        view, now, active = self._view, time.time(), self.active
        ledger, record = view.ledger, view.record if active else None
        history, ceilings, detected = ledger.history.snapshot(), list(ledger.ceilings), ledger.detector.value
        waiting, sampled_since, restored = ledger.waiting_since, ledger.sampled_since, ledger.left
        yield
        cells = history.cells()
        limit = self.limit
        newest = cells.since(slot_of(now) - SLOT_SECONDS)
        hour = history.totals(start_of("1h", now)).outcomes.sum(axis=0).tolist()
        yield
        inputs, inputs_drifted = self._inputs.report(now)
        teacher, teacher_clause = teacher_drift(record)
        yield
        windows = {}
        for window in measure_each(cells, now, limit, ceilings, self.foreseen):
            windows[window.name] = window
            yield
        certified = log_certify(cells, now, limit, self.foreseen)
        yield
        if self._verdict is None and restored is not None:
            self._verdict, self._since = Verdict.LEAVE, restored
        findings = Findings(
            slo=self.slo.ratio,
            windows=windows,
            newest_lost=float(newest.lost.sum()),
            newest_compared=float(newest.compared.sum()),
            log_certify=certified,
            left=self._verdict is Verdict.LEAVE,
            edetector=detected,
            edetector_at=ledger.edetector_threshold(now),
            silent_seconds=None if waiting is None else max(now - waiting, 0.0),
            silent_samples=sampled_since,
            enabled=active is not None,
            unread_store=view.unread,
            unread_seconds=self._unread(now),
            losses={
                str(name): count for name, count in zip(OUTCOMES, hour, strict=True) if name is not Outcome.COMPLETED
            },
            other_teacher=other_teacher(self._manifest, view.teacher) if active and view.teacher else None,
            input_drift=_input_clause(inputs) if inputs_drifted else None,
            teacher_drift=teacher_clause,
            model_change=model_change(record),
        )
        judgement = judge(findings)
        if judgement.verdict is not self._verdict:
            before, self._verdict, self._since = self._verdict, judgement.verdict, now
            if Verdict.LEAVE in (before, self._verdict) and active is not None:
                self._store(active, now if self._verdict is Verdict.LEAVE else None)
        drift = {"input": inputs, "teacher": teacher}
        return Assessment(now, self._since, self.slo, history, cells, findings, judgement, drift)

    def _store(self, active: ActiveShadow, since: float | None) -> None:
        """Have later processes know since when the student must leave, None if it need not."""
        storing = asyncio.create_task(active.remember_left(since), name="shadow-verdict")
        self._storing.add(storing)
        storing.add_done_callback(self._storing.discard)

    def _unread(self, now: float) -> float:
        """Return for how long the oldest text has waited for the witness, in seconds."""
        oldest = self.witness.oldest if self.witness else None
        return 0.0 if oldest is None else max(now - oldest, 0.0)


def foreseen(reference: Reference) -> Floats:
    """Return the disagreement rate of each band [B] on validation, or what its spread says where it has no rows."""
    variance = np.minimum(reference.spread**2, 0.25)
    observed = (reference.disagreements + 0.5) / (reference.rows + 1.0)
    return np.where(reference.rows > 0, observed, (1.0 - np.sqrt(1.0 - 4.0 * variance)) / 2.0)


def other_teacher(manifest: Manifest, teacher: TeacherIdentity) -> str | None:
    """Say that the student did not learn from the teacher that it is compared with; None if it did, or may have.

    A manifest without a version, or without any teacher, is not judged by it.
    """
    learned = names_of(manifest.teacher)
    if may_be(learned, teacher.names):
        return None
    return (
        f"The gap is measured against {teacher.key}, but the student learned from {text_of(learned[0])}; set "
        "shadow.teacher to that one, or distil again."
    )


def _input_clause(section: dict[str, Any]) -> str | None:
    """Say what differs in the first feature that drifted; the features stand in the order of their weight."""
    return next(_clause(feature["message"]) for feature in section["features"] if feature["drift"])


def _clause(sentence: str | None) -> str | None:
    """Return a sentence without its full stop."""
    return sentence.rstrip(".") if sentence else None
