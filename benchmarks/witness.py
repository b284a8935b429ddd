"""Measure what a witness saves: calls to the teacher for an interval of the same width, with and without it.

The run of a task is needed, with its students' bundles and, for `--tickets`, the teacher's (`reflux demo` makes one).
Every text of the test split, or of so many new tickets of the built-in support desk, is answered by the student, the
witness and the teacher. These answers are the truth, from which traffic is drawn again and again, sampled for the
teacher as the service samples it, and the gap estimated.

    python benchmarks/witness.py TASK RUN STUDENT WITNESS [--tickets 6000] [--rate 0.05] [--rounds 400]
"""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from distill.data.support_desk.tickets import generate
from distill.run import Run
from distill.task import load_task
from export.bundle.classifier import Classifier
from export.bundle.format import Bundle
from export.bundle.reference import Reference
from export.bundle.teacher import BundleTeacher
from export.bundle.witness import WitnessReference, joint_confidences
from export.run import TEACHER, ExportRun
from service.monitor.bands import propensities
from service.monitor.cells import Cells
from service.monitor.gap import estimate

Floats = npt.NDArray[np.float64]

TICKET_SEED = 905
TRAFFIC = 20_000
"""Texts in each simulated window."""


@dataclass(frozen=True, slots=True)
class Design:
    """How texts are sampled: the band of each text [N], its true disagreement [N], and each band's propensity [B]."""

    band: npt.NDArray[np.intp]
    wrong: Floats
    propensity: Floats

    @property
    def calls(self) -> float:
        """The share of all texts that the teacher sees."""
        return float(self.propensity[self.band].mean())

    @property
    def variance(self) -> float:
        """The variance of the estimate times the number of calls, relative to a uniform sample's."""
        bands = len(self.propensity)
        rows = np.bincount(self.band, minlength=bands)
        share = rows / rows.sum()
        rate = np.bincount(self.band, weights=self.wrong, minlength=bands) / np.maximum(rows, 1)
        gap = self.wrong.mean()
        return float((share * rate * (1 - rate) / self.propensity).sum() * self.calls / (gap * (1 - gap)))


def design(reference: Reference, confidence: Floats, wrong: Floats, rate: float) -> Design:
    """Place texts in bands by their confidence [N], as the service does."""
    expected = [reference.expected_disagreement(value) for value in confidence.tolist()]
    band = np.array([reference.band(value) for value in expected])
    return Design(band, wrong, propensities(rate, reference.share, reference.spread))


@dataclass(frozen=True, slots=True)
class Measured:
    """Means over windows: the root mean square error, the width of the interval, its coverage, and the calls."""

    error: float
    width: float
    covered: float
    calls: float


def simulate(chosen: Design, rounds: int, random: np.random.Generator) -> Measured:
    """Estimate the gap in `rounds` windows of traffic."""
    bands, found = len(chosen.propensity), []
    for _ in range(rounds):
        rows = random.integers(len(chosen.band), size=TRAFFIC)
        band, wrong = chosen.band[rows], chosen.wrong[rows]
        asked = random.random(TRAFFIC) < chosen.propensity[band]
        compared = np.bincount(band[asked], minlength=bands)
        disagreed = np.bincount(band[asked], weights=wrong[asked], minlength=bands)
        cells = Cells.of(
            band=np.arange(bands),
            propensity=chosen.propensity,
            requests=np.bincount(band, minlength=bands),
            sampled=compared,
            agreed=compared - disagreed,
            disagreed=disagreed,
        )
        result, truth = estimate(cells), wrong.mean()
        assert result is not None
        inside = result.lower <= truth <= result.upper
        found.append(((result.gap - truth) ** 2, (result.upper - result.lower) ** 2, inside, asked.sum()))
    error, width, covered, calls = np.mean(found, axis=0).tolist()
    return Measured(error**0.5, width**0.5, covered, calls)


async def ask(teacher: BundleTeacher, texts: list[str]) -> npt.NDArray[np.intp]:
    """Return the teacher's label of each text, as an index."""
    answers = await teacher.ask(texts)
    return np.array([np.argmax(answer.probabilities) for answer in answers])


def main() -> None:
    """Print the variance per call and the calls needed, with and without the witness."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("student")
    parser.add_argument("witness")
    parser.add_argument("--tickets", type=int, default=0)
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--rounds", type=int, default=400)
    given = parser.parse_args()
    exported = ExportRun(Run(load_task(given.task), given.run))
    student = exported.bundles()[given.student]
    witness = exported.make_witness(given.student, given.witness).bundle
    if given.tickets:
        texts = [ticket.text for ticket in generate(given.tickets, TICKET_SEED)]
        bundle = Bundle.open(exported.bundle_stage(TEACHER).path)
        said = asyncio.run(ask(BundleTeacher(bundle, student.manifest.labels), texts))
    else:
        split, soft = exported.run.splits().test, exported.run.soft_labels()
        known = set(soft.ids)
        rows = [row for row, name in enumerate(split.ids) if name in known]
        texts = [split.texts[row] for row in rows]
        said = soft.hard[soft.rows_of([split.ids[row] for row in rows])]
    own, beside = (Classifier.load(bundle).probabilities(texts) for bundle in (student, witness))
    wrong = (own.argmax(axis=1) != said).astype(np.float64)
    designs = {
        f"{given.student} alone": design(Reference.open(student), own.max(axis=1).astype(float), wrong, given.rate),
        f"with {given.witness} as witness": design(
            WitnessReference.open(witness).reference, joint_confidences(own, beside), wrong, given.rate
        ),
    }
    print(f"{len(texts)} texts, gap {wrong.mean():.2%}, rate {given.rate:.0%}, {given.rounds} windows of {TRAFFIC}")
    random, results = np.random.default_rng(0), []
    for name, chosen in designs.items():
        measured = simulate(chosen, given.rounds, random)
        results.append(measured)
        needed = measured.calls * (measured.width / 0.02) ** 2
        print(
            f"{name}: variance per call {chosen.variance:.3f} of a uniform sample's; {measured.calls:.0f} calls give "
            f"an interval of {measured.width:.2%}, which covers in {measured.covered:.1%}, and an error of "
            f"{measured.error:.2%}; about {needed:.0f} calls give a gap +- 1 point"
        )
    alone, both = results
    before, after = designs.values()
    print(
        "calls needed with the witness, of those without: "
        f"{both.calls * both.width**2 / (alone.calls * alone.width**2):.2f} for the same width, "
        f"{both.calls * both.error**2 / (alone.calls * alone.error**2):.2f} for the same error, "
        f"{after.variance / before.variance:.2f} exactly"
    )


if __name__ == "__main__":
    main()
