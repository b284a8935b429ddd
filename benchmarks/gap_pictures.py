"""Draw the pictures of docs/gap.md from simulated traffic, judged by the code that the service runs.

    python benchmarks/gap_pictures.py [--output docs/images]

The student has a gap of about 5 %. After some calm days an event makes it worse; the verdict, the windows and the
evidence are those that `GET /gap` would give at each time. Then the numbers of the text are
printed. Takes a minute.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from export.bundle.ceilings import tightened, upper_bound
from export.bundle.reference import MARGIN
from export.fit_reference import BAND_EDGES, fit_reference
from service.monitor.bands import propensities
from service.monitor.cells import Cells, Floats
from service.monitor.drift import FALSE_ALARMS, shares_shift
from service.monitor.evalues import LOG_PAGE, LOG_TICKET
from service.monitor.findings import Findings
from service.monitor.series import gap_series
from service.monitor.verdict import LOG_CERTAIN, Verdict, judge
from service.monitor.windows import NAMES, Window, combined, log_certify, measure

HOUR, DAY = 3600.0, 86_400.0
START = 20_000 * DAY
PER_HOUR = 40  # comparisons
RATE = 0.05
ROWS = 2000  # of the validation split
TEXTS = 2000  # with which the inputs are compared: those of validation and test
BANDS = len(BAND_EDGES) + 1
ODDS = {"1,000 : 1 (ticket)": LOG_TICKET, "10,000 : 1 (page)": LOG_PAGE}
COLOURS = {Verdict.STAY: "#2e7d32", Verdict.WATCH: "#f9a825", Verdict.LEAVE: "#c62828", Verdict.BLIND: "#757575"}
BLUE, GREY, RED = "#1565c0", "#9e9e9e", "#c62828"


@dataclass(frozen=True, eq=False)
class Traffic:
    """Requests by band: their share and their disagreement rate, both of shape [B]."""

    share: Floats
    rate: Floats

    @property
    def gap(self) -> float:
        """The true gap."""
        return float(self.share @ self.rate)

    def mixed(self, other: Traffic, part: float) -> Traffic:
        """Return this traffic with `part` of it replaced by another."""
        share = (1 - part) * self.share + part * other.share
        wrong = (1 - part) * self.share * self.rate + part * other.share * other.rate
        return Traffic(share, wrong / np.maximum(share, 1e-12))


def by_band(d: Floats, rate: Floats) -> Traffic:
    """Return the traffic of requests with expected disagreement `d` and true `rate`, both of shape [N]."""
    band = np.searchsorted(BAND_EDGES, d, side="right")
    count = np.bincount(band, minlength=BANDS)
    return Traffic(count / len(d), np.bincount(band, rate, minlength=BANDS) / np.maximum(count, 1))


_RANDOM = np.random.default_rng(0)
_USUAL = np.clip(_RANDOM.beta(0.18, 3.4, size=400_000), 1e-4, 0.5)
_FOREIGN = np.clip(_RANDOM.beta(1.1, 2.05, size=400_000), 1e-4, 0.5)
_SURE = _RANDOM.uniform(1e-4, 0.02, size=400_000)
USUAL = by_band(_USUAL, _USUAL)
FOREIGN = by_band(_FOREIGN, np.minimum(1.4 * _FOREIGN, 1.0))  # unknown to the student, which notices most of it
MISTAKEN = by_band(_SURE, np.full(_SURE.size, 0.9))  # as sure as ever, and wrong


def _expected(d: Floats) -> Floats:
    band = np.searchsorted(BAND_EDGES, d, side="right")
    return np.asarray(np.bincount(band, d, minlength=BANDS) / np.maximum(np.bincount(band, minlength=BANDS), 1))


EXPECTED = _expected(np.concatenate([_USUAL, _FOREIGN]))
PROPENSITY = propensities(RATE, USUAL.share, np.sqrt(EXPECTED * (1 - EXPECTED)))


@dataclass
class Service:
    """A student in production: its cells, and the ceilings and the SLO that follow from `rows` validation rows."""

    seed: int
    rows: int = ROWS
    cells: Cells = field(default_factory=Cells.zeros)
    now: float = START
    slo: float = 0.0
    last: Verdict | None = None
    ceilings: list[tuple[float, Floats]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Set the SLO and the ceilings."""
        self.random = np.random.default_rng(self.seed)
        rows = np.round(self.rows * USUAL.share)
        wrong = np.round(rows * USUAL.rate)
        self.slo = upper_bound(round(self.rows * USUAL.gap), self.rows, 0.05) + MARGIN
        self.ceilings = [(0.0, tightened(np.ones(BANDS), wrong, rows))]
        self.foreseen = np.where(rows > 0, (wrong + 0.5) / (rows + 1.0), EXPECTED)

    def hour(self, traffic: Traffic, compared: float = PER_HOUR, down: bool = False) -> None:
        """Serve one hour of traffic, of which about `compared` requests are compared, or none if the teacher is down.

        The ceilings follow once.
        """
        requests = self.random.multinomial(round(compared / float(USUAL.share @ PROPENSITY)), traffic.share)
        sampled = self.random.binomial(requests, PROPENSITY)
        wrong = self.random.binomial(sampled, traffic.rate)
        self.cells += Cells.of(
            slot=self.now,
            band=np.arange(BANDS),
            propensity=PROPENSITY,
            requests=requests,
            expected=requests * EXPECTED,
            sampled=sampled,
            lost=sampled * down,
            agreed=(sampled - wrong) * (not down),
            disagreed=wrong * (not down),
        )
        self.now += HOUR
        if len(self.ceilings) == 1 and self.cells.compared.sum() >= 1000:
            disagreed, all_compared = (
                self.cells.by_band(counts, BANDS) for counts in (self.cells.disagreed, self.cells.compared)
            )
            self.ceilings.append((self.now, tightened(self.ceilings[0][1], disagreed, all_compared)))

    def windows(self) -> dict[str, Window]:
        """Return the windows of now."""
        return measure(self.cells, self.now - 1, self.slo, self.ceilings, self.foreseen)

    def verdict(self) -> Verdict:
        """Return the verdict of now; inputs are compared by their bands alone, in the last hour and the last day."""
        recent = [self.cells.since(self.now - seconds) for seconds in (HOUR, DAY)]
        tests = [
            shares_shift(part.by_band(part.requests, BANDS), TEXTS * USUAL.share, FALSE_ALARMS / len(recent))
            for part in recent
        ]
        newest = self.cells.since(self.now - HOUR)
        found = Findings(
            slo=self.slo,
            windows=self.windows(),
            newest_lost=float(newest.lost.sum()),
            newest_compared=float(newest.compared.sum()),
            log_certify=log_certify(self.cells, self.now - 1, self.slo, self.foreseen),
            left=self.last is Verdict.LEAVE,
            input_drift="The inputs have changed" if any(test.drift for test in tests) else None,
        )
        self.last = judge(found).verdict
        return self.last


