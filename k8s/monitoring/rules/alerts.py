"""The alerts: what a person must know of, and how soon.

`page` wakes somebody: the student does other than the teacher beyond what was promised, or requests are not answered.
Everything else is a `ticket`, to be read within a working day. Each alert has a section of its own in docs/runbook.md.
"""

from __future__ import annotations

from k8s.monitoring.rules.rule import Group, limit

SERVED = "and on (model_version) reflux_model_info"
"""Counts of a version outlive its pods by their window; its alerts do not."""

EVIDENCE = "model:reflux_gap:log_evidence"
VERSION = "{{ $labels.model_version }}"


def alerts_group() -> Group:
    """Return all alerts."""
    group = Group("reflux-alerts", "1m")
    _gap(group)
    _blindness(group)
    _causes(group)
    _pipeline(group)
    _deferring(group)
    _answers(group)
    return group


def _gap(group: Group) -> None:
    left = f"max_over_time({EVIDENCE}[1d]) >= {limit('log_page')}"
    group.alert(
        "RefluxGapExceeded",
        # Evidence leaves short windows before it has grown in long ones: what had to leave does not return at once.
        f"""
        {EVIDENCE} >= {limit("log_page")}
        or {EVIDENCE} >= {limit("log_ticket")} and on (model_version) {left}
        or {EVIDENCE} and on (model_version) (
          sum by (model_version) (model:reflux_gap:ratio{{window="1d"}}) > on (model_version) model:reflux_gap:slo
        ) and on (model_version) {left}
        """,
        severity="page",
        wait="2m",
        keep="1h",
        summary=f"The student {VERSION} differs from its teacher more than was promised, beyond doubt",
        description="The log e-value is {{ $value | printf `%.1f` }}; 9.2 is 10,000 to 1. Put the old bundle back.",
    )
    group.alert(
        "RefluxGapRose",
        "model:reflux_gap:edetector >= model:reflux_gap:edetector_at",
        severity="page",
        wait="2m",
        keep="1h",
        summary=f"Some answers of {VERSION} are wrong more often than their confidence allows, since some time",
        description="The e-detector of all pods is at {{ $value | printf `%.3g` }}. Put the old bundle back.",
    )
    group.alert(
        "RefluxGapSuspected",
        f"({EVIDENCE} >= {limit('log_ticket')}) unless on (model_version) ({EVIDENCE} >= {limit('log_page')})",
        severity="ticket",
        wait="15m",
        keep="1h",
        summary=f"The student {VERSION} probably differs from its teacher more than was promised",
        description="The log e-value is {{ $value | printf `%.1f` }}; 6.9 is 1,000 to 1. Have the old bundle ready.",
    )


def _blindness(group: Group) -> None:
    group.alert(
        "RefluxGapBlind",
        "model_reason:reflux_gap:blind",
        severity="ticket",
        wait="5m",
        keep="30m",
        summary=f"Nobody knows the gap of {VERSION}: {{{{ $labels.reason }}}}",
        description="Too little is compared with the teacher to say whether the student may stay.",
    )
    group.alert(
        "RefluxGapUnmeasured",
        f"""
        sum by (model_version) (model:reflux_requests:increase{{window="1h"}}) > 0
        unless on (model_version) model:reflux_shadow_eligible:increase{{window="1h"}} > 0
        {SERVED}
        """,
        severity="ticket",
        wait="1h",
        keep="1h",
        summary=f"The student {VERSION} answers requests, and none is shown to a teacher",
        description="Set shadow.enabled and shadow.teacher, or take this alert out if that is meant.",
    )


def _causes(group: Group) -> None:
    group.alert(
        "RefluxInputDrift",
        "model_feature:reflux_drift:excess > 1",
        severity="ticket",
        wait="15m",
        keep="1h",
        summary=f"The texts that {VERSION} gets are others than those it knows, by {{{{ $labels.feature }}}}",
        description="The difference is {{ $value | printf `%.1f` }} times what chance and tolerance allow.",
    )
    group.alert(
        "RefluxTeacherDrift",
        "model:reflux_teacher:drift > 0",
        severity="ticket",
        wait="5m",
        keep="1h",
        summary=f"The teacher of {VERSION} answers its anchors differently than before",
        description="Find out which model answers before you touch the student.",
    )


