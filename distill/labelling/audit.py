"""Audit of a teacher: gold rows that calibrate its probabilities, and pool rows asked twice for its self-agreement.

Both go through the same teacher and the same store of answers as the pool. The mathematics is in
`distill.evaluation.calibration` and `distill.evaluation.self_agreement`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from pydantic import BaseModel

from distill.data.checks import Finding, lacks_gold, unknown_labels
from distill.data.sources import read
from distill.data.splits import Examples, Train, Validation, gold_classes, normalise, require
from distill.errors import DataError, DistillError
from distill.evaluation.calibration import calibrate, too_few_rows
from distill.evaluation.self_agreement import CONSTANT, self_agreement
from distill.labelling.answer_store import AnswerStore
from distill.labelling.label import SILENT, Engine, LabelledPool, Progress, ask_missing, label
from distill.labelling.soft_labels import SoftLabels
from distill.sections import walk
from distill.task import Calibration
from distill.teachers import Teacher
from distill.teachers.api.terms import TermsOfUse
from distill.teachers.base import CONSTANT_METHODS
from distill.teachers.scaling import Scaling

_KEY = "labelling.calibration.data"


@dataclass(frozen=True, slots=True)
class AuditTexts:
    """The texts to ask about besides the pool.

    `gold` rows are for the calibration that `section` describes. Of the pool's rows, the first `twice` in `order` (a
    list of ids) are asked about a second time.
    """

    section: Calibration | None
    gold: Examples | None
    order: Sequence[str]
    twice: int

    @property
    def gold_texts(self) -> tuple[str, ...]:
        """The texts of the gold rows."""
        return () if self.gold is None else self.gold.texts

    def questions(self, pool: Examples) -> list[tuple[str, int]]:
        """List all texts to ask about, the pool's included, each with its repeat (0, or 1 for the second time).

        An estimate: a row that gets no label the first time is not asked about again, and the next in `order` is.
        """
        text_of = dict(zip(pool.ids, pool.texts, strict=True))
        again = [(text_of[name], 1) for name in self.order[: self.twice]]
        return [*((text, 0) for text in (*self.gold_texts, *pool.texts)), *again]

    @property
    def count(self) -> int:
        """The number of texts besides the pool, at most."""
        return len(self.gold_texts) + min(self.twice, len(self.order))


@dataclass(frozen=True, slots=True)
class Audited:
    """The labelled pool, calibrated if the task asks for that, and the `record` of the audit's results."""

    labelling: LabelledPool
    record: dict[str, Any]


def gold_rows(section: Calibration, labels: Sequence[str]) -> Examples:
    """Read the rows to calibrate on.

    Raises DataError when one has no gold label or a label that the task lacks, or when there are too few.
    """
    gold = read(section.data, "gold")
    if why := lacks_gold(gold):
        raise DataError(f"{_KEY}: {why}")
    if unknown := unknown_labels(gold.gold, labels):
        raise DataError(f"{_KEY}: {unknown}")
    if why := too_few_rows(np.bincount(gold_classes(gold, labels), minlength=len(labels)), section.method):
        raise DataError(f"{_KEY}: {why}; add rows, or leave `calibration` out")
    return gold


def shared_with_fit(gold: Examples, fitted: Examples) -> list[Finding]:
    """Warn when rows that calibrate the teacher are also rows that it was fine-tuned on."""
    known = {normalise(text) for text in fitted.texts}
    count = sum(normalise(text) in known for text in gold.texts)
    if not count:
        return []
    found = f"{_KEY}: {count} of {len(gold)} texts are also in teacher.fit.data"
    return [Finding("warning", f"{found}, and the teacher is surer of those than of others; remove them")]


def rows_to_repeat(validation: Validation, train: Train, seed: int) -> list[str]:
    """Shuffle the ids of the rows that may be asked about twice, with `seed`, those of validation first.

    Students are chosen by their agreement with the teacher on validation, so the teacher's agreement with itself is
    measured on the same texts. Test rows are never among them.
    """
    generator = random.Random(seed)
    parts = [list(require(validation, Validation).ids), list(require(train, Train).ids)]
    for part in parts:
        generator.shuffle(part)
    return [name for part in parts for name in part]