def main() -> None:
    """Draw all pictures, and print the numbers of the text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    for draw in (week, windows, evidence, causes, bands):
        draw(folder / f"gap-{draw.__name__}.png")
    for line in numbers():
        print(line)


def week(path: Path) -> None:
    """Ten days of a service: gap, SLO and verdict. The teacher is down for an hour, and foreign texts come."""
    service, seen, days, outage, event = Service(7, rows=400), [], 10, 4, 7
    foreign = USUAL.mixed(FOREIGN, 0.25)
    for hour in range(24 * days):
        service.hour(foreign if hour >= 24 * event else USUAL, down=hour == 24 * outage)
        seen.append(service.verdict())
    series = gap_series(service.cells, START, 6 * HOUR, 4 * days)
    time = (series.time - START + 3 * HOUR) / DAY
    figure, (axes, strip) = _figure((8, 4.2), rows=2, heights=(8, 1))
    axes.fill_between(time, 100 * series.lower, 100 * series.upper, color=BLUE, alpha=0.2, linewidth=0)
    axes.plot(time, 100 * series.gap, color=BLUE, label="measured gap, every 6 hours, with its 95 % interval")
    axes.plot(time, 100 * series.expected, color="black", linestyle=":", label="gap that the confidence expects")
    axes.axhline(100 * service.slo, color=RED, linestyle="--", linewidth=1, label=f"SLO, {100 * service.slo:.1f} %")
    for day, height, text in (
        (outage, 21, "the teacher is down\nfor an hour: blind"),
        (event, 27, "25 % of the texts\nare of another desk"),
    ):
        axes.axvline(day, color=GREY, linewidth=1)
        axes.text(day + 0.08, height, text, va="center")
    axes.set(ylabel="gap, %", ylim=(0, 30), xlim=(0, days), xticklabels=[])
    axes.legend(loc="upper left", frameon=False)
    for hour, verdict in enumerate(seen):
        strip.axvspan(hour / 24, (hour + 1) / 24, color=COLOURS[verdict], linewidth=0)
    changes = [0, *(hour for hour in range(1, len(seen)) if seen[hour] is not seen[hour - 1]), len(seen)]
    for first, last in pairwise(changes):
        if last - first >= 12:
            colour = "black" if seen[first] is Verdict.WATCH else "white"
            strip.text((first + last) / 48, 0.45, seen[first], ha="center", va="center", color=colour, weight="bold")
    strip.set(xlim=(0, days), ylim=(0, 1), yticks=[], xlabel="days since deployment", ylabel="verdict")
    figure.savefig(path)


def windows(path: Path) -> None:
    """The same moment in five windows: one bad hour after nine calm days."""
    service = Service(5)
    for _ in range(24 * 9):
        service.hour(USUAL)
    service.hour(USUAL.mixed(FOREIGN, 0.9))
    found = service.windows()
    figure, (axes,) = _figure((8, 2.8))
    for place, name in enumerate(NAMES):
        window = found[name].estimate
        if window is None:
            continue
        axes.plot([100 * window.lower, 100 * window.upper], [place, place], color=BLUE, linewidth=6, alpha=0.3)
        axes.plot(100 * window.gap, place, "o", color=BLUE)
        axes.text(61, place, f"{100 * window.gap:.1f} % of {window.compared:,.0f} comparisons", va="center")
    axes.axvline(100 * service.slo, color=RED, linestyle="--", linewidth=1)
    axes.text(100 * service.slo + 0.6, -0.7, f"SLO, {100 * service.slo:.1f} %", color=RED, va="center")
    axes.set(yticks=range(len(NAMES)), yticklabels=NAMES, xlabel="gap, %", xlim=(0, 60), ylim=(4.6, -1))
    figure.savefig(path)


def evidence(path: Path) -> None:
    """The odds against "all is as promised" in twenty calm services, and twenty in which something is wrong."""
    figure, (axes,) = _figure((8, 3.8))
    worse = USUAL.mixed(FOREIGN, 0.15)
    cases = {f"a gap of {100 * USUAL.gap:.0f} %, as promised": (USUAL, BLUE)}
    cases[f"a gap of {100 * worse.gap:.0f} %, above the SLO of {100 * Service(0).slo:.1f} %"] = (worse, RED)
    for label, (traffic, colour) in cases.items():
        for seed in range(20):
            service, compared, odds = Service(100 + seed), [0.0], [1.0]
            for _ in range(40):
                service.hour(traffic, 50)
                since = service.windows()["since"]
                compared.append(since.compared)
                odds.append(math.exp(min(since.log_evalue, 30.0)))
            axes.plot(compared, odds, color=colour, alpha=0.5, linewidth=1, label=label if seed == 0 else None)
    for label, limit in ODDS.items():
        axes.axhline(math.exp(limit), color="black", linestyle="--", linewidth=1)
        axes.text(2010, math.exp(limit), label, va="center")
    axes.set(yscale="log", ylim=(1e-2, 1e6), xlim=(0, 2000))
    axes.set(xlabel="comparisons", ylabel="odds against the promise, to 1")
    axes.legend(loc="center right", frameon=False)
    figure.savefig(path)


def causes(path: Path) -> None:
    """The gap and the gap that confidence expects, for each of the three causes; and the teacher's anchors."""
    cases = {
        "input": USUAL.mixed(FOREIGN, 0.3),
        "student": USUAL.mixed(MISTAKEN, 0.09),
        "teacher": Traffic(USUAL.share, 0.92 * USUAL.rate + 0.08),  # another label for 8 % of the texts
    }
    figure, panels = _figure((9, 3.3), columns=3)
    for axes, (cause, traffic) in zip(panels, cases.items(), strict=True):
        service = Service(9)
        for hour in range(24 * 6):
            service.hour(traffic if hour >= 24 * 3 else USUAL)
        series = gap_series(service.cells, START, 4 * HOUR, 36)
        time = (series.time - START + 2 * HOUR) / DAY
        axes.plot(time, 100 * series.gap, color=BLUE, label="measured gap")
        axes.plot(time, 100 * series.expected, color="black", linestyle=":", linewidth=2, label="expected gap")
        changed = np.where((np.arange(6) >= 3) & (cause == "teacher"), 8.0, 0.0)
        axes.step(np.arange(7), [*changed, changed[-1]], where="post", color="#ef6c00", label="anchors that changed")
        axes.axvline(3, color=GREY, linewidth=1)
        axes.set(title=f"cause: {cause}", ylim=(-0.5, 26), xlim=(0, 6), xlabel="days")
    panels[0].set_ylabel("%")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path)


