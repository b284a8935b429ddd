"""What is known of the teacher before more is asked of it: the labels that it has given, and the price of more.

The labels are those of a finished `reflux label`, or the answers stored so far. Nothing is asked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distill import teachers
from distill.data.prepared import Splits
from distill.data.splits import Examples
from distill.evaluation.self_agreement import self_agreement
from distill.labelling.account import StoredAccount
from distill.labelling.answer_store import AnswerStore
from distill.labelling.dry_run import DryRunAccount, dry_run, priced
from distill.labelling.interrupts import run_async
from distill.run import ANSWERS, RECORD, Run
from distill.teachers import Answer, TeacherError
from distill.teachers.api.teacher import CallingTeacher

_PRICED = 200  # texts to learn a price from, at most, and as many answered ones


@dataclass(frozen=True, slots=True)
class TeacherFacts:
    """What a teacher answered, of the `texts` of all splits.

    `chosen` has the class of each id with a label; `refused` and `invalid` count answers without one. `covered` is the
    mean mass on labels, and `again` its agreement with itself as `SelfAgreement.as_dict` writes it; both are None if
    they are not known. So is `usd_per_1000`, the price of 1,000 texts; `price` then says why.
    """

    texts: int
    chosen: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    invalid: int = 0
    covered: float | None = None
    again: dict[str, Any] | None = None
    usd_per_1000: float | None = None
    price: str = "price not known"

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values, with the number of labels in place of the labels."""
        names = ("texts", "refused", "invalid", "covered", "again", "usd_per_1000", "price")
        return {"labelled": len(self.chosen), **{name: getattr(self, name) for name in names}}


def teacher_facts(run: Run, splits: Splits) -> TeacherFacts:
    """Read what is stored of a task's teacher."""
    kind = getattr(run.task.teacher, "kind", None)
    calls = priced(teachers.teacher_class(kind))
    listed = getattr(run.task.teacher, "usd_per_1000", None) or None
    price = "price not known"
    if kind == "recorded":
        price = "a recorded teacher has no answers to new texts, so record them, too"
    elif not calls:
        price = "its labels take this machine's time alone"
    if run.labels.done:
        return _finished(run, splits.everything, listed, price)
    if calls:
        return run_async(_stored(run, splits))
    return TeacherFacts(len(splits.everything), usd_per_1000=listed, price=price)


def _finished(run: Run, pool: Examples, listed: float | None, price: str) -> TeacherFacts:
    """What a finished labelling says."""
    soft = run.soft_labels()
    record = json.loads((run.labels.path / RECORD).read_text(encoding="utf-8"))
    own = set(pool.ids)  # not views
    paid = float(soft.cost_usd.mean() * 1000) if len(soft) and soft.cost_usd.any() else None
    return TeacherFacts(
        len(pool),
        {name: label for name, label in zip(soft.ids, soft.hard.tolist(), strict=True) if name in own},
        record["refused"],
        record["invalid"],
        float(soft.covered.mean()) if len(soft) else None,
        record.get("self_agreement"),
        listed if paid is None else paid,
        price,
    )


async def _stored(run: Run, splits: Splits) -> TeacherFacts:
    """What the stored answers of a teacher with paid calls say, and what the next ones would cost."""
    pool = splits.everything
    with AnswerStore(run.root / ANSWERS) as store:
        account = DryRunAccount(StoredAccount(store))
        try:
            teacher = teachers.create(run.task.teacher, splits.labels, account)
        except TeacherError as error:
            return TeacherFacts(len(pool), price=f"price not known: {error}")
        if not priced(teacher):
            raise TypeError(f"{teacher.name} does not list its calls")
        try:
            answers = list(store.get(teacher, pool.texts))
            twice = list(store.get(teacher, pool.texts, repeat=1))
            usd = await _price(teacher, pool.texts, answers, store, account)
        finally:
            await teacher.aclose()
    given = [one for one in answers if one is not None]
    good = {
        name: int(one.probabilities.argmax())
        for name, one in zip(pool.ids, answers, strict=True)
        if one is not None and one.probabilities is not None
    }
    return TeacherFacts(
        len(pool),
        good,
        sum(one.outcome == "refused" for one in given),
        sum(one.outcome == "invalid" for one in given),
        float(np.mean([one.covered for one in given if one.outcome == "ok"])) if good else None,
        _again(answers, twice),
        usd,
    )


async def _price(
    teacher: CallingTeacher,
    texts: Sequence[str],
    answers: Sequence[Answer | None],
    store: AnswerStore,
    account: DryRunAccount,
) -> float | None:
    """Forecast the price of 1,000 texts from those not yet answered; from the answers once there are no others."""
    new = [text for text, answer in zip(texts, answers, strict=True) if answer is None]
    paid = [answer.cost_usd for answer in answers if answer is not None]
    if not new:
        return 1000 * float(np.mean(paid)) if paid else None
    old = [text for text, answer in zip(texts, answers, strict=True) if answer is not None]
    questions = [(text, 0) for text in (*new[:_PRICED], *old[:_PRICED])]
    foreseen = await dry_run(teacher, questions, store, account)
    return 1000 * foreseen.usd.value / foreseen.to_ask


def _again(first: Sequence[Answer | None], second: Sequence[Answer | None]) -> dict[str, Any] | None:
    """Compare the two answers to each text that was asked about twice; None without any."""
    pairs = [
        (one.probabilities, two.probabilities)
        for one, two in zip(first, second, strict=True)
        if one is not None and two is not None and one.probabilities is not None and two.probabilities is not None
    ]
    if not pairs:
        return None
    return self_agreement(np.stack([one for one, _ in pairs]), np.stack([two for _, two in pairs])).as_dict()
