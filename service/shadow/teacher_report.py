"""What `GET /gap` and `/metrics` say about the teacher itself: which models answered, and whether it drifts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from prometheus_client.core import Metric

from service.monitor.teacher_drift import LOG_DRIFT, TeacherDrift
from service.shadow.families import counter, gauge
from service.shadow.teacher_record import TeacherRecord


def teacher_drift(record: TeacherRecord | None) -> tuple[dict[str, Any], str | None]:
    """Return `drift.teacher` of `GET /gap`, and a clause that says what changed if the teacher drifts.

    `record` is None without shadowing.
    """
    status, message = _status(record)
    drift = TeacherDrift([]) if record is None else record.drift
    section = {
        "status": status,
        "anchors": {
            "count": len(drift.anchors),
            "asked": drift.asked,
            "changed": drift.changed,
            "last": record.last if record else None,
        },
        "noise": {
            "repeats": drift.pairs,
            "changed": drift.differing,
            "upper": drift.noise if drift.constant or drift.pairs else None,
        },
        "log_evalue": drift.log_evalue() if drift.met else None,
        "log_evalue_at": LOG_DRIFT,
        "cost_usd": record.cost_usd if record else 0.0,
        "message": message,
    }
    return section, message.rstrip(".") if status == "drift" else None


def model_change(record: TeacherRecord | None) -> str | None:
    """Return a sentence for the verdict if the teacher's server has answered as another model since some days ago."""
    return record.models.change(time.time()) if record else None


def teacher_metrics(record: TeacherRecord | None, here: TeacherRecord | None) -> Iterator[Metric]:
    """Yield the families about the teacher itself; without anchors they have no series.

    `record` has what all processes know, `here` what this one asked.
    """
    drift = record.drift if record is not None and record.enabled else None
    changed = [] if drift is None else [(("true",), drift.changed), (("false",), drift.met - drift.changed)]
    text = "Anchors that were asked about, by whether the label changed."
    yield gauge("reflux_teacher_anchors", text, ("changed",), changed)
    evidence = [] if drift is None or not drift.met else [((), drift.log_evalue())]
    text = "Log e-value that the teacher changed; a drift needs 6.9."
    yield gauge("reflux_teacher_log_evalue", text, (), evidence)
    drifts = [] if drift is None else [((), float(drift.drifts))]
    yield gauge("reflux_teacher_drift", "1 while the teacher drifts.", (), drifts)
    cost = [] if here is None else [((), here.cost_usd_now)]
    yield counter("reflux_teacher_watch_cost_usd", "What anchors and repeated calls cost.", (), cost)
    responses = [] if here is None else here.models.responses.items()
    text = "Answers by the model and the fingerprint that they state, of the newest few."
    yield counter("reflux_teacher_responses", text, ("model", "fingerprint"), responses)


def _status(record: TeacherRecord | None) -> tuple[str, str]:
    """Return the status of the teacher and a sentence that says why."""
    if record is None:
        return "off", "No text is sent to a teacher."
    drift = record.drift
    count = len(drift.anchors)
    if not count:
        return "off", "The bundle has no anchors to ask the teacher about; export it again."
    if not record.enabled:
        return "off", "No anchors are asked about: shadow.anchors_per_day is 0."
    if drift.drifts:
        if drift.log_first() >= LOG_DRIFT:
            return "drift", (
                f"The teacher differed from its recorded answers as soon as it was asked: on {drift.changed_at_first} "
                f"of {drift.met} anchors. It is another model than the student learned from, or asked otherwise, such "
                "as at another temperature or with another prompt."
            )
        return "drift", (
            f"The teacher has changed: {drift.changed} of {count} anchors are not answered as recorded, also when they "
            "are asked about again."
        )
    if drift.met < count:
        waiting = f"{drift.met} of {count} anchors were asked about so far; the first round takes a day."
        if record.failed:
            waiting = f"{waiting} The last {record.failed} calls failed; see the log."
        return "waiting", waiting
    return "ok", f"The teacher answers {count - drift.changed} of {count} anchors as recorded."
