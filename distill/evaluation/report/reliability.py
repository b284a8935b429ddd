"""The section on calibration: whether a student is as often right as it is sure."""

from __future__ import annotations

from typing import Any

from distill.evaluation.report.document import Figure, Figures, Paragraph, Section
from distill.evaluation.report.figures import LINE, series


def section(gap: dict[str, Any]) -> Section:
    """Return the section."""
    text = "Of the texts of which a calibrated student is 80 % sure, it agrees with its teacher on 80 %: the diagonal."
    return Section("Calibration", [Paragraph(text), Figures([_figure(gap)])])


def _figure(gap: dict[str, Any]) -> Figure:
    def plot(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=LINE, linewidth=1)
        for at, (name, student) in enumerate(gap["students"].items()):
            bins = student["gap"]["reliability"]
            means, shares = [mean for _, mean, _ in bins], [right for _, _, right in bins]
            axes.plot(means, shares, marker="o", color=series(at), label=name)
        axes.set(xlabel="confidence of the student", ylabel="agreement with the teacher", xlim=(0, 1), ylim=(0, 1))
        axes.legend()

    return Figure("reliability", "confidence against agreement", plot)