def _pipeline(group: Group) -> None:
    group.alert(
        "RefluxBudgetSpent",
        f"""
        sum by (model_version) (increase(reflux_shadow_results_total{{outcome="budget"}}[1h])) > 0
        {SERVED}
        """,
        severity="ticket",
        wait="15m",
        keep="1h",
        summary=f"The budget of comparisons of {VERSION} does not last",
        description="{{ $value | printf `%.0f` }} sampled texts of the last hour were not shown to the teacher.",
    )
    group.alert(
        "RefluxShadowMiscounts",
        f"""
        (abs(model:reflux_shadow:missing) >= 1)
        or sum by (model_version) (increase(reflux_shadow_defects_total[1h])) > 0
        {SERVED}
        """,
        severity="ticket",
        wait="15m",
        keep="1h",
        summary=f"Texts of {VERSION} are not counted",
        description="{{ $value | printf `%.0f` }} texts are missing in the counts of shadowing: a defect of Reflux.",
    )


def _deferring(group: Group) -> None:
    # The teacher may decline a text, a client may be in a hurry, and a pod may stop: none of these is a failure.
    no_failure, not_asked = "answered|refused|deadline|shutdown", "deadline|shutdown"
    failed = f'sum by (model_version) (increase(reflux_deferrals_total{{outcome!~"{no_failure}"}}[1h]))'
    group.alert(
        "RefluxDeferralsFail",
        f"""
        {failed}
        / (sum by (model_version) (increase(reflux_deferrals_total{{outcome!~"{not_asked}"}}[1h])) > 0) > 0.5
        and on (model_version) {failed} >= on (model_version) max by (model_version) (reflux_burn_failures)
        {SERVED}
        """,
        severity="ticket",
        wait="15m",
        keep="1h",
        summary=f"The teacher does not answer what the students of {VERSION} leave to it",
        description="{{ $value | humanizePercentage }} of such texts of the last hour got a student's answer instead.",
    )


def _answers(group: Group) -> None:
    for name, what, severity, pairs in (
        ("RefluxAvailability", "availability", "page", (("1h", "5m"), ("6h", "30m"))),
        ("RefluxAvailabilitySlow", "availability", "ticket", (("3d", "6h"),)),
        ("RefluxLatency", "latency", "ticket", (("1h", "5m"), ("6h", "30m"), ("3d", "6h"))),
    ):
        failure = "not answered" if what == "availability" else "answered late"
        group.alert(
            name,
            "\n or ".join(_burns(what, long, short) for long, short in pairs),
            severity=severity,
            wait="2m",
            keep="15m",
            summary=f"Requests to {VERSION} are {failure} more often than was promised",
            description="The error budget of 30 days is used up {{ $value | printf `%.1f` }} times as fast as allowed.",
        )
    group.alert(
        "RefluxAbsent",
        "absent(reflux_model_info)",
        severity="page",
        wait="5m",
        keep="5m",
        summary="No pod of Reflux is scraped",
        description="None runs, or Prometheus cannot reach them: nobody can say whether requests are answered.",
    )


def _burns(what: str, long: str, short: str) -> str:
    """Return the burn rate of the long window where it and that of the short one are too high.

    The short window ends the alert soon after the failures do.
    """
    ratio = "error_ratio" if what == "availability" else "slow_ratio"
    rate = f'on (model_version) group_left () max by (model_version) (reflux_burn_rate{{window="{long}"}})'

    def burn(window: str) -> str:
        return f'sum by (model_version) (model:reflux_{what}:burn{{window="{window}"}})'

    failures = (
        f'sum by (model_version) (model:reflux_answers:{ratio}{{window="{long}"}}'
        f' * model:reflux_answers:increase{{window="{long}"}})'
    )
    return (
        f"{burn(long)} >= {rate}"
        f"\nand on (model_version) {burn(short)} >= {rate}"
        f"\nand on (model_version) {failures} >= on (model_version) max by (model_version) (reflux_burn_failures)"
    )
