"""What was measured, as bounds that hold or do not, a table and a figure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serving_tools.contenders import HAND, OURS
from serving_tools.loop import Loop
from serving_tools.measure import CLIENTS, SHARES, Conditions, Measured
from serving_tools.plan import Latency, Load

_NOTHING = "–"


@dataclass(frozen=True, slots=True)
class Bound:
    """A comparison with the bound it is to keep: at least `least`, or at most `most`."""

    name: str
    value: float
    least: float | None = None
    most: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the bound is kept; what could not be measured keeps none."""
        if math.isnan(self.value):
            return False
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)

    def line(self) -> str:
        """The bound as a line of the report."""
        bound = f">= {self.least:g}" if self.least is not None else f"<= {self.most:g}"
        return f"{'pass' if self.holds else 'FAIL'}  {self.value:8.3f}  ({bound})  {self.name}"


@dataclass(frozen=True, slots=True)
class Part:
    """What a part of the benchmark found, and the bounds it is held to."""

    found: Mapping[str, Any]
    bounds: Sequence[Bound]


def bounds(ours: Measured, peers: Sequence[Measured]) -> list[Bound]:
    """The comparisons of our server with the loop and with the peers, as far as they were measured.

    The server by hand is nobody's product: it is compared in memory alone.
    """
    found = []
    by_hand = [peer for peer in peers if peer.key == HAND]
    peers = [peer for peer in peers if peer.key != HAND]
    for clients in CLIENTS[1:]:
        share = _share(ours, clients)
        best = max((_share(peer, clients) for peer in peers if clients in peer.closed_loops), default=math.nan)
        name = f"throughput at {clients} clients"
        found.append(Bound(f"{name} / the loop's", share, least=1.0))
        if peers:
            found.append(Bound(f"{name} / the best peer's", ratio(share, best), least=1.5))
    if 64 in ours.closed:
        latency = ours.closed[64].latency
        found.append(Bound("p99 / p50 at 64 clients", ratio(latency.p99, latency.p50), most=1.4))
    if 1 in ours.closed_loops:
        added = ours.closed[1].latency.p50 - ours.closed_loops[1].milliseconds
        found.append(Bound("p50 at 1 client less the loop's text, ms", added, most=0.2))
    if 0.7 in ours.opened_loops and peers:
        best = min((_p99(peer, 0.7) for peer in peers if 0.7 in peer.opened_loops), default=math.nan)
        name = "p99 at 70 % load / the best peer's"
        found.append(Bound(name, ratio(_p99(ours, 0.7), best), most=0.6))
    for peer in by_hand:
        more = ours.memory.megabytes - peer.memory.megabytes
        found.append(Bound("memory less that of the server by hand, MB", more, most=40.0))
    found.append(Bound("seconds until ready", ours.ready_seconds, most=2.0))
    found.append(Bound("requests without an answer 200, up to 70 % load", _failures(ours, most=0.7), most=0))
    return found


def ratio(value: float, to: float) -> float:
    """One number in terms of another; NaN where that is 0."""
    return value / to if to else math.nan


def _share(measured: Measured, clients: int) -> float:
    """A closed load's throughput in terms of the loop's."""
    if clients not in measured.closed_loops:
        return math.nan
    return ratio(measured.closed[clients].throughput, measured.closed_loops[clients].throughput)


def _p99(measured: Measured, share: float) -> float:
    """An open load's p99 in terms of the loop's text."""
    return ratio(measured.opened[share].latency.p99, measured.opened_loops[share].milliseconds)


def _throughput(measured: Measured, clients: int) -> float:
    return measured.closed[clients].throughput if clients in measured.closed else math.nan


def _failures(measured: Measured, most: float = 1.0) -> int:
    opened = [load for share, load in measured.opened.items() if share <= most]
    return sum(load.failed for load in (*measured.closed.values(), *opened))


