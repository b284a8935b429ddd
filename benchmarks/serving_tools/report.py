"""Write the results as JSON, as a table and as a figure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from serving_tools.bounds import Bound, Part, failures
from serving_tools.conditions import Conditions
from serving_tools.contenders import OURS
from serving_tools.limit import Beside
from serving_tools.loop import Loop
from serving_tools.measure import CLIENTS, SAME_LOAD, SHARES, Measured, over

_NOTHING = "–"
_THEIR_GRAPH = (
    "The servers of others run the student's plain ONNX graph, optimised and quantised by ONNX Runtime's own tools; "
    "the pipeline runs the student on PyTorch. Reflux, the minimal server and the loop run the graph of our bundle."
)


def table(rows: Sequence[Measured], loop: Loop, conditions: Conditions) -> str:
    """Return a Markdown table with one row per server."""
    titles = ["server", *(f"req/s, {count}" for count in CLIENTS), "added", *(f"ms, {count}" for count in CLIENTS)]
    titles += [*(f"ms, {share:.0%}" for share in SHARES), "ms, same load"]
    titles += ["MB", "ready s", "not 200", "same label", "note"]
    lines = [_line(titles), _line(["---"] * len(titles))]
    for row in rows:
        lines.append(_line([row.title, *_cells(row)]))
    cells = [f"{loop.throughput:,.0f}", "", "", "", f"{loop.milliseconds:.2f}"]
    lines.append(_line(["the loop: tokenise and run, without a server", *cells, *[""] * (len(titles) - 5)]))
    graph = "All run the graph of our bundle." if conditions.same_graph else _THEIR_GRAPH
    explained = (
        f"The same student, {len(conditions.classes)} labels, {len(conditions.texts):,} texts in turn; one core for "
        f"the server, another for the load. {graph} Medians of {conditions.rounds} rounds. A load takes "
        f"{conditions.seconds:g} s after {conditions.warm_up:g} s of warm-up, an open loop at least "
        f"{conditions.requests} requests; a round has four loads of 1 client. "
        "req/s: closed loops of 1, 16 and 64 clients, in parentheses the ratio to the loop just before and after. "
        "added: the p50 of 1 client minus a text in the loop, in ms. "
        "ms: p50 / p99 / p99.9, in those closed loops, and with Poisson arrivals at 50, 70 and 90 % of the server's "
        "own highest throughput, from the intended time of sending. The highest throughput is scaled by the loop just "
        "before, and a load is sent again if the loop after it shows another speed. "
        f"The same load is {SAME_LOAD:.0%} of the loop's throughput, for all servers that can answer it. "
        "MB (10⁶ bytes): the RSS under load after all rounds, or the summed PSS of several processes. "
        "ready: from the start of the process to the first answer, the shorter of two. "
        "not 200: requests of all rounds. same label: the share of texts with the loop's label."
    )
    return "\n".join(lines) + f"\n\n{explained}\n"


def _cells(row: Measured) -> list[str]:
    more = f" ({row.memory.processes} processes)" if row.memory.processes > 1 else ""
    return [
        *map(_throughput, row.closed.values()),
        _number(over(row.closed[CLIENTS[0]], lambda one: one.added), "+.2f"),
        *map(_quantiles, (*row.closed.values(), *row.opened.values(), row.same)),
        _number(row.memory.megabytes, ".0f") + more,
        _number(row.ready_seconds, ".2f"),
        f"{failures(row):,}" if row.closed[CLIENTS[0]] else _NOTHING,
        _number(row.agreement, ".0%"),
        "; ".join(part for part in (row.note, row.reason) if part),
    ]


def _throughput(rounds: Sequence[Beside]) -> str:
    if not rounds:
        return _NOTHING
    share = _number(over(rounds, lambda one: one.share), ".2f")
    return f"{over(rounds, lambda one: one.load.throughput):,.0f} ({share})"


def _quantiles(rounds: Sequence[Beside]) -> str:
    if not rounds:
        return _NOTHING
    middle = (
        over(rounds, lambda one: one.load.latency.p50),
        over(rounds, lambda one: one.load.latency.p99),
        over(rounds, lambda one: one.load.latency.p999),
    )
    return " / ".join(_number(value, ".2f" if value < 10 else ".0f") for value in middle)


def _number(value: float, form: str) -> str:
    return _NOTHING if math.isnan(value) else format(value, form)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def write(path: Path, part: Part) -> None:
    """Write the results as JSON, with null for NaN and infinity."""
    results = {**part.found, "bounds": part.bounds}
    path.write_text(json.dumps(_plain(results), indent=2, ensure_ascii=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(inner) for inner in value]
    if isinstance(value, Bound):
        return {**_plain(asdict(value)), "holds": value.holds}
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    return value


def figure(path: Path, rows: Sequence[Measured]) -> None:
    """Plot throughput by clients and p99 by load, relative to the loop, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [row for row in rows if row.closed[CLIENTS[0]]]
    drawing, (left, right) = pyplot.subplots(1, 2, figsize=(13, 5), layout="constrained")
    width = 0.8 / max(1, len(shown))
    for index, row in enumerate(shown):
        colour = "black" if row.key == OURS else f"C{index % 10}"
        places = [place + (index - (len(shown) - 1) / 2) * width for place in range(len(CLIENTS))]
        shares = [over(rounds, lambda one: one.share) for rounds in row.closed.values()]
        left.bar(places, shares, width, label=row.title, color=colour)
        p99 = [over(rounds, lambda one: one.p99) for rounds in row.opened.values()]
        right.plot([100 * share for share in SHARES], p99, marker="o", label=row.title, color=colour)
    left.axhline(1.0, linestyle="--", color="grey", linewidth=1, label="the loop, no server")
    left.set_xticks(range(len(CLIENTS)), [f"{count} client{'s' if count > 1 else ''}" for count in CLIENTS])
    left.set_ylabel("answers per second / the loop's, one core")
    drawing.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    right.set_yscale("log")
    right.set_xticks([100 * share for share in SHARES])
    right.set_xlabel("Poisson arrivals, % of the server's own capacity")
    right.set_ylabel("p99 / the loop's text")
    drawing.savefig(path, dpi=150)
    pyplot.close(drawing)
