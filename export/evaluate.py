"""Evaluate a student's bundle on the test split, through the graph that is served: its entry in `gap.json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from distill.data.splits import Test, gold_classes
from distill.evaluation.costs import costs
from distill.evaluation.decision import compare_decisions
from distill.evaluation.disagreements import most_surprising
from distill.evaluation.gap import compare
from distill.evaluation.reliability import before_after
from distill.labelling.soft_labels import SoftLabels
from distill.progress import track
from distill.students.student import probabilities
from export.bundle.cascade import is_deferred, load_classifier
from export.bundle.classifier import Prediction
from export.bundle.decision import Decision
from export.bundle.format import Bundle, Manifest

Floats = npt.NDArray[np.float32]
Classes = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Judge:
    """What students are held to: N texts of the test split, the teacher's probabilities [N, K], and gold labels.

    `gold` [N] is None unless every text has a gold label. `raw` [N, K] is the teacher before its calibration; None if
    it has none.
    """

    texts: tuple[str, ...]
    gold_labels: tuple[str | None, ...]
    labels: tuple[str, ...]
    teacher: Floats
    raw: Floats | None
    gold: Classes | None

    @classmethod
    def of(cls, test: Test, soft: SoftLabels) -> Judge:
        """Take the rows of the test split, all of which the teacher labelled."""
        rows = soft.rows_of(test.ids)
        return cls(
            test.texts,
            test.gold,
            soft.labels,
            soft.probabilities[rows],
            None if soft.raw is None else soft.raw[rows],
            gold_classes(test, soft.labels) if test.has_gold else None,
        )


@dataclass(frozen=True, slots=True)
class Prices:
    """What a core costs an hour, and what the teacher costs: `usd_per_1000` texts, and all the labels once."""

    usd_per_hour: float
    usd_per_1000: float | None
    labels_usd: float
    by_the_text: bool


def answers(bundle: Bundle, texts: Sequence[str]) -> list[Prediction]:
    """Answer texts as the service does, one in a run."""
    classifier = load_classifier(bundle)
    name = f"scoring {bundle.manifest.name}"
    return [classifier.classify(text) for text in track(texts, name, len(texts))]


def entry(bundle: Bundle, answered: Sequence[Prediction], judge: Judge, prices: Prices) -> dict[str, Any]:
    """Return what `gap.json` says about a student that answered the texts of `judge`.

    What a cascade defers to the teacher has the teacher's answer, as it has in service.
    """
    manifest = bundle.manifest
    given = np.stack([answer.probabilities for answer in answered])
    uncalibrated = probabilities(np.stack([answer.logits for answer in answered]), 1.0)
    deferred = np.array([is_deferred(answer, manifest) for answer in answered])
    given[deferred] = judge.teacher[deferred]
    uncalibrated[deferred] = (judge.teacher if judge.raw is None else judge.raw)[deferred]
    milliseconds = manifest.measured["milliseconds"]
    found = costs(
        milliseconds=milliseconds,
        usd_per_hour=prices.usd_per_hour,
        teacher_usd_per_1000=prices.usd_per_1000,
        labels_usd=prices.labels_usd,
        by_the_text=prices.by_the_text,
        deferred=float(deferred.mean()),
    )
    surprising = most_surprising(judge.teacher, given, judge.labels, judge.texts, judge.gold_labels)
    return {
        "gap": compare(judge.teacher, given, judge.labels, judge.gold).as_dict(),
        "calibration": {
            "temperature": None if manifest.stages else manifest.temperature,
            "agreement": asdict(before_after(uncalibrated, given, judge.teacher.argmax(1))),
            "gold": None if judge.gold is None else asdict(before_after(uncalibrated, given, judge.gold)),
        },
        "decision": _decision_gap(bundle, answered, given, judge),
        "disagreements": [asdict(one) for one in surprising],
        "costs": asdict(found),
        "bundle": manifest.version,
        "family": manifest.family,
        "variant": manifest.variant,
        "measured": manifest.measured,
        "gates": manifest.gates,
        "usd_per_1000": found.student_usd_per_1000,
        "shares": _shares(manifest, answered, deferred),
    }


def teacher_reliability(judge: Judge) -> dict[str, Any] | None:
    """Compare the teacher's confidence with gold labels, before and after its calibration; None without gold labels."""
    if judge.gold is None:
        return None
    raw = judge.teacher if judge.raw is None else judge.raw
    return asdict(before_after(raw, judge.teacher, judge.gold))


def _shares(
    manifest: Manifest, answered: Sequence[Prediction], deferred: npt.NDArray[np.bool_]
) -> dict[str, float] | None:
    """Return the share of the answers that each stage gave, by its name; None for a bundle that is no cascade."""
    names = manifest.answering
    if not names:
        return None
    places = np.where(deferred, len(names) - 1, [answer.stage for answer in answered])
    counts = np.bincount(places, minlength=len(names))
    return {name: float(count) / len(answered) for name, count in zip(names, counts, strict=True)}


def _decision_gap(bundle: Bundle, answered: Sequence[Prediction], given: Floats, judge: Judge) -> dict[str, Any] | None:
    """Compare the decisions that follow from a student's answers and the teacher's; None for a task without any.

    Whether a text is novel is a property of the text, so it is left to a human whoever would answer it.
    """
    decision = Decision.open(bundle)
    if decision is None:
        return None
    novel = decision.novel(np.stack([answer.embedding for answer in answered]))
    student = decision.choose(given, novel)
    return compare_decisions(
        decision.choose(judge.teacher, novel),
        student,
        decision.likely(judge.teacher).argmax(axis=1),
        None if judge.gold is None else decision.action_of[judge.gold],
        decision.abstain,
    ).as_dict()
