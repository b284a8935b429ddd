"""What is known about a student in production, in numbers: all that a verdict depends on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from service.monitor.windows import Window, combined


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What is known about the student, in numbers.

    - `slo`: the gap that must not be exceeded.
    - `windows`: by name, shortest first.
    - `newest_lost`, `newest_compared`: samples of the running slot and the one before it that ended so.
    - `log_certify`: log e-value for "the gap is below the SLO".
    - `left`: whether the verdict was `leave` until now.
    - `edetector`, `edetector_at`: evidence for all time against the ceilings, and the value at which it counts.
    - `silent_seconds`, `silent_samples`: time since the last comparison, or since there could be one, and the texts
      sampled since. `silent_seconds` is None when nothing was ever sampled.
    - `unread_seconds`: age of the oldest text that a witness has not read; without one, or nothing to read, 0.
    - `unread_store`: a sentence if the counts of all processes could not be read for a minute.
    - `enabled`: whether a sample is sent to the teacher. `losses`: samples lost in the last hour by outcome.
    - `other_teacher`: what is wrong with the identity of the teacher, None if it is the one that the student learned
      from, or not known.
    - `input_drift`, `teacher_drift`: what drifted, in words, None if nothing did.
    - `model_change`: a sentence, if the teacher's server lately answers as another model. By itself that is no drift.
    """

    slo: float
    windows: Mapping[str, Window]
    log_certify: float
    newest_lost: float = 0.0
    newest_compared: float = 0.0
    left: bool = False
    edetector: float = 0.0
    edetector_at: float = math.inf
    silent_seconds: float | None = None
    silent_samples: float = 0.0
    unread_seconds: float = 0.0
    unread_store: str | None = None
    enabled: bool = True
    losses: Mapping[str, float] = field(default_factory=dict)
    other_teacher: str | None = None
    input_drift: str | None = None
    teacher_drift: str | None = None
    model_change: str | None = None

    @property
    def log_evalue(self) -> float:
        """The evidence that counts: the mean e-value over all windows."""
        return combined(list(self.windows.values()))