def table(rows: Sequence[Measured], loop: Loop | None, conditions: Conditions) -> str:
    """One row per server, in Markdown."""
    titles = ["server", *(f"req/s, {count}" for count in CLIENTS), *(f"ms, {count}" for count in CLIENTS)]
    titles += [*(f"ms, {share:.0%}" for share in SHARES), "MB", "ready s", "not 200", "same label", "note"]
    lines = [_line(titles), _line(["---"] * len(titles))]
    for row in rows:
        lines.append(_line([row.title, *_cells(row)]))
    if loop is not None:
        cells = [f"{loop.throughput:,.0f}", "", "", f"{loop.milliseconds:.2f}"]
        lines.append(_line(["the loop: tokenise and run, no server", *cells, *[""] * (len(titles) - 5)]))
    explained = (
        f"The same student, {len(conditions.classes)} labels, {len(conditions.texts):,} texts in turn; a core for the "
        f"server, another for the load; {conditions.seconds:g} s after {conditions.warm_up:g} s of warm-up. "
        "req/s is in a closed loop of 1, 16 and 64 clients, in parentheses in terms of the loop's just before and "
        "after. ms is p50 / p99 / p99.9: in those closed loops, then with "
        "Poisson arrivals at 50, 70 and 90 % of the server's own highest throughput, from the intended time of "
        "sending. MB (10⁶ bytes) is the resident set under load, of several processes the proportional one. ready is "
        "from the start of the process to the first answer, the shorter of two. not 200 counts requests, "
        "same label is the share of texts that got the loop's label."
    )
    return "\n".join(lines) + f"\n\n{explained}\n"


def _cells(row: Measured) -> list[str]:
    closed = [row.closed.get(count) for count in CLIENTS]
    opened = [row.opened.get(share) for share in SHARES]
    note = "; ".join(part for part in (row.note, row.reason) if part)
    return [
        *(
            _NOTHING if load is None else f"{load.throughput:,.0f} ({_number(_share(row, count), '.2f')})"
            for count, load in zip(CLIENTS, closed, strict=True)
        ),
        *(_NOTHING if load is None else _quantiles(load.latency) for load in (*closed, *opened)),
        _number(row.memory.megabytes, ".0f")
        + (f" ({row.memory.processes} processes)" if row.memory.processes > 1 else ""),
        _number(row.ready_seconds, ".2f"),
        f"{_failures(row):,}" if row.closed else _NOTHING,
        _number(row.agreement, ".0%"),
        note,
    ]


def _quantiles(latency: Latency) -> str:
    return " / ".join(
        _number(value, ".2f" if value < 10 else ".0f") for value in (latency.p50, latency.p99, latency.p999)
    )


def _number(value: float, form: str) -> str:
    return _NOTHING if math.isnan(value) else format(value, form)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def write(path: Path, part: Part) -> None:
    """Write what was found as JSON, with null for what is not a number."""
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
    if isinstance(value, Measured | Loop | Load):
        return _plain(asdict(value))
    return value


def figure(path: Path, rows: Sequence[Measured], loop: Loop | None) -> None:
    """Throughput by clients, and p99 by load, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [row for row in rows if row.closed]
    drawing, (left, right) = pyplot.subplots(1, 2, figsize=(13, 5), layout="constrained")
    width = 0.8 / max(1, len(shown))
    for index, row in enumerate(shown):
        colour = "black" if row.key == OURS else f"C{index % 10}"
        places = [place + (index - (len(shown) - 1) / 2) * width for place in range(len(CLIENTS))]
        left.bar(places, [_throughput(row, count) for count in CLIENTS], width, label=row.title, color=colour)
        if row.opened:
            shares = list(row.opened)
            p99 = [row.opened[share].latency.p99 for share in shares]
            right.plot([100 * share for share in shares], p99, marker="o", label=row.title, color=colour)
    if loop is not None:
        left.axhline(loop.throughput, linestyle="--", color="grey", linewidth=1, label="the loop, no server")
    left.set_xticks(range(len(CLIENTS)), [f"{count} client{'s' if count > 1 else ''}" for count in CLIENTS])
    left.set_ylabel("answers per second, one core")
    drawing.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    right.set_yscale("log")
    right.set_xticks([100 * share for share in SHARES])
    right.set_xlabel("Poisson arrivals, % of the server's own capacity")
    right.set_ylabel("p99, ms")
    drawing.savefig(path, dpi=150)
    pyplot.close(drawing)
