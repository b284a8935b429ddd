"""The section on the teacher: how it was audited, and whether it agrees with itself."""

from __future__ import annotations

from typing import Any

from distill.evaluation.report.document import Paragraph, Section
from distill.evaluation.report.formats import number, percent


def section(gap: dict[str, Any]) -> Section:
    """Return the section."""
    return Section("The teacher", [Paragraph(line) for line in teacher_lines(gap["teacher"])])


def teacher_lines(teacher: dict[str, Any]) -> list[str]:
    """Describe the teacher, line by line."""
    labelled = teacher["labelled"]
    lines = [
        f"It labelled {labelled['rows']} texts, refused {labelled['refused']}, and answered {labelled['invalid']} with "
        "no label; the numbers in this report leave out those without a label."
    ]
    if (calibration := teacher["calibration"]) is not None:
        lines.append(_calibration_line(calibration))
    if (again := teacher["self_agreement"]) is not None:
        lines.append(_self_agreement_line(again))
    for terms in teacher["terms"]:
        permitted = f"; permission to train on its answers: {terms['permission']}" if "permission" in terms else ""
        lines.append(f"Its terms were acknowledged: {terms['reference']}{permitted}")
    return lines


def _calibration_line(calibration: dict[str, Any]) -> str:
    scaling, loss, error = (calibration[name] for name in ("scaling", "log_loss", "calibration_error"))
    single = scaling["method"] == "temperature"
    how = f"a temperature of {scaling['temperature']:.3f}" if single else "a scale and a bias per label"
    return (
        f"Its answers are calibrated by {how} ({calibration['reason']}), estimated from {calibration['rows']} gold "
        f"rows. On held-out rows, log-loss is {number(loss['after'])} instead of {number(loss['before'])} nats, "
        f"calibration error {number(error['after'])} instead of {number(error['before'])}, accuracy "
        f"{percent(calibration['accuracy']['after'])} instead of {percent(calibration['accuracy']['before'])}."
    )


def _self_agreement_line(again: dict[str, Any]) -> str:
    if again["by_construction"]:
        return "The teacher agrees with itself on every text, by construction: it always gives the same answer."
    return (
        f"The teacher agrees with itself on {percent(again['agreement'])} of {again['rows']} texts that it was asked "
        f"twice; the mean total variation between its answers is {number(again['variation'])}. Where they differ, a "
        f"student agrees with one of them at best, so no student can be expected to agree with it on more than "
        f"{percent(again['ceiling'])}."
    )