def bands(path: Path) -> None:
    """Where the calls to the teacher go, and how the ceilings come down."""
    figure, (left, right) = _figure((9, 3.4), columns=2)
    calls = USUAL.share * PROPENSITY / float(USUAL.share @ PROPENSITY)
    place = np.arange(BANDS)
    left.bar(place - 0.2, 100 * USUAL.share, 0.4, color=GREY, label="of the requests")
    left.bar(place + 0.2, 100 * calls, 0.4, color=BLUE, label="of the calls to the teacher")
    left.set(ylabel="share, %", title="uncertain answers are compared more often")
    service = Service(11, rows=400)
    while len(service.ceilings) == 1:
        service.hour(USUAL)
    right.step(
        np.append(place - 0.5, BANDS - 0.5),
        100 * np.append(service.ceilings[0][1], service.ceilings[0][1][-1]),
        where="post",
        color=RED,
        linestyle="--",
        label=f"ceiling, of {service.rows} validation rows",
    )
    right.step(
        np.append(place - 0.5, BANDS - 0.5),
        100 * np.append(service.ceilings[1][1], service.ceilings[1][1][-1]),
        where="post",
        color=RED,
        label="ceiling, of 1,000 live comparisons",
    )
    right.plot(place, 100 * USUAL.rate, "o", color=BLUE, label="disagreement")
    right.set(ylabel="%", title="what a band must not exceed")
    edges = ["0", *(f"{100 * edge:g}" for edge in BAND_EDGES)]
    for axes in (left, right):
        axes.set_xticks(place, edges)
        axes.set_xlabel("confidence band: expected disagreement from … %")
        axes.legend(frameon=False)
    figure.savefig(path)


