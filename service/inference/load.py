"""Load a bundle and check that it can be trusted: hashes, the golden self-test on this machine, and warm-up.

The stages of a cascade are loaded like bundles of their own.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from export.bundle.anchors import read_anchors
from export.bundle.cascade import Answering, Cascade, known_tokenizer
from export.bundle.classifier import Classifier, Prediction
from export.bundle.decision import Decision
from export.bundle.format import FP16, Bundle, BundleError
from export.bundle.providers import AUTO, Device
from export.bundle.reference import Reference
from export.bundle.verify import (
    bundle_errors,
    check_calibration,
    check_decision,
    check_drift,
    check_golden,
    check_longest,
)
from service.errors import StartupError
from service.inference.autotune import Conditions, Overrides, Tuning, choose
from service.process.cpus import available_cpus
from service.process.heap import small_heap
from service.shadow.witness import LoadedWitness

MEASURED = Overrides()
"""Fix nothing: measure everything."""

BATCH_TOLERANCE = 1e-3
"""Largest change of a probability when its text shares a run.

Rounding changes it by far less; quantisation scales that are shared by a batch change it by more.
"""

FLOAT16_TOLERANCE = 1e-2
"""The same for float16, whose 11 bits round by 5e-4 each; such a graph has no scales."""


@dataclass(frozen=True, slots=True)
class LoadedStage:
    """A stage of a bundle, the only one unless that is a cascade: its own bundle with its classifier, warm and tested.

    `tuning` is for this machine, under `conditions`.
    """

    bundle: Bundle
    classifier: Classifier
    tuning: Tuning
    conditions: Conditions


@dataclass(frozen=True, slots=True)
class Loaded:
    """A bundle, warm and tested, with its `stages`.

    `decision` is the rule of the application, if the bundle has one, `witness` its witness, if shadowing has one.
    """

    bundle: Bundle
    reference: Reference
    decision: Decision | None
    stages: tuple[LoadedStage, ...]
    witness: LoadedWitness | None = None


def load(
    path: Path, overrides: Overrides = MEASURED, device: Device = AUTO, *, before: Collection[Loaded] = ()
) -> Loaded:
    """Open the bundle at `path`, check it, test it, tune it and warm it up. Blocks for as long as that takes.

    The tokenizer and the tuning are taken from the bundles in `before` where they fit: those may be serving requests,
    which loading a tokenizer would delay and which would disturb a measurement.

    Raises StartupError when the bundle was changed, before or during loading, cannot be loaded, does not reproduce its
    golden answers here or fails on a text of `max_tokens`, and when the device is not available.
    """
    try:
        with bundle_errors(path), small_heap():
            return _load(path, overrides, device, before)
    except BundleError as error:
        raise StartupError(str(error)) from error


def _load(path: Path, overrides: Overrides, device: Device, before: Collection[Loaded]) -> Loaded:
    bundle = Bundle.open(path)
    reference = Reference.open(bundle)
    check_calibration(bundle)
    read_anchors(bundle)
    known = [stage for loaded in before for stage in loaded.stages]
    stages: list[LoadedStage] = []
    # The last first, since it costs most: the others share its threads.
    for own in reversed([*map(bundle.stage, bundle.manifest.stages)] or [bundle]):
        shared = replace(overrides, threads=stages[0].tuning.threads) if stages else overrides
        stages.insert(0, _load_stage(own, shared, device, [*known, *stages]))
    answering: Answering = stages[0].classifier
    if bundle.manifest.stages:
        answering = Cascade.of(bundle.manifest, [stage.classifier for stage in stages])
        check_golden(bundle, answering)
    check_drift(bundle, reference, answering)
    decision = check_decision(bundle, answering)
    # Files that were read after the hashes were checked may belong to a bundle that replaced this one.
    if Bundle.open(path).manifest != bundle.manifest:
        raise BundleError(f"{path}: changed while it was read; load it again")
    return Loaded(bundle, reference, decision, tuple(stages))


def _load_stage(bundle: Bundle, overrides: Overrides, device: Device, before: Sequence[LoadedStage]) -> LoadedStage:
    tokenizer = known_tokenizer(bundle, [(one.bundle, one.classifier) for one in before])
    classifier = Classifier.load(bundle, threads=overrides.threads or 1, device=device, tokenizer=tokenizer)
    batches = _may_share_runs(bundle, classifier, device)
    conditions = Conditions.of(bundle, batches=batches, cpus=available_cpus())
    tuning, classifier = _tuned(bundle, classifier, overrides, device, conditions, before)
    if not classifier.on_gpu:  # a session keeps the memory of its largest run, and the measurement ran large ones
        classifier.shrink()
    check_longest(bundle, classifier)  # also warms up: no request waits for memory to be allocated
    return LoadedStage(bundle, classifier, tuning, conditions)


def _may_share_runs(bundle: Bundle, classifier: Classifier, device: Device) -> bool:
    """Check the golden answers, and return whether texts may share a run."""
    alone = check_golden(bundle, classifier)
    float16 = bundle.manifest.kind == FP16 or device.kind == "tensorrt"  # TensorRT may compute in float16 by itself
    change = neighbours_change(classifier, [row.text for row in bundle.golden()], alone)
    return change <= (FLOAT16_TOLERANCE if float16 else BATCH_TOLERANCE)


def _tuned(
    bundle: Bundle,
    classifier: Classifier,
    overrides: Overrides,
    device: Device,
    conditions: Conditions,
    before: Sequence[LoadedStage],
) -> tuple[Tuning, Classifier]:
    """Return the tuning of a stage in `before` with the same conditions, else measure one; and the graph for it."""

    def on(threads: int) -> Classifier:
        if threads == (overrides.threads or 1):
            return classifier
        return Classifier.load(bundle, threads=threads, device=device, tokenizer=classifier.tokenizer)

    known = next((one.tuning for one in before if one.conditions.like(conditions)), None)
    if known is not None:
        return replace(known, cost=copy(known.cost)), on(known.threads)
    texts = [row.text for row in bundle.golden()]
    return choose(on, texts, overrides, cpus=conditions.cpus, batches=conditions.batches, gpu=classifier.on_gpu)


def neighbours_change(classifier: Classifier, texts: list[str], alone: list[Prediction]) -> float:
    """Return the largest change of a probability, in [0, 1], when `texts` share one run.

    `alone` are their predictions from runs of their own.
    """
    together = classifier.run([classifier.encode(text) for text in texts])
    return max(
        float(np.abs(one.probabilities - other.probabilities).max()) for one, other in zip(together, alone, strict=True)
    )
