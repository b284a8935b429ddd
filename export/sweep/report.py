"""Present a sweep from its `sweep.json`: a table as text, `sweep.md`, and the figure of the Pareto front."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill.evaluation.report import figures, markdown
from distill.evaluation.report.document import Block, Bullets, Figure, Figures, Paragraph, Section, Table
from distill.evaluation.report.figures import LINE, QUIET, log_times, series
from distill.evaluation.report.formats import optional, percent
from distill.stages import write_atomic

TEXT, FIGURE = "sweep.md", "front"


def write(sweep: dict[str, Any], folder: Path) -> None:
    """Write `sweep.md` and its figure."""
    made = sections(sweep)
    write_atomic(folder / TEXT, markdown.render(f"Sweep of {sweep['task']}", made))
    write_atomic(folder / f"{FIGURE}.png", figures.png(_front(sweep)))


def table(sweep: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the table of the measured candidates as text: a header and a row for each, the fastest first."""
    header = [
        "",
        "agreement",
        "retention",
        "p50",
        "p99",
        "32: p50",
        "32: p99",
        "texts/s",
        "$ per million",
        "MiB",
        "memory",
    ]
    rows = []
    for one in _measured(sweep):
        alone, together = one["alone"], one["together"]
        marks = f"{'*' if one['front'] else ''}{' (best)' if one['name'] == sweep['chosen'] else ''}"
        rows.append(
            [
                f"{one['name']}{marks}",
                percent(one["agreement"]),
                percent(one["retention"]),
                f"{alone['p50']:.2f}",
                f"{alone['p99']:.2f}",
                f"{together['p50']:.1f}",
                f"{together['p99']:.1f}",
                f"{one['texts_per_second']:,.0f}",
                f"{one['usd_per_million']:.3f}",
                f"{one['bytes'] / 2**20:.1f}",
                optional(one["memory_mib"], ".0f"),
            ]
        )
    return header, rows


def sections(sweep: dict[str, Any]) -> list[Section]:
    """Return the sections of `sweep.md`."""
    about = (
        f"On {sweep['validation_rows']} validation rows, which also chose the epochs; 95 % intervals. Times are "
        "milliseconds on one core, tokenising included, for a text alone and for 32 together; MiB is the size of the "
        "graph, memory the most MiB of a process that answers. A star marks the front: nothing else is as good and as "
        "fast by the median of a text alone."
    )
    blocks: list[Block] = [Paragraph(sweep["verdict"], "verdict"), Paragraph(about)]
    measured = _measured(sweep)
    if measured:
        blocks += [Table(*table(sweep)), Figures([_front(sweep)])]
    made = [Section("Sweep", blocks)]
    if measured:
        made.append(Section("By length", [_lengths(measured)]))
    if failed := [one for one in sweep["candidates"] if "failed" in one]:
        made.append(Section("Failed", [Bullets([f"{one['name']}: {one['failed']}" for one in failed])]))
    if sweep["not_built"]:
        items = [f"{name}: {why}" for name, why in sweep["not_built"].items()]
        made.append(Section("Cascades that were not built", [Bullets(items)]))
    return made


def _measured(sweep: dict[str, Any]) -> list[dict[str, Any]]:
    found = [one for one in sweep["candidates"] if "failed" not in one]
    return sorted(found, key=lambda one: float(one["alone"]["p50"]))


def _lengths(measured: list[dict[str, Any]]) -> Table:
    """Return the table of times by length: p50 / p99 in milliseconds, alone and together."""
    lengths = sorted({int(length) for one in measured for length in one["by_length"]})
    header = ["p50 / p99, ms", *(f"{length} tokens{kind}" for length in lengths for kind in ("", ", 32 texts"))]
    rows = []
    for one in measured:
        cells = []
        for length in lengths:
            times = one["by_length"].get(str(length))
            for kind, digits in (("alone", 2), ("together", 1)):
                cells.append(_pair(times[kind], digits) if times is not None else "–")
        rows.append([one["name"], *cells])
    return Table(header, rows)


def _pair(times: dict[str, float], digits: int) -> str:
    return f"{times['p50']:.{digits}f} / {times['p99']:.{digits}f}"


def _front(sweep: dict[str, Any]) -> Figure:
    measured = _measured(sweep)
    front = [one for one in measured if one["front"]]

    def plot(axes: Any) -> None:
        times = [one["alone"]["p50"] for one in front]
        axes.plot(times, [100 * one["agreement"]["value"] for one in front], color=LINE, zorder=1, linewidth=2)
        for one in measured:
            value, lower, upper = (100 * one["agreement"][key] for key in ("value", "lower", "upper"))
            cascade = one["family"] == "cascade"
            colour = series(1 if cascade else 0) if one["front"] else QUIET
            axes.errorbar(
                one["alone"]["p50"],
                value,
                yerr=[[value - lower], [upper - value]],
                marker="D" if cascade else "o",
                color=colour,
                elinewidth=0.8,
                capsize=2,
                alpha=1.0 if one["front"] else 0.7,
            )
            below = not one["front"]
            axes.annotate(
                one["name"],
                (one["alone"]["p50"], value),
                xytext=(6, -11 if below else 5),
                textcoords="offset points",
                color=colour,
                fontsize=8.5,
            )
        limit = sweep["limits"]["latency_ms"]
        if limit is not None:
            axes.axvline(limit, color=QUIET, linestyle="--", linewidth=1, label="limit")
            axes.legend(loc="lower right")
        axes.set(xlabel="median ms per text, one core", ylabel="agreement with the teacher, %")
        log_times(axes)
        axes.margins(x=0.16)
        axes.grid(visible=True, axis="y", linewidth=0.5)

    names = ", ".join(one["name"] for one in front)
    return Figure(FIGURE, f"agreement against the median time of a text; on the front are {names}", plot, 7.2, 4.4)
