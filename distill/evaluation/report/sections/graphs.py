"""The section on graphs: the variants that were tried of each student, which one is served, and why others are not."""

from __future__ import annotations

from typing import Any

from distill.evaluation.report.document import Block, Bullets, Paragraph, Section, Table
from distill.evaluation.report.formats import share

_PRUNED = "-pruned-"
_TEXT_PRUNED = (
    "In a graph with `pruned` in its name, the student lacks some attention heads and feed-forward neurons: those "
    "shares of them, in percent."
)
_TEXT = (
    "Each student was exported as several graphs. The fastest that passes its gates is served; where several are as "
    "fast, within 5 %, an exact one comes first, then the one with fixed ranges. Times are of {rows} on one core of "
    "the machine that exported; a share is the median over runs of both graphs on the same texts, one after the other. "
    "Agreement is on the validation split: with the student in 32 bits, and with the teacher."
)


def section(gap: dict[str, Any]) -> Section | None:
    """Return the section; None for bundles that were exported before this was measured."""
    measured = {name: own["measured"] for name, own in gap["students"].items() if "variants" in own["measured"]}
    if not measured:
        return None
    rows = [
        [
            name,
            variant,
            _verdict(variant, row, gap["students"][name]["variant"]),
            f"{own['milliseconds_by_variant'][variant]:.3f}",
            f"{100 * row['time']:.0f} %",
            f"{100 * row['agreement']:.2f} %",
            f"{100 * row['teacher_agreement']:.2f} %",
            f"{row['bytes'] / 2**20:.1f}",
        ]
        for name, own in measured.items()
        for variant, row in own["variants"].items()
    ]
    header = [
        "student", "graph", "", "ms per text", "share of fp32's time", "agreement with fp32", "with the teacher", "MiB",
    ]  # fmt: skip
    together = {int(own["rows"]) for own in measured.values()}
    words = "single texts" if together == {1} else f"runs of {', '.join(map(str, sorted(together)))} texts"
    pruned = [Paragraph(_TEXT_PRUNED)] if any(_PRUNED in row[1] for row in rows) else []
    blocks: list[Block] = [Paragraph(_TEXT.format(rows=words)), *pruned, Table(header, rows, words=3)]
    if failed := [_failure(name, gate) for name in measured for gate in _failed(gap["students"][name])]:
        blocks += [Paragraph("Gates that refused a graph:"), Bullets(failed)]
    return Section("Graphs", blocks)


def _failed(student: dict[str, Any]) -> list[dict[str, Any]]:
    return [gate for gate in student["gates"].values() if not gate["passed"]]


def _failure(student: str, gate: dict[str, Any]) -> str:
    """Say what was measured of a graph that a gate refused, and the limit. The gate's name begins with the graph's."""
    variant, _, name = gate["name"].partition(": ")
    measured, required = gate["measured"], gate["required"]
    limit = "at least" if measured < required else "at most"
    return f"{student}, {variant}: {name} is {share(measured, 2)}, not {limit} {100 * required:.4g} %"


def _verdict(variant: str, row: dict[str, Any], served: str) -> str:
    if variant == served:
        return "served"
    return "refused" if row["refused"] else ""
