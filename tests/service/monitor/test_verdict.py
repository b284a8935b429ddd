"""The verdict, from numbers alone: each rule, and which rule goes first."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from service.monitor.evalues import LOG_PAGE, LOG_TICKET
from service.monitor.findings import Findings
from service.monitor.gap import GapEstimate
from service.monitor.verdict import LOG_CERTAIN, Cause, Judgement, Verdict, judge
from service.monitor.windows import NAMES, SINCE, WEIGHTS, Window

SLO = 0.105
CALM = GapEstimate(
    gap=0.058,
    stderr=0.004,
    lower=0.05,
    upper=0.067,
    level=0.95,
    expected_gap=0.06,
    live_ece=0.01,
    coverage=1.0,
    worst_case_lower=0.055,
    worst_case_upper=0.06,
    requests=50_000,
    sampled=1010,
    lost=10,
    compared=1000,
    disagreed=150,
)


def window(name: str, **changes: Any) -> Window:
    values: dict[str, Any] = {
        "estimate": CALM,
        "log_evalue_gap": -3.0,
        "log_evalue_bands": -2.0,
        "requests": 50_000,
        "expected": 3000,
        "sampled": 1010,
        "lost": 10,
        "compared": 1000,
    }
    return Window(name, **(values | changes))


def findings(windows: dict[str, Window] | None = None, **changes: Any) -> Findings:
    """Return those of a calm, certified student, with `changes`."""
    values: dict[str, Any] = {
        "slo": SLO,
        "windows": {name: window(name) for name in NAMES} | (windows or {}),
        "newest_lost": 0,
        "newest_compared": 40,
        "log_certify": LOG_CERTAIN + 1,
        "edetector": 300.0,
        "edetector_at": 1e5,
        "silent_seconds": 4.0,
        "silent_samples": 1,
    }
    return Findings(**(values | changes))


def bad(name: str = "1h", log_evalue: float = LOG_PAGE + 6, bands: float = -5.0) -> dict[str, Window]:
    estimate = replace(CALM, gap=0.4, lower=0.33, upper=0.47)
    return {name: window(name, estimate=estimate, log_evalue_gap=log_evalue, log_evalue_bands=bands)}


def test_a_calm_student_with_a_certificate_may_stay() -> None:
    judged = judge(findings())
    assert (judged.verdict, judged.cause, judged.blind) == (Verdict.STAY, None, ())
    assert judged.message == (
        "The gap is 5.8 % (5.0 % to 6.7 %) since deployment, below the SLO of 10.5 % at odds of more than 20 to 1; the "
        "student may stay."
    )


def test_evidence_in_one_window_is_enough_to_leave_and_the_window_is_named() -> None:
    judged = judge(findings(bad("1h")))
    assert judged.verdict is Verdict.LEAVE
    assert "40.0 % (33.0 % to 47.0 %) in the last hour, above the SLO of 10.5 %" in judged.message


def test_the_evidence_of_a_window_is_shared_among_all_and_with_the_ceilings() -> None:
    share = math.log(2 / WEIGHTS["1h"])
    assert judge(findings(bad(log_evalue=LOG_PAGE + share + 0.01))).verdict is Verdict.LEAVE
    assert judge(findings(bad(log_evalue=LOG_PAGE + share - 0.01))).verdict is Verdict.WATCH


def test_a_student_that_must_leave_does_not_return_while_the_evidence_is_strong() -> None:
    share = math.log(2 / WEIGHTS["1h"])
    weaker = bad(log_evalue=LOG_TICKET + share + 0.01)
    assert judge(findings(weaker)).verdict is Verdict.WATCH
    held = judge(findings(weaker, left=True))
    assert held.verdict is Verdict.LEAVE
    assert "in all likelihood, as before" in held.message
    assert judge(findings(bad(log_evalue=LOG_TICKET + share - 0.01), left=True)).verdict is Verdict.STAY


def test_a_student_that_must_leave_returns_only_when_its_last_day_is_below_the_slo_again() -> None:
    faded = bad("1d", log_evalue=0.0)
    held = judge(findings(faded, left=True))
    assert held.verdict is Verdict.LEAVE
    assert held.message.startswith(
        "The gap was above the SLO of 10.5 % beyond doubt, and is 40.0 % (33.0 % to 47.0 %) in the last day"
    )
    assert judge(findings(faded)).verdict is Verdict.STAY, "without a verdict before, the same numbers do not condemn"
    assert judge(findings(left=True)).verdict is Verdict.STAY


def test_a_band_above_its_ceiling_is_named_as_the_reason() -> None:
    judged = judge(findings(bad("7d", log_evalue=-9.0, bands=LOG_PAGE + 5)))
    assert judged.verdict is Verdict.LEAVE
    assert judged.message.startswith("Answers in at least one confidence band are wrong more often than its ceiling")


def test_the_detector_alone_is_enough_to_leave() -> None:
    assert judge(findings(edetector=1e5)).verdict is Verdict.LEAVE
    assert judge(findings(edetector=0.99e5)).verdict is Verdict.STAY


@pytest.mark.parametrize(
    ("drift", "cause", "remedy"),
    [
        ({}, Cause.STUDENT, "distil again"),
        ({"input_drift": "Inputs changed"}, Cause.INPUT, "recent texts"),
        ({"teacher_drift": "The teacher changed"}, Cause.TEACHER, "which model answers"),
        ({"input_drift": "Inputs changed", "teacher_drift": "The teacher changed"}, Cause.TEACHER, "which model"),
    ],
)
def test_the_cause_of_a_gap_and_what_to_do_about_it(drift: dict[str, str], cause: Cause, remedy: str) -> None:
    left, watched = judge(findings(bad(), **drift)), judge(findings(bad(log_evalue=LOG_TICKET + 5), **drift))
    assert (left.verdict, watched.verdict) == (Verdict.LEAVE, Verdict.WATCH)
    assert left.cause is watched.cause is cause
    assert remedy in left.message


@pytest.mark.parametrize(("kind", "cause"), [("input_drift", Cause.INPUT), ("teacher_drift", Cause.TEACHER)])
def test_drift_alone_is_watched(kind: str, cause: Cause) -> None:
    judged = judge(findings(None, **{kind: "The share of class billing doubled"}))
    assert (judged.verdict, judged.cause) == (Verdict.WATCH, cause)
    assert judged.message.startswith("The share of class billing doubled; ")


def test_another_model_is_mentioned_and_is_no_drift_by_itself() -> None:
    change = "Since 2026-01-02 the teacher's server answers as m-2."
    for found in (findings(), findings(bad()), findings(log_certify=0.0)):
        judged, said = judge(found), judge(replace(found, model_change=change))
        assert said == replace(judged, message=f"{judged.message} {change}")


def test_without_a_certificate_a_student_is_watched_and_told_how_long() -> None:
    judged = judge(findings(log_certify=LOG_CERTAIN / 2))
    assert (judged.verdict, judged.cause) == (Verdict.WATCH, None)
    assert "wait for about 1000 more" in judged.message
    assert "wait for more" in judge(findings(log_certify=-1.0)).message


def test_texts_that_wait_for_the_teacher_explain_a_missing_certificate() -> None:
    waiting = {SINCE: window(SINCE, sampled=1210)}
    message = judge(findings(waiting, log_certify=-1.0)).message
    assert "200 texts wait for the teacher" in message
    assert "shadow.rate" not in message


def test_before_the_first_comparison_a_student_is_watched() -> None:
    none = {
        name: window(name, estimate=None, lost=0, compared=0, log_evalue_gap=0, log_evalue_bands=0) for name in NAMES
    }
    judged = judge(findings(none, log_certify=0.0, silent_seconds=None, newest_compared=0))
    assert judged.verdict is Verdict.WATCH
    assert "No text has been compared" in judged.message


def test_comparisons_of_another_teachers_samples_are_not_called_none() -> None:
    taken_over = {
        name: window(name, estimate=None, lost=0, requests=0, compared=7, log_evalue_gap=0, log_evalue_bands=0)
        for name in NAMES
    }
    message = judge(findings(taken_over, log_certify=0.0)).message
    assert "The 7 texts that this teacher was asked about were sampled for another one" in message


def blind(found: Findings) -> Judgement:
    judged = judge(found)
    assert judged.verdict is Verdict.BLIND
    assert judged.message == judged.blind[0]
    return judged


def test_without_a_teacher_the_gap_is_not_seen() -> None:
    assert "shadow.enabled" in blind(findings(enabled=False)).message


def test_old_comparisons_blind_once_others_were_due() -> None:
    assert judge(findings(silent_seconds=86_400, silent_samples=9)).verdict is Verdict.STAY
    assert judge(findings(silent_seconds=119, silent_samples=50)).verdict is Verdict.STAY
    assert "for 10 minutes, although 34" in blind(findings(silent_seconds=600, silent_samples=34)).message


def test_a_witness_that_reads_nothing_blinds() -> None:
    assert judge(findings(unread_seconds=100)).verdict is Verdict.STAY
    assert "witness has read nothing for 4 minutes" in blind(findings(unread_seconds=250)).message


def test_losses_in_the_last_hour_blind() -> None:
    assert judge(findings({"1h": window("1h", lost=20, compared=80)})).verdict is Verdict.STAY
    lossy = {"1h": window("1h", lost=30, compared=70)}
    judged = blind(findings(lossy, losses={"timeout": 3.0, "budget": 27.0}))
    assert "30.0 % of the last hour's samples" in judged.message
    assert "(budget 27, timeout 3)" in judged.message
    assert "raise shadow.usd_per_hour" in judged.message
    assert judge(findings({"1h": window("1h", lost=5, compared=10)})).verdict is Verdict.STAY  # too few to say


def test_losses_of_the_newest_slots_blind_before_the_hour_shows_them() -> None:
    assert "newest" in blind(findings(newest_lost=20, newest_compared=40)).message


def test_a_gap_that_losses_could_hide_blinds() -> None:
    wide = {"1d": window("1d", estimate=replace(CALM, worst_case_lower=0.05, worst_case_upper=0.11))}
    assert "from 5.0 % to 11.0 % in the last day; see losses" in blind(findings(wide)).message
    disk = {"queue_full": 0.0, "store_error": 60.0}
    assert blind(findings(wide, losses=disk)).message.endswith("(store_error 60); see the log about the outbox.")
    young = {name: replace(wide["1d"], name=name, lost=10, compared=80) for name in NAMES}
    assert judge(findings(young)).verdict is Verdict.STAY  # too few to say


def test_bands_without_a_comparison_blind() -> None:
    few = {"1d": window("1d", estimate=replace(CALM, coverage=0.9))}
    assert "Only 90.0 %" in blind(findings(few)).message


def test_another_teacher_blinds() -> None:
    assert blind(findings(other_teacher="It is another.")).blind == ("It is another.",)


def test_leave_goes_before_blind_before_watch_before_stay() -> None:
    blinding: dict[str, Any] = {"silent_seconds": 900.0, "silent_samples": 80.0, "newest_lost": 30.0}
    assert judge(findings(bad(), **blinding)).verdict is Verdict.LEAVE
    found = judge(findings(bad(log_evalue=LOG_TICKET + 5), **blinding))
    assert found.verdict is Verdict.BLIND
    assert len(found.blind) == 2
    assert judge(findings(input_drift="Inputs changed")).verdict is Verdict.WATCH


def test_verdicts_have_the_numbers_of_exit_codes() -> None:
    assert [verdict.code for verdict in Verdict] == [0, 1, 2, 3]
    assert [str(verdict) for verdict in Verdict] == ["stay", "watch", "leave", "blind"]
