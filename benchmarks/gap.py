"""Check the live gap and its alarms against known truth, at full size; exit with status 1 if a bound does not hold.

    python benchmarks/gap.py [--run RUN --tickets FILE [--texts 6000] [--foreign 2000]]

The first part simulates traffic (`tests/support/gap_worlds.py`, `gap_pairs.py`, `gap_streams.py`); `make test` does the
same at a small size. With RUN, the folder of `reflux demo --folder RUN`, and FILE, the CSV of the IT tickets, the
second part uses real texts: new tickets of the desk and foreign ones are shown to each student and to its teacher, and
traffic is drawn from these pairs. A page is what makes the verdict `leave`: evidence of 10,000 to 1 over all windows,
of the whole gap and of the ceilings.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize, minimize_scalar

sys.path.insert(0, str(Path(__file__).parents[1]))  # where `tests` are

from benchmarks.teacher_drift import found_within_a_day, quiet
from distill.data.support_desk import tickets
from distill.progress import track
from export.bundle.classifier import Classifier
from export.bundle.format import Bundle
from export.bundle.reference import Reference
from service.monitor.bands import propensities
from service.monitor.cells import Floats
from service.monitor.evalues import LOG_PAGE, LOG_TICKET
from service.monitor.gap import estimate
from service.monitor.verdict import LOG_CERTAIN
from service.shadow.assessment import foreseen
from tests.support.changing_teacher import NOISES
from tests.support.gap_pairs import DAYS, measured
from tests.support.gap_streams import Stream, boundary, delays, log_curve, paged, past
from tests.support.gap_worlds import BANDS, CHANGING, World, sampled_at, worlds

FRESH_SEED = 905
RATE = 0.1  # of the demonstration
STUDENTS = ("encoder", "static")
CERTIFIED = 0.08 / 0.0583  # a limit, in units of the true gap
RUNS = 200  # of page delays
CLOSE = 0.025  # the distance of a gap to the SLO for which the bounds on page delays are stated


@dataclass(frozen=True)
class Check:
    """One measured number and whether it is within its bounds."""

    name: str
    measured: float
    bound: str
    holds: bool

    def __str__(self) -> str:
        """Return a row of the table."""
        return f"| {self.name} | {self.measured:.4g} | {self.bound} | {'yes' if self.holds else '**no**'} |"


def at_most(name: str, measured: float, bound: float) -> Check:
    """Check an upper bound."""
    return Check(name, measured, f"≤ {bound:g}", measured <= bound)


def at_least(name: str, measured: float, bound: float) -> Check:
    """Check a lower bound."""
    return Check(name, measured, f"≥ {bound:g}", measured >= bound)


def main() -> int:
    """Print a table of all checks; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--tickets", type=Path)
    parser.add_argument("--texts", type=int, default=6000)
    parser.add_argument("--foreign", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=3000, help="simulated windows per case")
    given = parser.parse_args()
    parts: list[Callable[[], Iterator[Check]]] = [lambda: estimator(given.runs), allocation, evidence, teacher]
    if given.run and given.tickets:
        for student in STUDENTS:
            parts.append(lambda student=student: real(given.run, student, given))  # type: ignore[misc]
    print("| check | measured | bound | holds |\n|---|---|---|---|")
    failed = 0
    for part in parts:
        for check in part():
            print(check, flush=True)
            failed += not check.holds
    return int(failed > 0)