def numbers() -> Iterator[str]:
    """Return the numbers of the text, of 40 services each; a look at the evidence is due every 25 comparisons."""
    for rows in (400, 2000):
        services = [Service(200 + seed, rows) for seed in range(40)]
        yield f"{round(rows * USUAL.gap)} of {rows} validation rows: SLO {services[0].slo:.1%}"
        certified = [_comparisons(one, USUAL, _certified) for one in services]
        late = np.quantile(certified, 0.95)
        yield f"  certified after {np.median(certified):.0f} comparisons, 19 of 20 after {late:.0f}"
        for foreign in (0.15, 0.2, 0.5):
            worse = USUAL.mixed(FOREIGN, foreign)
            paged = [_comparisons(Service(300 + seed, rows), worse, _paged) for seed in range(40)]
            yield f"  a gap of {worse.gap:.1%} pages after {np.median(paged):.0f} comparisons (median)"
    for compared in (100, 250, 1000, 4000):
        widths = []
        for seed in range(40):
            service = Service(400 + seed)
            service.hour(USUAL, compared)
            found = service.windows()["since"].estimate
            widths.append((found.lower, found.upper) if found else (0.0, 1.0))
        lower, upper = np.mean(widths, axis=0)
        yield f"{compared} comparisons: an interval from {lower:.1%} to {upper:.1%} on average"
    random = np.random.default_rng(0)
    for rows in (400, 2000, 10_000):
        fits = []
        for _ in range(40):
            d = random.choice(_USUAL, rows)
            fits.append(fit_reference(1 - d, random.random(rows) < d))
        times = np.mean([fitted.tolerated / fitted.gap for fitted in fits])
        yield f"ceilings of {rows} validation rows tolerate {times:.1f} times the gap on average"


def _certified(service: Service) -> bool:
    return log_certify(service.cells, service.now - 1, service.slo, service.foreseen) >= LOG_CERTAIN


def _paged(service: Service) -> bool:
    return combined(list(service.windows().values())) >= LOG_PAGE


def _comparisons(service: Service, traffic: Traffic, reached: Callable[[Service], bool]) -> float:
    """Serve traffic until `reached`; return the number of comparisons."""
    while service.cells.compared.sum() < 4000:
        service.hour(traffic, 25)
        if reached(service):
            break
    return float(service.cells.compared.sum())


def _figure(
    size: tuple[float, float], rows: int = 1, columns: int = 1, heights: tuple[float, ...] | None = None
) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False, height_ratios=heights, sharey=columns == 3).ravel().tolist()
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


if __name__ == "__main__":
    main()
