"""The section on confusion: which labels of the teacher the student takes for which others, as a table and a matrix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from distill.data.spelling import plain
from distill.evaluation.report.document import Figure, Figures, Paragraph, Section, Table
from distill.evaluation.report.figures import LINE, QUIET, SERIES
from distill.evaluation.report.formats import share

_PAIRS = 20
_MOST_LABELS = 100
_LONGEST_LABEL = 40


def section(gap: dict[str, Any]) -> Section | None:
    """Return the section about the chosen student, None if it follows its teacher everywhere."""
    name = gap["chosen"]
    own = gap["students"][name]["gap"]
    labels = [plain(row["label"]) for row in own["classes"]]
    chose = [row["teacher"] for row in own["classes"]]
    pairs = sorted((pair for pair in own["confusion"] if pair[0] != pair[1]), key=lambda pair: (-pair[2], pair[0]))
    if not pairs:
        return None
    rows = [
        [labels[said], labels[answered], str(count), share(count / chose[said])]
        for said, answered, count in pairs[:_PAIRS]
    ]
    differ = sum(count for _, _, count in pairs)
    text = (
        f"{name} gives another label than the teacher to {differ} of {own['rows']} texts, in {len(pairs)} pairs of "
        f"labels; {'these' if len(rows) == len(pairs) else f'the {len(rows)} most frequent'}:"
    )
    header = ("teacher", name, "texts", "share of label")
    shown = _shown(pairs, len(labels))
    few = f", for the {len(shown)} labels that are confused most" if len(shown) < len(labels) else ""
    legend = (
        f"Each row is a label of the teacher, each column one of {name}{few}. What is off the diagonal is numbered."
    )
    figure = _figure(name, own["confusion"], labels, shown)
    return Section("Confusion", [Paragraph(text), Table(header, rows, words=2), Paragraph(legend), Figures([figure])])


def _shown(pairs: Sequence[Sequence[int]], count: int) -> list[int]:
    """Return the labels to draw, in order: all, or those that are confused most."""
    if count <= _MOST_LABELS:
        return list(range(count))
    confused: Counter[int] = Counter()
    for said, answered, times in pairs:
        confused[said] += times
        confused[answered] += times
    return sorted(label for label, _ in confused.most_common(_MOST_LABELS))


def _figure(name: str, cells: Sequence[Sequence[int]], labels: Sequence[str], shown: Sequence[int]) -> Figure:
    names = [_cut(labels[label]) for label in shown]
    place = {label: at for at, label in enumerate(shown)}
    placed = [(place[said], place[answered], n) for said, answered, n in cells if said in place and answered in place]
    many = len(names) > 30
    cell, font = (0.14, 7.5) if many else (0.3, 9.0)
    margin = max(map(len, names)) * font * 0.0085 + 0.5
    side = len(names) * cell + margin

    def plot(axes: Any) -> None:
        from matplotlib.collections import PatchCollection
        from matplotlib.patches import Rectangle

        for right, colour in ((True, SERIES[0]), (False, SERIES[4])):
            group = [(row, column, n) for row, column, n in placed if (row == column) == right]
            most = max((n for _, _, n in group), default=1)
            squares = [Rectangle((column - 0.5, row - 0.5), 1, 1) for row, column, _ in group]
            opacity = [(0.12 if right else 0.2) + 0.5 * n / most for _, _, n in group]
            axes.add_collection(PatchCollection(squares, facecolor=colour, alpha=opacity, linewidth=0))
            for row, column, n in group if not right else ():
                axes.text(column, row, str(n), ha="center", va="center_baseline", fontsize=font - 1)
        places = range(len(names))
        axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5), aspect="equal")
        axes.set_xticks(places, names, rotation=90, fontsize=font)
        axes.set_yticks(places, names, fontsize=font)
        axes.set_xticks([at - 0.5 for at in places], minor=True)
        axes.set_yticks([at - 0.5 for at in places], minor=True)
        axes.grid(which="minor", color=LINE, linewidth=0.4)
        axes.tick_params(which="both", length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
        axes.spines[:].set_visible(True)
        axes.spines[:].set_color(QUIET)
        axes.set(ylabel="label of the teacher", xlabel=f"label of {name}")
        axes.xaxis.set_label_position("top")

    alt = f"matrix of the labels of the teacher against those of {name}, {len(names)} by {len(names)}"
    return Figure("confusion", alt, plot, side, side)


def _cut(label: str) -> str:
    return label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL - 1]}…"
