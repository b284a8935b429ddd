"""Appraisal of a teacher: what it is asked beside the pool, so that its answers can be taken for what they are worth.

Gold rows say what its probabilities mean, rows asked once more how often it agrees with itself. Both go through the
same teacher and the same store of answers as the pool; the mathematics is in `calibration` and `self_agreement`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from pydantic import BaseModel

from distill.data.checks import Finding, lacks_gold, unknown_labels
from distill.data.sources import read
from distill.data.splits import Examples, Train, Validation, gold_classes, normalise, require
from distill.errors import DataError, DistillError
from distill.evaluation.calibration import calibrate, lacking
from distill.evaluation.self_agreement import CONSTANT, self_agreement
from distill.labelling.label import AnswerStore, Engine, Labelling, answer, label
from distill.labelling.soft_labels import SoftLabels
from distill.task import Calibration
from distill.teachers import Teacher
from distill.teachers.api.client import Terms
from distill.teachers.scaling import Scaling

Steps = Callable[[int], None]

_CONSTANT_METHODS = {"local", "recorded"}
_WHERE = "labelling.calibration.data"


@dataclass(frozen=True, slots=True)
class Extra:
    """What to ask beside the pool: `gold` rows to calibrate on as `section` says, and `twice` rows out of `order`."""

    section: Calibration | None
    gold: Examples | None
    order: Sequence[str]
    twice: int

    @property
    def gold_texts(self) -> tuple[str, ...]:
        """The texts of the gold rows."""
        return () if self.gold is None else self.gold.texts

    def questions(self, pool: Examples) -> list[tuple[str, int]]:
        """Every text to ask, with its repeat; who is asked twice is known for good only when all were asked once."""
        text_of = dict(zip(pool.ids, pool.texts, strict=True))
        again = [(text_of[name], 1) for name in self.order[: self.twice]]
        return [*((text, 0) for text in (*self.gold_texts, *pool.texts)), *again]

    @property
    def texts(self) -> int:
        """How many texts that is in all, at most."""
        return len(self.gold_texts) + min(self.twice, len(self.order))


@dataclass(frozen=True, slots=True)
class Appraised:
    """The labelled pool, calibrated where that was asked for, and the record of what was found out."""

    labelling: Labelling
    record: dict[str, Any]


def gold_rows(section: Calibration, labels: Sequence[str]) -> Examples:
    """The rows to calibrate on. Raises DataError where one has no gold label of the task, or they are too few."""
    gold = read(section.data, "gold")
    if why := lacks_gold(gold):
        raise DataError(f"{_WHERE}: {why}")
    if unknown := unknown_labels(gold.gold, labels):
        raise DataError(f"{_WHERE}: {unknown}")
    if why := lacking(np.bincount(gold_classes(gold, labels), minlength=len(labels)), section.method):
        raise DataError(f"{_WHERE}: {why}; add rows, or leave `calibration` out")
    return gold


def shared_with_fit(gold: Examples, fitted: Examples) -> list[Finding]:
    """A warning when the teacher was fitted on rows that calibrate it."""
    known = {normalise(text) for text in fitted.texts}
    count = sum(normalise(text) in known for text in gold.texts)
    if not count:
        return []
    found = f"{_WHERE}: {count} of {len(gold)} texts also stand in teacher.fit.data"
    return [Finding("warning", f"{found}, of which the teacher is surer than of others; remove them")]


def rows_to_repeat(validation: Validation, train: Train, seed: int) -> list[str]:
    """Ids of the pool in the order in which they may be asked twice, drawn with `seed`.

    Those of validation come first: it is the split by which students are chosen, so that their agreement there and the
    teacher's with itself are shares of the same texts. Test rows are never among them.
    """
    generator = random.Random(seed)
    parts = [list(require(validation, Validation).ids), list(require(train, Train).ids)]
    for part in parts:
        generator.shuffle(part)
    return [name for part in parts for name in part]


async def label_and_appraise(
    teacher: Teacher,
    pool: Examples,
    extra: Extra,
    store: AnswerStore,
    *,
    advance: Steps = lambda count: None,
    known: Steps | None = None,
    engine: Engine = answer,
) -> Appraised:
    """Label a pool, and ask what `extra` names beside it: gold rows first, so that what is wrong with them costs least.

    Raises DistillError where too few gold rows are answered, or none of those asked twice.
    """
    record: dict[str, Any] = {}
    scaling = None
    if extra.section is not None and extra.gold is not None:
        gold = await label(teacher, extra.gold, store, advance=advance, known=known, engine=engine)
        scaling, record["calibration"] = _calibrate(teacher, extra.section, extra.gold, gold)
    labelled = await label(teacher, pool, store, advance=advance, known=known, engine=engine)
    if scaling is not None:
        labelled = replace(labelled, soft=labelled.soft.calibrated(scaling))
    if extra.twice:
        record["self_agreement"] = await _ask_again(teacher, labelled.soft, extra, store, advance, known, engine)
    return Appraised(labelled, record)


def terms_of(config: BaseModel) -> tuple[dict[str, Any], ...]:
    """The terms that a teacher's configuration, or that of its members, acknowledges."""
    return tuple({terms.reference: terms.model_dump() for terms in _terms(config)}.values())


def _calibrate(
    teacher: Teacher, section: Calibration, gold: Examples, answered: Labelling
) -> tuple[Scaling, dict[str, Any]]:
    soft = answered.soft
    truth = dict(zip(gold.ids, gold_classes(gold, soft.labels), strict=True))
    classes = np.array([truth[name] for name in soft.ids], dtype=np.intp)
    if why := lacking(np.bincount(classes, minlength=len(soft.labels)), section.method):
        raise DistillError(
            f"{_WHERE}: {teacher.name} answered {len(soft)} of {len(gold)} rows ({answered.refused} refused, "
            f"{answered.invalid} invalid): {why}; add rows"
        )
    fitted = calibrate(soft.probabilities, classes, section.method)
    counts = {"asked": answered.asked, "refused": answered.refused, "invalid": answered.invalid}
    return fitted.scaling, {**asdict(fitted), "scaling": fitted.scaling.as_dict(), **counts}


async def _ask_again(
    teacher: Teacher,
    soft: SoftLabels,
    extra: Extra,
    store: AnswerStore,
    advance: Steps,
    known: Steps | None,
    engine: Engine,
) -> dict[str, Any]:
    """Ask for another draw of rows that were answered, and compare the two, both calibrated as the labels are."""
    if set(soft.methods) <= _CONSTANT_METHODS:
        (known or advance)(min(extra.twice, len(extra.order)))
        return {**CONSTANT.as_dict(), "asked": 0, "unanswered": 0}
    position = {name: row for row, name in enumerate(soft.ids)}
    rows = [position[name] for name in extra.order if name in position][: extra.twice]
    texts = [soft.texts[row] for row in rows]
    asked = await engine(teacher, texts, store, repeat=1, advance=advance, known=known)
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


def _terms(value: Any) -> Iterator[Terms]:
    if isinstance(value, Terms):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _terms(getattr(value, name))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _terms(item)