def estimator(runs: int) -> Iterator[Check]:
    """Check intervals, errors and changing rates."""
    for name, world in worlds().items():
        for comparisons in (50, 200, 1000):
            found = [
                (estimate(cells), truth) for cells, truth in world.windows(runs, seed=1, sampling=comparisons / 50_000)
            ]
            results = [(result, truth) for result, truth in found if result is not None]
            covered = float(np.mean([result.lower <= truth <= result.upper for result, truth in results]))
            what = f"{name}, n = {comparisons}"
            yield Check(f"coverage, {what}", covered, "0.93 to 0.98", 0.93 <= covered <= 0.98)
            above = float(np.mean([truth > result.upper for result, truth in results]))
            yield at_most(f"truth above the interval, {what}", above, 0.04)
        errors = [result.gap - truth for result, truth in results]
        uniform = float(np.sqrt(world.gap * (1 - world.gap) / 1000))
        bound = 1.05 if name == "silent drift" else 0.65
        yield at_most(
            f"RMSE against a uniform sample, {name}", float(np.sqrt(np.mean(np.square(errors)))) / uniform, bound
        )
    for name, periods in CHANGING.items():
        days = worlds()["calibrated"].days(periods, runs // 2, seed=2)
        found = [(estimate(cells), truth) for cells, truth in days]
        results = [(result, truth) for result, truth in found if result is not None]
        bias = float(np.mean([result.gap - truth for result, truth in results]))
        yield at_most(f"|bias| in points, {name}", 100 * abs(bias), 0.2)
        yield at_least(
            f"coverage, {name}",
            float(np.mean([result.lower <= truth <= result.upper for result, truth in results])),
            0.93,
        )


def allocation() -> Iterator[Check]:
    """Check the sampling by band where 4 % new requests are mostly wrong and as confident as the surest ones.

    Errors are those of a uniform sample times the given numbers, for many comparisons. That of an allocation is convex
    in the logarithms of its propensities, so that the least possible can be found.
    """
    calm, now = worlds()["calibrated"], sampled_at(0.02)
    drifted = []
    for bands in range(1, 6):  # that the new requests are in, in proportion to the old ones
        new = np.where(np.arange(BANDS) < bands, calm.share, 0.0)
        share = 0.96 * calm.share + 0.04 * new / new.sum()
        wrong = 0.96 * calm.share * calm.rate + 0.04 * 0.9 * new / new.sum()
        drifted.append(World(share, wrong / share, calm.expected))

    def error(world: World, propensity: Floats) -> float:
        variance = (world.share * world.rate * (1 - world.rate) / propensity).sum() * (world.share @ propensity)
        return float(np.sqrt(variance / (world.gap * (1 - world.gap))))

    def worst(propensity: Floats) -> float:
        return max(error(world, propensity) for world in drifted)

    yield at_most("error against a uniform sample, calibrated", error(calm, now), 0.65)
    yield at_most("the same, 4 % new requests confidently wrong, worst of five kinds", worst(now), 1.05)
    for name, calibrated in (("as when calibrated now", error(calm, now)), ("0.66 when calibrated", 0.66)):
        found = minimize(
            lambda x: x[-1],
            np.append(np.log(now), 1.2),
            constraints=[
                {"type": "ineq", "fun": lambda x, most=calibrated: np.log(most / error(calm, np.exp(x[:-1])))},
                {"type": "ineq", "fun": lambda x: [x[-1] - error(world, np.exp(x[:-1])) for world in drifted]},
                {"type": "eq", "fun": lambda x: np.log(calm.share @ np.exp(x[:-1]) / 0.02)},
            ],
            method="SLSQP",
        )
        yield Check(f"the least of any allocation with an error of {name}", worst(np.exp(found.x[:-1])), "–", True)
    sure = World(calm.share, np.where(np.arange(BANDS) == 0, calm.gap / calm.share[0], 0.0), calm.expected)
    yield Check("the same gap as when calibrated, all of it in the surest band", error(sure, now), "–", True)


def places(runs: int) -> Iterator[Check]:
    """Check the gap by direction and by predicted class."""
    for day, periods in DAYS.items():
        found = measured(periods, runs)
        covered = [float(covers.mean()) for _, covers in found.values()]
        yield at_least(f"directions and classes, {day}: least coverage of 95 % intervals", min(covered), 0.93)
        bias = max(abs(float(errors.mean())) / float(errors.std()) for errors, _ in found.values())
        yield at_most(f"directions and classes, {day}: largest bias, in standard deviations", bias, 0.15)


def evidence() -> Iterator[Check]:
    """Check false alarms, silent drift and certificates."""
    limit = 0.105
    edge = boundary(limit)
    yield from calm_edge("simulated", edge, limit, np.maximum(edge.rate, 1e-3))
    calm, drift = worlds()["calibrated"], worlds()["silent drift"]
    null = calm.rate + np.maximum(0.005, 0.25 * calm.rate)
    for per_hour in (50, 250, 1200):
        phases = [(Stream(calm.share, calm.rate), 20_000), (Stream(drift.share, drift.rate), 3000)]
        history = past(phases, runs=40, per_slot=per_hour / 12, seed=3)
        begun = int(np.ceil(20_000 / (per_hour / 12)))
        curve = history.log_evalue(limit, null)
        yield at_most(
            f"largest log e-value in 20,000 calm comparisons, {per_hour} an hour", curve[:, :begun].max(), LOG_TICKET
        )
        delay = float(np.median(paged(history, curve, LOG_PAGE, after=begun)))
        yield at_most(f"page after a silent drift, median comparisons, {per_hour} an hour", delay, 1000)


def teacher() -> Iterator[Check]:
    """Check that a teacher that changes three classes of 77 is found in a day, and a steady one is not suspected."""
    for name, (kind, noise) in NOISES.items():
        found = min(found_within_a_day(kind, noise, 3, day, runs=50) for day in (1, 20))
        yield at_least(f"teacher: share of changes found within a day, noise {name}", found, 0.95)
        alarms, _, _ = quiet(kind, noise, runs=100)
        yield at_most(f"teacher: of 100 steady ones suspected in 30 days, noise {name}", alarms, 0)


def calm_edge(name: str, edge: Stream, limit: float, null: Floats) -> Iterator[Check]:
    """Check that 40 streams of 200,000 comparisons with a gap of exactly `limit` raise nothing, and certify nothing."""
    history = past([(edge, 200_000)], runs=40, per_slot=50, seed=4)
    ever = (history.log_evalue(limit, null) >= LOG_TICKET).any(axis=1)
    yield at_most(f"streams of 40 on the boundary that ever reach 1,000, {name}", float(ever.sum()), 0)
    curve, _ = log_curve(edge, limit, runs=400, steps=400, seed=5, per_step=50, keeps=True)
    false = float((curve >= LOG_CERTAIN).any(axis=1).mean())
    yield at_most(f"share of streams on the boundary that are ever certified, {name}", false, 0.05 + 2 * 0.011)


@dataclass(frozen=True)
class Pairs:
    """Answers to texts: the band of each [N], and whether the teacher chose another label [N]."""

    band: npt.NDArray[np.intp]
    wrong: npt.NDArray[np.bool_]

    def counts(self, bands: int) -> tuple[Floats, Floats]:
        """Return texts and disagreements per band."""
        return (
            np.bincount(self.band, minlength=bands).astype(np.float64),
            np.bincount(self.band, self.wrong, minlength=bands).astype(np.float64),
        )


def real(run: Path, student: str, given: argparse.Namespace) -> Iterator[Check]:
    """Check page delays, certificates and refusals on the pairs of one student."""
    bundle = Bundle.open(run / "bundles" / student)
    reference = Reference.open(bundle)
    usual = [ticket.text for ticket in tickets.generate(given.texts, FRESH_SEED)]
    teacher = Classifier.load(Bundle.open(run / "bundles" / "teacher"))
    own = Classifier.load(bundle)
    desk = answered(own, teacher, reference, usual, f"{student}: desk")
    it = answered(own, teacher, reference, read_foreign(given.tickets, given.foreign), f"{student}: IT tickets")
    pi = propensities(RATE, reference.share, reference.spread)
    calm = mixed(desk, it, 0.0, pi, reference)
    print(
        f"{student}: true gap {calm.gap:.2%} of {len(desk.band)} tickets, {it.wrong.mean():.2%} of IT tickets; SLO "
        f"{reference.slo:.2%}, ceilings tolerate {reference.tolerated:.2%}",
        file=sys.stderr,
    )
    judged = student == STUDENTS[0]
    for share, stated in ((0.2, 2000), (0.5, 150), (1.0, 60)):
        stream = mixed(desk, it, share, pi, reference)
        # The evidence grows with the square of the distance to the SLO, which depends on few validation rows.
        bound = round(stated * max(1.0, (CLOSE / max(stream.gap - reference.slo, 1e-3)) ** 2))
        history = past([(stream, 6 * bound)], runs=RUNS, per_slot=5, seed=6)
        delay = float(np.median(paged(history, history.log_evalue(reference.slo, reference.null), LOG_PAGE)))
        name = f"page with {share:.0%} IT tickets (gap {stream.gap:.1%}), median comparisons of {RUNS} runs, {student}"
        yield at_most(name, delay, stated) if judged else Check(name, delay, "–", True)
        if_disagreed, if_agreed, otherwise = best_bet(stream, reference.slo)
        unsampled = history.requests - history.sampled
        curve = history.disagreed @ if_disagreed + (history.sampled - history.disagreed) @ if_agreed
        fewest = float(np.median(paged(history, curve + unsampled @ otherwise, LOG_PAGE)))
        yield Check("the same for a bet that knows this traffic, the fewest possible", fewest, "–", True)
        if judged and bound > stated:
            yield at_most(
                f"the same, its bound scaled to the distance from the SLO of {reference.slo:.1%}", delay, bound
            )
        curve, _ = log_curve(stream, reference.slo, runs=200, steps=250, seed=7, per_step=20, keeps=True, refusal=0.3)
        certified = float((curve >= LOG_CERTAIN).any(axis=1).sum())
        if stream.gap > reference.slo:
            yield at_most(
                f"of 200 streams certified, {share:.0%} IT tickets, 30 % of disagreements refused, {student}",
                certified,
                0,
            )
    limit = CERTIFIED * calm.gap
    delay = float(np.median(delays(calm, limit, LOG_CERTAIN, runs=200, seed=8, keeps=True)))
    name = f"certified below {limit:.1%} (true {calm.gap:.1%}) at 20:1, median comparisons, {student}"
    yield at_most(name, delay, 700) if judged else Check(name, delay, "–", True)
    factor = reference.slo / calm.gap
    edge = replace(calm, rate=raised(calm, factor, reference.slo))
    yield from calm_edge(student, edge, reference.slo, np.maximum(edge.rate, reference.null))


def best_bet(stream: Stream, limit: float) -> tuple[Floats, Floats, Floats]:
    """Return what a disagreement, an agreement and an unsampled request add to the fastest log e-value, each [B].

    It is the fastest one against "the gap is at most `limit`" for requests of exactly this stream. Every e-value for
    one request is at most 1 + λ (Z − limit) for some λ and some d per band (see `service.monitor.gap_evalues`), and its
    growth is concave in λ and λd: λ is searched for, and for each the best λd of every band.
    """
    pi, rate = stream.propensity, stream.rate

    def factors(bet: float) -> tuple[Floats, Floats, Floats]:
        # c = λd, between the values at which an unsampled request and an agreement would lose all.
        base = 1.0 - bet * limit
        low, high = np.full(pi.size, max(-base, 0.0)), np.minimum(0.9999 * base / (1.0 / pi - 1.0), bet)
        for _ in range(60):
            c = (low + high) / 2
            other, agreed = base + c, base + c - c / pi
            disagreed = agreed + bet / pi
            slope = (1 - pi) / other - (1 - pi) * (rate / disagreed + (1 - rate) / agreed)
            low, high = np.where(slope > 0, c, low), np.where(slope > 0, high, c)
        return np.log(base + low - low / pi + bet / pi), np.log(base + low - low / pi), np.log(base + low)

    def growth(bet: float) -> float:
        if_disagreed, if_agreed, otherwise = factors(bet)
        sampled = rate * if_disagreed + (1 - rate) * if_agreed
        return float(stream.share @ (pi * sampled + (1 - pi) * otherwise))

    found = minimize_scalar(lambda bet: -growth(bet), bounds=(1e-4, 0.999 / limit), method="bounded")
    return factors(float(found.x))


def raised(stream: Stream, factor: float, gap: float) -> Floats:
    """Return the rates of a stream, multiplied until its gap is `gap`; none becomes larger than 1."""
    low, high = factor, 100.0 * factor
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if stream.share @ np.minimum(middle * stream.rate, 1.0) < gap else (low, middle)
    return np.minimum(low * stream.rate, 1.0)


def mixed(desk: Pairs, it: Pairs, share: float, pi: Floats, reference: Reference) -> Stream:
    """Return traffic of which `share` is foreign, as rates per band."""
    (n0, k0), (n1, k1) = desk.counts(pi.size), it.counts(pi.size)
    texts = (1 - share) * n0 / n0.sum() + share * n1 / n1.sum()
    wrong = (1 - share) * k0 / n0.sum() + share * k1 / n1.sum()
    return Stream(texts, wrong / np.maximum(texts, 1e-12), pi, foreseen(reference))


def answered(student: Classifier, teacher: Classifier, reference: Reference, texts: Sequence[str], what: str) -> Pairs:
    """Show the texts to both, which have the same labels in the same order."""
    band, wrong = [], []
    for text in track(texts, what, len(texts)):
        answer = student.classify(text)
        band.append(reference.band(reference.expected_disagreement(answer.score)))
        wrong.append(answer.probabilities.argmax() != teacher.classify(text).probabilities.argmax())
    return Pairs(np.array(band), np.array(wrong))


def read_foreign(path: Path, count: int) -> list[str]:
    """Return `count` tickets, drawn at random from a CSV file that may be compressed."""
    opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")
    with opened as file:
        texts = [row["Document"] for row in csv.DictReader(file)]
    chosen = np.random.default_rng(1).choice(len(texts), size=count, replace=False)
    return [texts[at] for at in chosen]


if __name__ == "__main__":
    sys.exit(main())
