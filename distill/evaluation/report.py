"""The gap report: present `gap.json` as Markdown and figures. It computes nothing that is not in `gap.json`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill.data.spelling import plain
from distill.stages import write_atomic

_WORST_CLASSES = 20


def write_report(gap: dict[str, Any], folder: Path) -> None:
    """Write `report.md` and its figures into a folder."""
    _reliability_figure(gap, folder / "reliability.png")
    _frontier_figure(gap, folder / "frontier.png")
    write_atomic(folder / "report.md", markdown(gap))


def markdown(gap: dict[str, Any]) -> str:
    """Return the text of the report."""
    parts = [
        f"# Distillation gap: {gap['task']}",
        "",
        f"Teacher: {gap['teacher']['name']} (version {gap['teacher']['version']}). "
        f"Chosen student: **{gap['chosen']}**. Made {gap['created']}.",
        "",
        *(line for warning in gap.get("warnings", ()) for line in (f"**Warning:** {warning}.", "")),
        *_students_table(gap),
        "",
        "![accuracy of students against their latency](frontier.png)",
        "",
        "![confidence against agreement](reliability.png)",
        "",
        "## The teacher",
        "",
        *teacher_lines(gap["teacher"]),
        "",
        "## Data",
        "",
        *data_lines(gap["data"]),
    ]
    for name, student in gap["students"].items():
        parts += ["", *_class_table(name, student["gap"])]
    return "\n".join(parts) + "\n"


def percent(interval: dict[str, float] | None, digits: int = 1) -> str:
    """Format an interval of shares as percentages; a dash where there is none."""
    if interval is None:
        return "–"
    value, lower, upper = (100 * interval[key] for key in ("value", "lower", "upper"))
    return f"{value:.{digits}f} % [{lower:.{digits}f}, {upper:.{digits}f}]"


def number(interval: dict[str, float], digits: int = 3) -> str:
    """Format an interval of numbers."""
    return f"{interval['value']:.{digits}f} [{interval['lower']:.{digits}f}, {interval['upper']:.{digits}f}]"


def summary(gap: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the main table as text: a header (empty, teacher, each student) and a row for each measure."""
    teacher, students = gap["teacher"], gap["students"]
    gaps = [student["gap"] for student in students.values()]
    measured = [student["measured"] for student in students.values()]
    rows = [
        ["accuracy", percent(gaps[0]["teacher_accuracy"]), *(percent(own["student_accuracy"]) for own in gaps)],
        ["retention", "", *(percent(own["retention"]) for own in gaps)],
        ["agreement with teacher", "", *(percent(own["agreement"]) for own in gaps)],
        ["KL, nats", "", *(number(own["kl"]) for own in gaps)],
        ["calibration error", "", *(number(own["calibration_error"]) for own in gaps)],
        *_decision_rows([student.get("decision") for student in students.values()]),
        ["ms per text", _optional(teacher["milliseconds"], ".2f"), *(f"{own['milliseconds']:.2f}" for own in measured)],
        [
            "$ per 1,000 texts",
            _optional(teacher["usd_per_1000"], ".6f"),
            *(f"{student['usd_per_1000']:.6f}" for student in students.values()),
        ],
        ["graph", "", *(student["variant"] for student in students.values())],
        ["MiB", "", *(f"{own['bytes'] / 2**20:.1f}" for own in measured)],
    ]
    return ["", "teacher", *students], rows


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


def teacher_lines(teacher: dict[str, Any]) -> list[str]:
    """Describe the teacher, line by line."""
    labelled = teacher["labelled"]
    lines = [
        f"It labelled {labelled['rows']} texts, refused {labelled['refused']}, and answered {labelled['invalid']} with "
        "no label; the numbers in this report leave out those without a label."
    ]
    if (calibration := teacher["calibration"]) is not None:
        lines += ["", _calibration_line(calibration)]
    if (again := teacher["self_agreement"]) is not None:
        lines += ["", _self_agreement_line(again)]
    return lines + [
        line for terms in teacher["terms"] for line in ("", f"Its terms were acknowledged: {terms['reference']}")
    ]


