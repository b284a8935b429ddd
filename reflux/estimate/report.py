"""Present what `reflux.estimate.estimate` found as lines of text. It computes nothing."""

from __future__ import annotations

from typing import Any

from distill.data.spelling import plain
from distill.evaluation.report.formats import count, dollars, percent, share

_SHOWN = 8  # labels
_ENOUGH = 20  # texts asked twice, to say what that means for a student
_WIDTH = 70  # characters of a prompt


def lines(found: dict[str, Any]) -> list[str]:
    """Return the lines: the log, its questions, one of them in detail, the money, and the verdict."""
    told = [*_log(found), "", *_questions(found)]
    about = found.get("question")
    if about is None:
        why = "; ".join(dict.fromkeys(one["why_open"] for one in found["questions"]))
        return [*told, "", f"verdict: no closed question: {why}"]
    return [*told, "", f"Question {found['number']}", *_answers(about), *_student(about), "", *_money(about)]


def _log(found: dict[str, Any]) -> list[str]:
    skipped = "".join(f"; {things(number, 'line')} {why}" for why, number in found["skipped"].items())
    span = "" if found["days"] is None else f", over {found['days']:.1f} days"
    volume = "" if found["per_month"] is None else f": {count(found['per_month'])} a month"
    told = [f"{found['log']}: {things(found['calls'], 'call')}{span}{volume}{skipped}"]
    if found["per_month"] is None:
        told.append("- volume: not known, for the log gives no times over a day or more: give --per-month")
    told.append(f"- today: {_price(found['cost'])}")
    took = found["latency_ms"]
    if took is not None:
        told.append(
            f"- latency today: {took['p50']:,.0f} ms at the median, {took['p99']:,.0f} ms at the 99th percentile"
        )
    return told


def _price(cost: dict[str, Any]) -> str:
    named = ", ".join(plain(model) or "no model named" for model in cost["unpriced"])
    if cost["usd_per_1000"] is None:
        return f"price not known ({named}): give --usd-per-million"
    usd = cost["usd_per_1000"]
    ends = "" if usd["lower"] == usd["upper"] else f" ({dollars(usd['lower'])} to {dollars(usd['upper'])})"
    known, priced = cost["by_usage"], cost["priced"]
    basis = "by the logged usage" if known == priced else "estimated from the bytes"
    if 0 < known < priced:
        basis = f"by the logged usage of {known:,}, the others estimated from their bytes"
    listed = "the given price" if cost["given"] else "list prices"
    left_out = f"; without the calls of models that have no list price ({named})" if cost["unpriced"] else ""
    return f"{dollars(usd['value'])}{ends} per 1,000 calls at {listed}, {basis}{left_out}"


def _questions(found: dict[str, Any]) -> list[str]:
    told = ["Questions in the log"]
    for number, one in enumerate(found["questions"], start=1):
        kind = f"a classification with {one['labels']:,} labels" if one["closed"] else _open(one)
        opening = one["opening"]
        shown = opening if len(opening) <= _WIDTH else f"{opening[:_WIDTH]}…"
        part = share(one["calls"] / found["calls"], 0)
        told.append(f"  {number}  {things(one['calls'], 'call')} ({part}): {kind}. “{shown}”")
    return told


def _open(one: dict[str, Any]) -> str:
    return f"no classification, with {things(one['names'], 'different answer')} to {things(one['texts'], 'text')}"


def things(number: int, thing: str) -> str:
    """Format a number of things: 1 call, 2 calls."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _answers(about: dict[str, Any]) -> list[str]:
    counts = about["labels"]
    total = sum(counts.values())
    listed = ", ".join(f"{plain(label)} {share(number / total)}" for label, number in list(counts.items())[:_SHOWN])
    more = f", and {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else ""
    without = f"{things(about['without_label'], 'answer')} name{'s' * (about['without_label'] == 1)} none of them"
    told = [f"- labels: {listed}{more}; {without}"]
    told.append(
        f"- {things(about['texts'], 'different text')}; {share(about['repeated'])} of the calls repeat an earlier "
        "text, which a cache alone would answer"
    )
    again = about["again"]
    if again is not None:
        ceiling = f", so no student can be expected to agree with it on more than {share(again['ceiling'])}"
        twice = f"{things(again['texts'], 'text')} asked twice"
        told.append(
            f"- the model agrees with itself on {percent(again['agreement'])} of {twice}"
            + (ceiling if again["texts"] >= _ENOUGH else "")
        )
    return told


def _student(about: dict[str, Any]) -> list[str]:
    student = about["student"]
    if not student["measured"]:
        return [f"- agreement of a student: not measured: {student['why']}"]
    agreement = percent(student["agreement"])
    return [
        f"- agreement of a student: {agreement}, measured on {student['texts']:,} texts, by a linear student on word "
        f"n-grams that was not trained on them; the commonest label alone gives {share(student['commonest'])}. "
        "Students with pretrained weights usually do better: `reflux run` measures them",
        f"- more texts: {student['verdict']}: {student['reason']}",
    ]


def _money(about: dict[str, Any]) -> list[str]:
    money = about["money"]
    today, mixed = money["teacher_usd_per_1000"], bool(about["cost"]["unpriced"])
    told = [
        f"- a student: {dollars(money['student_usd_per_1000'])} per 1,000 texts, or "
        f"{dollars(money['core_usd_per_month'])} a month for a core that answers at most "
        f"{count(money['most_texts_per_month'])}, if it takes "
        f"{money['milliseconds']:g} ms a text at {dollars(money['usd_per_hour'])} an hour, which are assumed",
    ]
    if today is None:
        return [*told, "verdict: the price of a call is not known: give --usd-per-million"]
    told.append(
        f"- its labels: the answers in the log cost nothing more; asking the same model once more about each of its "
        f"texts, for probabilities, costs about {dollars(money['labels_usd'])}{' at that price' * mixed}"
    )
    even = money["break_even_texts_per_month"]
    if even is None:
        return [*told, "verdict: no: a call costs no more than a student's answer"]
    told.append(f"- break-even volume: {count(even)} texts a month, from which a core costs less than the model")
    if money["saved_usd"] is None:
        return [*told, f"verdict: it saves money above {count(even)} texts a month; give --per-month"]
    of_these = f" of models with a list price ({things(about['cost']['priced'], 'call')} of the log)" if mixed else ""
    watched = f"with {share(money['shadow'], 0)} of the texts still shown to the model"
    texts, today_usd, student_usd = (
        count(money["per_month"]),
        dollars(money["today_usd"]),
        dollars(money["student_usd"]),
    )
    costs = f"{texts} texts{of_these} cost {today_usd} today, and {student_usd} with a student, {watched}"
    if money["saved_usd"] <= 0:
        return [*told, f"verdict: not for the money: a month's {costs}; latency or privacy may still speak for it"]
    part = share(money["saved_usd"] / money["today_usd"], 0)
    return [*told, f"verdict: it saves about {dollars(money['saved_usd'])} a month ({part}): {costs}"]
