"""What is known about the teacher itself: models that answered, answers to anchors, and texts asked twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from distill.teachers.base import CONSTANT_METHODS
from export.bundle.anchors import Anchor
from service.monitor.teacher_drift import TeacherDrift
from service.shadow.models import TeacherModels
from service.shadow.outbox.checks import AnchorAnswer, ModelCalls, StoredChecks
from service.shadow.settings import ShadowSettings
from service.shadow.slots import DAY

NO_LABEL = -1
"""The label of an answer that names none, which is a change like any other."""


class TeacherRecord:
    """The evidence of `drift` from the anchors and the repeats of one teacher.

    `labels` are the student's. `models` has who answered, also the rows. `cost_usd` is what anchors and repeats cost,
    across restarts, `cost_usd_now` in this process, and `last` when an anchor was answered last, in Unix seconds.
    `failed` counts the calls of this process that failed since one was answered.
    """

    def __init__(self, settings: ShadowSettings, anchors: Sequence[Anchor], labels: Sequence[str]) -> None:
        position = {label: index for index, label in enumerate(labels)}
        self._recorded = [position[anchor.label] for anchor in anchors]
        self._anchors = anchors
        self.models = TeacherModels()
        self.drift = TeacherDrift(self._recorded)
        self.cost_usd = self.cost_usd_now = 0.0
        self.last: float | None = None
        self.failed = 0
        per_day = len(anchors) if settings.anchors_per_day is None else settings.anchors_per_day
        self.enabled = bool(anchors) and per_day > 0
        self._interval = DAY / per_day if per_day else DAY
        self._next = 0

    def load(self, stored: StoredChecks) -> None:
        """Begin with the stored answers to anchors and repeats; the models are left as they are."""
        self.drift = TeacherDrift(self._recorded)
        self.cost_usd, self.last, self._next = stored.cost_usd, None, 0
        for first, second in stored.repeats:
            self.drift.pair(first != second)
        for answer in stored.anchors:
            if answer.anchor < len(self._anchors):
                self._take(answer)

    def load_models(self, stored: Iterable[ModelCalls]) -> None:
        """Show these models, and no others."""
        models = TeacherModels()
        models.load(stored)
        self.models = models

    def _take(self, answer: AnchorAnswer) -> bool:
        """Take a stored answer to an anchor as evidence; return whether the anchor should be asked again at once."""
        self.last = answer.time
        self.drift.constant = answer.method in CONSTANT_METHODS if answer.method else self.drift.constant
        again = self.drift.add(answer.anchor, NO_LABEL if answer.label is None else answer.label)
        self._next = answer.anchor if again else (answer.anchor + 1) % len(self._anchors)
        return again