def data_lines(data: dict[str, Any]) -> list[str]:
    """Describe the data and its cleaning, line by line."""
    rows, cleaning = data["rows"], data["cleaning"]
    leaked = ", ".join(f"{count} that are also in {name}" for name, count in cleaning["leaked"].items())
    summary_line = (
        f"{rows['train']} rows to train, {rows['validation']} to validate, {rows['test']} to test. "
        f"Of {cleaning['rows']} rows in the pool, removed: {cleaning['exact']} exact and {cleaning['near']} near "
        f"duplicates, {leaked}. "
        f"{cleaning['conflicting']} texts had more than one gold label."
    )
    findings = (f"- {finding['level']}: {finding['message']}" for finding in data["findings"])
    return [summary_line, *(f"- {line}" for line in data["delimiters"]), *findings]


def label_lines(data: dict[str, Any]) -> list[str]:
    """List every label with its gold rows, and the rows without a label."""
    lines = []
    for label, counts in data["counts"].items():
        listed = f"{sum(counts.values())} rows ({', '.join(f'{count} {name}' for name, count in counts.items())})"
        if label or any(counts.values()):
            lines.append(f"- label {plain(label)}: {listed}" if label else f"- no label: {listed}")
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


def _students_table(gap: dict[str, Any]) -> list[str]:
    count = next(iter(gap["students"].values()))["gap"]["rows"]
    return [
        f"On {count} test rows, with 95 % intervals; students are scored through the ONNX graph that is served.",
        "",
        *_table(*summary(gap)),
        "",
        *(f"- {name}: {student['measured']['reason']}" for name, student in gap["students"].items()),
    ]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def _optional(value: float | None, form: str) -> str:
    return "not known" if value is None else format(value, form)


def _class_table(name: str, gap: dict[str, Any]) -> list[str]:
    seen = [row for row in gap["classes"] if row["recall"] is not None]
    worst = sorted(seen, key=lambda row: float(row["recall"]["value"]))[:_WORST_CLASSES]
    columns = ("label", "teacher chose", "student chose", "recall", "precision")
    rows = [
        [row["label"], str(row["teacher"]), str(row["student"]), percent(row["recall"]), percent(row["precision"])]
        for row in worst
    ]
    return [
        f"## {name} by label",
        "",
        f"The {len(worst)} of {len(gap['classes'])} labels with the lowest recall; `gap.json` has all.",
        "",
        *_table(columns, rows),
    ]


def _reliability_figure(gap: dict[str, Any], path: Path) -> None:
    figure, axes = _figure()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for name, student in gap["students"].items():
        bins = student["gap"]["reliability"]
        axes.plot([mean for _, mean, _ in bins], [share for _, _, share in bins], marker="o", label=name)
    axes.set(xlabel="confidence of the student", ylabel="agreement with the teacher", xlim=(0, 1), ylim=(0, 1))
    axes.legend()
    figure.savefig(path)


def _frontier_figure(gap: dict[str, Any], path: Path) -> None:
    figure, axes = _figure()
    for name, student in gap["students"].items():
        agreement = student["gap"]["agreement"]
        value = 100 * agreement["value"]
        error = [[value - 100 * agreement["lower"]], [100 * agreement["upper"] - value]]
        axes.errorbar(student["measured"]["milliseconds"], value, yerr=error, marker="o", capsize=3, label=name)
    if gap["budget"]["latency_ms"]:
        axes.axvline(gap["budget"]["latency_ms"], color="0.7", linestyle="--", label="latency budget")
    axes.set(xlabel="ms per text, one thread", ylabel="agreement with the teacher, %", xscale="log")
    axes.legend()
    figure.savefig(path)


def _figure() -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()
