"""What comes first in the report: the verdict on the chosen student in a sentence, and what warns against it."""

from __future__ import annotations

from typing import Any

from distill.evaluation.report.document import Block, Fact, Facts, Paragraph, Section
from distill.evaluation.report.formats import Interval, dollars, share, teacher_time


def section(gap: dict[str, Any]) -> Section:
    """Return the section without a heading."""
    teacher = gap["teacher"]
    made_of = f"Teacher: {teacher['name']} (version {teacher['version']}). Chosen student: {gap['chosen']}."
    blocks: list[Block] = [
        Paragraph(verdict(gap), "verdict"),
        *(Paragraph(f"{warning}.", "warning") for warning in gap.get("warnings", ())),
        Facts(_facts(gap)),
        Paragraph(f"{made_of} Made {gap['created']}. Intervals, in brackets, are at 95 %.", "note"),
    ]
    return Section("Verdict", blocks)


def verdict(gap: dict[str, Any]) -> str:
    """Say in a sentence what the chosen student keeps of its teacher, and what it saves."""
    name, student = gap["chosen"], gap["students"][gap["chosen"]]
    own = student["gap"]
    agrees = f"answers as the teacher does on {share(own['agreement']['value'])} of {own['rows']} held-out texts"
    if (retention := own["retention"]) is not None:
        kept = f"keeps {share(retention['value'])} of the teacher's accuracy ({_between(retention)}) and "
    else:
        kept = ""
    return f"The student {name} {kept}{agrees}{_savings(gap['teacher'], student)}."


def _between(interval: Interval) -> str:
    return f"between {share(interval['lower'])} and {share(interval['upper'])}"


def _savings(teacher: dict[str, Any], student: dict[str, Any]) -> str:
    said = []
    if teacher["milliseconds"] and not teacher["in_batches"]:  # a student is measured on one text alone
        said.append(f"{_ratio(teacher['milliseconds'] / student['measured']['milliseconds'])} times as fast")
    if teacher["usd_per_1000"] and student["usd_per_1000"]:
        said.append(f"at 1/{_ratio(teacher['usd_per_1000'] / student['usd_per_1000'])} of the cost")
    return f", {', '.join(said)}" if said else ""


def _ratio(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _facts(gap: dict[str, Any]) -> list[Fact]:
    teacher, student = gap["teacher"], gap["students"][gap["chosen"]]
    own = student["gap"]
    facts = [Fact("agreement with the teacher", share(own["agreement"]["value"]), _between(own["agreement"]))]
    if own["retention"] is not None:
        accuracies = f"{share(own['student_accuracy']['value'])} instead of {share(own['teacher_accuracy']['value'])}"
        facts.append(Fact("of the teacher's accuracy kept", share(own["retention"]["value"]), accuracies))
    milliseconds = student["measured"]["milliseconds"]
    slow = f"teacher: {teacher_time(teacher, ' ms')}" if teacher["milliseconds"] is not None else ""
    facts.append(Fact("per text, on one core", f"{milliseconds:,.2f} ms", slow))
    dear = f"teacher: {dollars(teacher['usd_per_1000'])}" if teacher["usd_per_1000"] is not None else ""
    facts.append(Fact("per 1,000 texts", dollars(student["usd_per_1000"]), dear))
    return facts
