"""What comes first in the report: the verdict on the chosen student in a sentence, and what warns against it."""

from __future__ import annotations

from typing import Any

from distill.evaluation.report.document import Block, Fact, Facts, Paragraph, Section
from distill.evaluation.report.formats import percent, share


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
        between = f"{share(retention['lower'])} and {share(retention['upper'])}"
        kept = f"keeps {share(retention['value'])} of the teacher's accuracy (between {between}) and "
    else:
        kept = ""
    return f"The student {name} {kept}{agrees}{_savings(gap['teacher'], student)}."


def _savings(teacher: dict[str, Any], student: dict[str, Any]) -> str:
    faster = _times(teacher["milliseconds"], student["measured"]["milliseconds"])
    cheaper = _times(teacher["usd_per_1000"], student["usd_per_1000"])
    said = [f"{times} times as {word}" for times, word in ((faster, "fast"), (cheaper, "cheap")) if times is not None]
    return f", and is {' and '.join(said)}" if said else ""


def _times(teacher: float | None, student: float) -> str | None:
    """Return the ratio of a teacher's to a student's number, None if it is not known."""
    if not teacher or not student:
        return None
    ratio = teacher / student
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.1f}"


def _facts(gap: dict[str, Any]) -> list[Fact]:
    teacher, student = gap["teacher"], gap["students"][gap["chosen"]]
    own = student["gap"]
    facts = [Fact("agreement with the teacher", share(own["agreement"]["value"]), percent(own["agreement"]))]
    if own["retention"] is not None:
        accuracies = f"{share(own['student_accuracy']['value'])} instead of {share(own['teacher_accuracy']['value'])}"
        facts.append(Fact("of the teacher's accuracy kept", share(own["retention"]["value"]), accuracies))
    milliseconds = student["measured"]["milliseconds"]
    slow = f"teacher: {teacher['milliseconds']:,.2f} ms" if teacher["milliseconds"] is not None else ""
    facts.append(Fact("per text, on one core", f"{milliseconds:,.2f} ms", slow))
    dear = f"teacher: ${teacher['usd_per_1000']:,.6f}" if teacher["usd_per_1000"] is not None else ""
    facts.append(Fact("per 1,000 texts", f"${student['usd_per_1000']:,.6f}", dear))
    return facts
