"""The section on the cascade: what its stages answer, what that saves, and what is guaranteed; or why there is none."""

from __future__ import annotations

from typing import Any

from distill.evaluation.report.document import Block, Bullets, Paragraph, Section, Table
from distill.evaluation.report.formats import percent, share


def section(gap: dict[str, Any]) -> Section | None:
    """Return the section; None for a report without a word on cascades."""
    if (cascade := gap.get("cascade")) is None:
        return None
    name, reason = cascade["name"], cascade["reason"]
    if name is None:
        return Section("Cascade", [Paragraph(f"No cascade was built: {reason}.")])
    own, last = gap["students"][name], gap["students"][name.split("+")[-1]]
    measured = own["measured"]
    stages = zip(own["shares"].items(), measured["milliseconds_by_variant"].values(), strict=True)
    reached, rows = 1.0, []
    for (stage, answered), milliseconds in stages:
        rows.append([stage, share(reached), share(answered), f"{milliseconds:.3f}"])
        reached = max(reached - answered, 0.0)
    blocks: list[Block] = [
        Paragraph(
            "Each stage answers the texts that it is sure about and passes the others on. Of the test texts, which "
            "chose no cut-off:"
        ),
        Table(["stage", "texts that it reads", "texts that it answers", "ms per text that it reads"], rows),
        Paragraph("The whole against its last stage alone:"),
        Table(["", name, "last stage alone"], _comparison(own, last)),
        Bullets([measured["guarantee"]]),
    ]
    return Section("Cascade", blocks)


def expected_milliseconds(student: dict[str, Any]) -> float:
    """Return the time of a text of the test split: for a cascade, of all stages that read it, in the mean."""
    if not student.get("shares"):
        return float(student["measured"]["milliseconds"])
    spent, total = 0.0, 0.0
    times = student["measured"]["milliseconds_by_variant"].values()
    for answered, milliseconds in zip(student["shares"].values(), times, strict=True):
        spent += milliseconds
        total += answered * spent
    return total


def _comparison(own: dict[str, Any], last: dict[str, Any]) -> list[list[str]]:
    both = (own["gap"], last["gap"])
    rows = [["agreement with teacher", *(percent(each["agreement"]) for each in both)]]
    if own["gap"]["retention"] is not None:
        rows += [
            ["retention", *(percent(each["retention"]) for each in both)],
            ["accuracy", *(percent(each["student_accuracy"]) for each in both)],
        ]
    alone = list(own["measured"]["milliseconds_by_variant"].values())[-1]
    expected = expected_milliseconds(own)
    rows += [["computing time per text, ms", f"{expected:.3f}", f"{alone:.3f}"]]
    return [*rows, ["share of that time", share(expected / alone), "100.0 %"]]
