"""What is known of the teacher before more is asked of it: the labels that it has given, and the price of more.

The labels are those of a finished `reflux label`, or the answers stored so far. Nothing is asked.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distill import teachers
from distill.data.prepared import Splits
from distill.data.splits import join
from distill.evaluation.self_agreement import self_agreement
from distill.labelling.account import StoredAccount
from distill.labelling.answer_store import AnswerStore
from distill.labelling.dry_run import DryRunAccount, dry_run, priced
from distill.labelling.interrupts import run_async
from distill.labelling.paraphrases import PaidParaphrases, make_paraphraser
from distill.run import ANSWERS, RECORD, Run
from distill.teachers import Answer, TeacherError
from distill.teachers.api.teacher import CallingTeacher

_PRICED = 200  # texts to learn a price from, at most, and as many answered ones


@dataclass(frozen=True, slots=True)
class TeacherFacts:
    """What a teacher answered, of the `texts` of all splits and those made of them: `altered` views and paraphrases.

    `chosen` has the class of each id with a label; `refused` and `invalid` count answers without one. `covered` is the
    mean mass on labels, and `again` its agreement with itself as `SelfAgreement.as_dict` writes it; both are None if
    they are not known. So is `usd_per_1000`, the price of 1,000 texts to train on, that of their views and paraphrases
    included; `price` then says why.
    """

    texts: int
    altered: int = 0
    chosen: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    invalid: int = 0
    covered: float | None = None
    again: dict[str, Any] | None = None
    usd_per_1000: float | None = None
    price: str = "price not known"

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values, with the number of labels in place of the labels."""
        names = ("texts", "altered", "refused", "invalid", "covered", "again", "usd_per_1000", "price")
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
        return _finished(run, splits, listed, price)
    if calls:
        return run_async(_stored(run, splits))
    views = splits.views(run.task.labelling.views)
    return TeacherFacts(len(splits.everything) + len(views), len(views), usd_per_1000=listed, price=price)


def _finished(run: Run, splits: Splits, listed: float | None, price: str) -> TeacherFacts:
    """What a finished labelling says."""
    soft = run.soft_labels()
    record = json.loads((run.labels.path / RECORD).read_text(encoding="utf-8"))
    texts = len(soft) + record["refused"] + record["invalid"]
    altered = texts - len(splits.everything)
    usd = float(soft.cost_usd.mean() * 1000) if len(soft) and soft.cost_usd.any() else listed
    if usd is not None and run.task.labelling.paraphrases is not None:
        usd, price = run_async(_with_paraphrases(run, splits, usd, altered, price))
    elif usd is not None:
        usd *= 1 + altered / len(splits.train)
    return TeacherFacts(
        texts,
        altered,
        dict(zip(soft.ids, soft.hard.tolist(), strict=True)),
        record["refused"],
        record["invalid"],
        float(soft.covered.mean()) if len(soft) else None,
        record.get("self_agreement"),
        usd,
        price,
    )


async def _with_paraphrases(run: Run, splits: Splits, usd: float, altered: int, price: str) -> tuple[float | None, str]:
    """Return the price of 1,000 texts from that of 1,000 labels, or why it is not known."""
    try:
        async with _asked(run, splits) as (teacher, store, account):
            writing = await _writing(run, teacher, splits.train.texts, store, account)
    except TeacherError as error:
        return None, f"price not known: {error}"
    return usd * (1 + altered / len(splits.train)) + writing, price


async def _stored(run: Run, splits: Splits) -> TeacherFacts:
    """What the stored answers of a teacher with paid calls say, and what the next ones would cost."""
    views, section = splits.views(run.task.labelling.views), run.task.labelling.paraphrases
    pool = join(splits.everything, views)
    try:
        async with _asked(run, splits) as (teacher, store, account):
            answers = list(store.get(teacher, pool.texts))
            twice = list(store.get(teacher, pool.texts, repeat=1))
            usd = await _price(teacher, pool.texts, answers, store, account)
            if usd is not None:
                labels = 1 + len(views) / len(splits.train) + (0 if section is None else section.per_text)
                usd = usd * labels + await _writing(run, teacher, splits.train.texts, store, account)
    except TeacherError as error:
        return TeacherFacts(len(pool), len(views), price=f"price not known: {error}")
    given = [one for one in answers if one is not None]
    good = {
        name: int(one.probabilities.argmax())
        for name, one in zip(pool.ids, answers, strict=True)
        if one is not None and one.probabilities is not None
    }
    return TeacherFacts(
        len(pool),
        len(views),
        good,
        sum(one.outcome == "refused" for one in given),
        sum(one.outcome == "invalid" for one in given),
        float(np.mean([one.covered for one in given if one.outcome == "ok"])) if good else None,
        _again(answers, twice),
        usd,
    )


@asynccontextmanager
async def _asked(run: Run, splits: Splits) -> AsyncIterator[tuple[CallingTeacher, AnswerStore, DryRunAccount]]:
    """Give a teacher that makes no calls, its store and its account. Raises TeacherError if it cannot be made."""
    with AnswerStore(run.root / ANSWERS) as store:
        account = DryRunAccount(StoredAccount(store))
        teacher = teachers.create(run.task.teacher, splits.labels, account)
        if not priced(teacher):
            raise TypeError(f"{teacher.name} does not list its calls")
        try:
            yield teacher, store, account
        finally:
            await teacher.aclose()


async def _writing(
    run: Run, teacher: CallingTeacher, texts: Sequence[str], store: AnswerStore, account: DryRunAccount
) -> float:
    """Forecast what the paraphrases of 1,000 texts cost, without their labels; 0 if the task asks for none."""
    section = run.task.labelling.paraphrases
    if section is None:
        return 0.0
    paraphraser = make_paraphraser(teacher, section.per_text)
    try:
        paid = PaidParaphrases(paraphraser, store)
        new = [text for text in texts if not paid.has(paraphraser, text)]
        if not new:
            calls = [await account.stored.recall(paraphraser.key(text)) for text in texts]
            return 1000 * float(np.mean([call.cost_usd for call in calls if call is not None]))
        old = [text for text in texts if paid.has(paraphraser, text)]
        questions = [(text, 0) for text in (*new[:_PRICED], *old[:_PRICED])]
        foreseen = await dry_run(paraphraser, questions, paid, account)
        return 1000 * foreseen.usd.value / foreseen.to_ask
    finally:
        await paraphraser.aclose()


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
