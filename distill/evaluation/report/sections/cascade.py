"""The section on the cascade: what its stages answer, what that saves, and what is guaranteed; or why there is none."""

from __future__ import annotations

from typing import Any

from distill.evaluation.report.document import Block, Bullets, Paragraph, Section, Table
from distill.evaluation.report.formats import percent, share

_DEFERRED = (
    "This holds while the teacher answers. What it does not answer in time is answered by the last student, and its "
    "answer says so."
)


def section(gap: dict[str, Any]) -> Section | None:
    """Return the section; None for a report without a word on cascades."""
    if (cascade := gap.get("cascade")) is None:
        return None
    name, reason = cascade["name"], cascade["reason"]
    if name is None:
        return Section("Cascade", [Paragraph(f"No cascade was built: {reason}.")])
    own = gap["students"][name]
    measured, students = own["measured"], len(own["measured"]["milliseconds_by_variant"])
    defers = len(own["shares"]) > students
    last = gap["students"][name.split("+")[students - 1]]
    reached, rows = 1.0, []
    times = [f"{milliseconds:.3f}" for milliseconds in measured["milliseconds_by_variant"].values()]
    for (stage, answered), milliseconds in zip(own["shares"].items(), [*times, "–"], strict=False):
        rows.append([stage, share(reached), share(answered), milliseconds])
        reached = max(reached - answered, 0.0)
    alone = "last student alone" if defers else "last stage alone"
    blocks: list[Block] = [
        Paragraph(
            "Each stage answers the texts that it is sure about and passes the others on. Of the test texts, which "
            "chose no cut-off:"
        ),
        Table(["stage", "texts that it reads", "texts that it answers", "ms per text that it reads"], rows),
        Paragraph(f"The whole against its {alone}:"),
        Table(["", name, alone], _comparison(own, last)),
        Bullets([measured["guarantee"], *([_DEFERRED] if defers else ())]),
    ]
    return Section("Cascade", blocks)


def expected_milliseconds(student: dict[str, Any]) -> float:
    """Return the time of a text of the test split: for a cascade, of all stages that read it, in the mean."""
    if not student.get("shares"):
        return float(student["measured"]["milliseconds"])
    spent, total = 0.0, 0.0
    times = student["measured"]["milliseconds_by_variant"].values()
    for answered, milliseconds in zip(student["shares"].values(), [*times, 0.0], strict=False):
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
