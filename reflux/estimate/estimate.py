"""Estimate from a log what a student would save: the document that `reflux estimate --json` writes.

`reflux.estimate.report` presents it as lines. No call is made, and nothing is changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from distill.errors import DistillError
from distill.evaluation.costs import costs
from distill.evaluation.intervals import Interval
from distill.labelling.forecast import TOKENS_PER_BYTE
from distill.progress import status
from distill.teachers.api.pricing import Price, Usage, list_price
from reflux.estimate.log import Call, read_log
from reflux.estimate.questions import Question, find_questions
from reflux.estimate.student import expected_agreement, repeats

SCHEMA = "1"
DAY = 86_400.0
DAYS_A_MONTH = 365 / 12
_SHORTEST = 1.0
"""Days that a log must span for its volume to be one of a month."""


@dataclass(frozen=True, slots=True)
class Assumed:
    """What the log does not say.

    `price` is that of every call, in place of list prices; `per_month` the calls a month, in place of the log's own
    volume. A student is taken to need `milliseconds` of a core per text, at `usd_per_hour`, and the teacher to see the
    share `shadow` of the texts afterwards.
    """

    price: Price | None = None
    per_month: float | None = None
    milliseconds: float = 5.0
    usd_per_hour: float = 0.05
    shadow: float = 0.02


@dataclass(frozen=True, slots=True)
class Estimate:
    """The `document`, and the `question` that it is about; None if all questions are open."""

    document: dict[str, Any]
    question: Question | None


def estimate(path: Path, assumed: Assumed, number: int | None = None) -> Estimate:
    """Read a log and estimate what a student would save for its closed question with the most calls, or the given one.

    Raises DataError for a log that cannot be read, and DistillError for a question that is not there or not closed.
    """
    with status(f"reading {path.name}"):
        log = read_log(path)
        questions = find_questions(log.calls)
    index = _chosen(questions, number)
    question = None if index is None else questions[index]
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "log": str(path),
        "calls": len(log.calls),
        "skipped": log.skipped,
        **_volume(log.calls, assumed),
        "latency_ms": _latency(log.calls),
        "cost": _cost(log.calls, assumed),
        "questions": [_described(one) for one in questions],
        "number": None if index is None else index + 1,
    }
    if question is not None:
        document["question"] = _about(question, len(log.calls), document["per_month"], assumed)
    return Estimate(document, question)


def _chosen(questions: Sequence[Question], number: int | None) -> int | None:
    if number is None:
        return next((index for index, question in enumerate(questions) if question.closed), None)
    if not 1 <= number <= len(questions):
        raise DistillError(f"--question {number}: the log has {len(questions)}; leave it out to see them")
    if not questions[number - 1].closed:
        raise DistillError(f"--question {number}: it is no classification: {questions[number - 1].why_open}")
    return number - 1


def _volume(calls: Sequence[Call], assumed: Assumed) -> dict[str, Any]:
    """The days that the log spans, and the calls a month; None where the log does not say."""
    times = [call.at for call in calls if call.at is not None]
    days = (max(times) - min(times)) / DAY if len(times) > 1 else None
    measured = days is not None and days >= _SHORTEST and len(times) == len(calls)
    per_month = len(calls) / days * DAYS_A_MONTH if measured and days else None
    given = assumed.per_month is not None
    return {"days": days, "per_month": assumed.per_month if given else per_month, "volume_given": given}


def _latency(calls: Sequence[Call]) -> dict[str, float] | None:
    took = [1000 * call.seconds for call in calls if call.seconds is not None]
    return {"p50": float(np.median(took)), "p99": float(np.quantile(took, 0.99))} if took else None


def _cost(calls: Sequence[Call], assumed: Assumed) -> dict[str, Any]:
    """What 1,000 calls cost, an interval where tokens are estimated from bytes; None if no call has a price.

    Calls of models without a price are left out of it, and their models listed in `unpriced`.
    """
    prices = {model: assumed.price or list_price(model) for model in {call.model for call in calls}}
    priced = [(call, price) for call in calls if (price := prices[call.model]) is not None]
    ends = [
        sum(price.cost(_usage(call, tokens)) for call, price in priced) for tokens in asdict(TOKENS_PER_BYTE).values()
    ]
    usd = Interval(*(1000 * end / len(priced) for end in ends)) if priced else None
    return {
        "usd_per_1000": None if usd is None else asdict(usd),
        "by_usage": sum(call.usage is not None for call, _ in priced),
        "priced": len(priced),
        "given": assumed.price is not None,
        "models": Counter(call.model for call in calls),
        "unpriced": sorted(model for model, price in prices.items() if price is None),
    }


def _usage(call: Call, tokens_per_byte: float) -> Usage:
    """The tokens of a call: as logged, else estimated from its bytes."""
    if call.usage is not None:
        return call.usage
    read = len((call.instructions + call.message).encode("utf-8", "surrogatepass"))
    written = len(call.answer.encode("utf-8", "surrogatepass"))
    return Usage(input=round(tokens_per_byte * read), output=max(1, round(tokens_per_byte * written)))


def _described(question: Question) -> dict[str, Any]:
    return {
        "calls": len(question.calls),
        "opening": question.opening,
        "before": question.before,
        "after": question.after,
        "closed": question.closed,
        "why_open": question.why_open,
        "labels": len(question.labels),
        "names": len(set(question.names)),
        "texts": question.distinct,
    }


def _about(question: Question, calls: int, per_month: float | None, assumed: Assumed) -> dict[str, Any]:
    """What can be said about replacing the model for one question."""
    cost = _cost(question.calls, assumed)
    usd = None if cost["usd_per_1000"] is None else float(cost["usd_per_1000"]["value"])
    counts = Counter(label for label in question.chosen if label is not None)
    again = repeats(question)
    monthly = None if per_month is None else per_month * cost["priced"] / calls
    return {
        "labels": {label: counts[label] for label in question.labels},
        "without_label": sum(label is None for label in question.chosen),
        "texts": question.distinct,
        "repeated": 1 - question.distinct / len(question.texts),
        "again": None
        if again is None
        else {"texts": again.texts, "agreement": asdict(again.agreement), "ceiling": again.ceiling},
        "student": expected_agreement(question, usd),
        "latency_ms": _latency(question.calls),
        "cost": cost,
        "money": _money(usd, monthly, question.distinct, assumed),
    }


def _money(usd_per_1000: float | None, per_month: float | None, texts: int, assumed: Assumed) -> dict[str, Any]:
    """Costs of the student against those of today, for the texts a month whose calls have a price.

    `labels_usd` is for asking once more about each of the `texts` of the log, at that price.
    """
    labels_usd = 0.0 if usd_per_1000 is None else texts * usd_per_1000 / 1000
    found = costs(
        milliseconds=assumed.milliseconds,
        usd_per_hour=assumed.usd_per_hour,
        teacher_usd_per_1000=usd_per_1000,
        labels_usd=labels_usd,
        by_the_text=True,
    )
    money: dict[str, Any] = {**asdict(found), "milliseconds": assumed.milliseconds, "shadow": assumed.shadow}
    if usd_per_1000 is None or per_month is None:
        return {**money, "per_month": per_month, "today_usd": None, "student_usd": None, "saved_usd": None}
    today = per_month * usd_per_1000 / 1000
    cores = max(1, ceil(per_month / found.most_texts_per_month))
    student = cores * found.core_usd_per_month + assumed.shadow * today
    return {**money, "per_month": per_month, "today_usd": today, "student_usd": student, "saved_usd": today - student}
