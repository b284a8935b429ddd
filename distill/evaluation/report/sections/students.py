"""The section that has teacher and students side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distill.evaluation.report.document import Block, Bullets, Figure, Figures, Paragraph, Section, Table
from distill.evaluation.report.figures import LINE, QUIET, log_times, series
from distill.evaluation.report.formats import number, optional, percent, teacher_time


def section(gap: dict[str, Any]) -> Section:
    """Return the section."""
    count = next(iter(gap["students"].values()))["gap"]["rows"]
    text = f"On {count} test rows, with 95 % intervals; students are scored through the ONNX graph that is served."
    if next(iter(gap["students"].values()))["gap"]["mcnemar"] is not None:
        text += " p is of McNemar's exact test: how probable such unequal numbers are if both are right equally often."
    reasons = [f"{name}: {student['measured']['reason']}" for name, student in gap["students"].items()]
    blocks: list[Block] = [Paragraph(text), Table(*summary(gap)), Bullets(reasons), Figures([_frontier(gap)])]
    return Section("Teacher and students", blocks)


def summary(gap: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the main table as text: a header (empty, teacher, each student) and a row for each measure."""
    teacher, students = gap["teacher"], gap["students"]
    gaps = [student["gap"] for student in students.values()]
    measured = [student["measured"] for student in students.values()]
    again = teacher["self_agreement"]
    errors = (student["calibration"]["agreement"]["after"]["error"] for student in students.values())
    rows = [
        *(_gold_rows(gaps) if gaps[0]["retention"] is not None else ()),
        [
            "agreement with teacher",
            f"with itself {percent(again['agreement'])}" if again is not None else "",
            *(percent(own["agreement"]) for own in gaps),
        ],
        *([["ceiling of agreement", percent(again["ceiling"]), *("" for _ in gaps)]] if again is not None else ()),
        ["KL, nats", "", *(number(own["kl"]) for own in gaps)],
        ["Jensen-Shannon, nats", "", *(number(own["js"]) for own in gaps)],
        ["calibration error", "", *map(number, errors)],
        *_decision_rows([student.get("decision") for student in students.values()]),
        [
            "ms per text",
            teacher_time(teacher),
            *(f"{own['milliseconds']:.2f}" for own in measured),
        ],
        [
            "$ per 1,000 texts",
            optional(teacher["usd_per_1000"], ".6f", "not known"),
            *(f"{student['usd_per_1000']:.6f}" for student in students.values()),
        ],
        ["graph", "", *(student["variant"] for student in students.values())],
        ["MiB", "", *(f"{own['bytes'] / 2**20:.1f}" for own in measured)],
    ]
    return ["", "teacher", *students], rows


def _gold_rows(gaps: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return the rows about gold labels."""
    return [
        ["accuracy", percent(gaps[0]["teacher_accuracy"]), *(percent(own["student_accuracy"]) for own in gaps)],
        ["macro-F1", percent(gaps[0]["teacher_macro_f1"]), *(percent(own["student_macro_f1"]) for own in gaps)],
        ["retention", "", *(percent(own["retention"]) for own in gaps)],
        ["right alone: teacher, student", "", *(_alone(own["mcnemar"]) for own in gaps)],
    ]


def _alone(test: dict[str, Any]) -> str:
    p = f"p = {test['p_value']:.3f}" if test["p_value"] >= 0.001 else "p < 0.001"
    return f"{test['teacher_only']}, {test['student_only']} ({p})"


def _decision_rows(decisions: Sequence[dict[str, Any] | None]) -> list[list[str]]:
    """Return the rows about the application's decision; none for a task without one."""
    if not decisions or decisions[0] is None:
        return []
    given = [decision for decision in decisions if decision is not None]
    teachers = given[0]
    return [
        ["decision: agreement with teacher", "", *(percent(own["agreement"]) for own in given)],
        ["decision: precision", "", *(percent(own["precision"]) for own in given)],
        [
            "decision: accuracy",
            percent(teachers["teacher_accuracy"]),
            *(percent(own["student_accuracy"]) for own in given),
        ],
        [
            "decision: not left to a human",
            percent(teachers["teacher_decided"]),
            *(percent(own["student_decided"]) for own in given),
        ],
    ]


def pareto_front(gap: dict[str, Any]) -> list[tuple[float, float]]:
    """Return the time and agreement, in per cent, of the students that no faster one equals, the fastest first."""
    points = [
        (student["measured"]["milliseconds"], 100 * student["gap"]["agreement"]["value"])
        for student in gap["students"].values()
    ]
    front: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front


def _frontier(gap: dict[str, Any]) -> Figure:
    def plot(axes: Any) -> None:
        front = pareto_front(gap)
        axes.step([x for x, _ in front], [y for _, y in front], where="post", color=LINE, linewidth=1)
        for at, (name, student) in enumerate(gap["students"].items()):
            agreement = student["gap"]["agreement"]
            value, lower, upper = (100 * agreement[key] for key in ("value", "lower", "upper"))
            error = [[value - lower], [upper - value]]
            milliseconds = student["measured"]["milliseconds"]
            axes.errorbar(milliseconds, value, yerr=error, marker="o", capsize=3, color=series(at), label=name)
        if gap["budget"]["latency_ms"]:
            axes.axvline(gap["budget"]["latency_ms"], color=QUIET, linestyle="--", linewidth=1, label="latency budget")
        axes.set(xlabel="ms per text, one thread", ylabel="agreement with the teacher, %")
        log_times(axes)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)  # above: points may be anywhere inside

    return Figure(
        "frontier", "agreement of students and cascades against their time per text; the line is the Pareto front", plot
    )