async def label_and_audit(
    teacher: Teacher,
    pool: Examples,
    extra: AuditTexts,
    store: AnswerStore,
    progress: Progress = SILENT,
    engine: Engine = ask_missing,
) -> Audited:
    """Label a pool and audit the teacher on the `extra` texts.

    Gold rows are asked about first, so that an error in them is found before the pool is paid for. Raises DistillError
    when too few gold rows, or none of the rows asked twice, get a label.
    """
    record: dict[str, Any] = {}
    scaling = None
    if extra.section is not None and extra.gold is not None:
        gold = await label(teacher, extra.gold, store, progress, engine)
        scaling, record["calibration"] = _calibrate(teacher, extra.section, extra.gold, gold)
    labelled = await label(teacher, pool, store, progress, engine)
    if scaling is not None:
        labelled = replace(labelled, soft=labelled.soft.calibrated(scaling))
    if extra.twice:
        record["self_agreement"] = await _ask_again(teacher, labelled.soft, extra, store, progress, engine)
    return Audited(labelled, record)


def terms_of(config: BaseModel) -> tuple[dict[str, Any], ...]:
    """The terms of use that a teacher's configuration, or an ensemble member's, acknowledges."""
    found = [value for _, value in walk(config) if isinstance(value, TermsOfUse)]
    return tuple({terms.reference: terms.model_dump(exclude_none=True) for terms in found}.values())


def _calibrate(
    teacher: Teacher, section: Calibration, gold: Examples, answered: LabelledPool
) -> tuple[Scaling, dict[str, Any]]:
    soft = answered.soft
    truth = dict(zip(gold.ids, gold_classes(gold, soft.labels), strict=True))
    classes = np.array([truth[name] for name in soft.ids], dtype=np.intp)
    if why := too_few_rows(np.bincount(classes, minlength=len(soft.labels)), section.method):
        raise DistillError(
            f"{_KEY}: {teacher.name} answered {len(soft)} of {len(gold)} rows ({answered.refused} refused, "
            f"{answered.invalid} invalid): {why}; add rows"
        )
    fitted = calibrate(soft.probabilities, classes, section.method)
    counts = {"asked": answered.asked, "refused": answered.refused, "invalid": answered.invalid}
    return fitted.scaling, {**asdict(fitted), "scaling": fitted.scaling.as_dict(), **counts}


async def _ask_again(
    teacher: Teacher, soft: SoftLabels, extra: AuditTexts, store: AnswerStore, progress: Progress, engine: Engine
) -> dict[str, Any]:
    """Ask for a second draw of rows that have a label, and compare it with the first, both calibrated alike."""
    if set(soft.methods) <= CONSTANT_METHODS:
        progress.known(min(extra.twice, len(extra.order)))
        return {**CONSTANT.as_dict(), "asked": 0, "unanswered": 0}
    position = {name: row for row, name in enumerate(soft.ids)}
    rows = [position[name] for name in extra.order if name in position][: extra.twice]
    texts = [soft.texts[row] for row in rows]
    asked = await engine(teacher, texts, store, progress, repeat=1)
    answers = list(store.get(teacher, texts, repeat=1))
    both = [row for row, one in zip(rows, answers, strict=True) if one is not None and one.outcome == "ok"]
    if not both:
        raise DistillError(
            f"labelling.self_agreement: {teacher.name} answered none of {len(texts)} texts that it was asked twice; "
            "raise it, or leave it out"
        )
    second = np.stack([one.probabilities for one in answers if one is not None and one.probabilities is not None])
    if soft.scaling is not None:
        second = soft.scaling.apply(second)
    measured = self_agreement(soft.probabilities[both], second)
    return {**measured.as_dict(), "asked": asked, "unanswered": len(rows) - len(both)}
