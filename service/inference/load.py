"""Loading a bundle so that it can be trusted: hashes, the golden self-test on this very CPU, and warm-up."""

from __future__ import annotations

import ctypes
from collections.abc import Collection
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from export.bundle.classifier import Classifier, Prediction
from export.bundle.format import FP16, TOKENIZER, Bundle, BundleError
from export.bundle.providers import AUTO, Device
from export.bundle.reference import Reference
from export.bundle.verify import check_calibration, check_golden, check_longest, refusing
from service.errors import StartupError
from service.inference.autotune import Asked, Conditions, Plan, choose
from service.process.cpus import available_cpus

MEASURED = Asked()
"""Nothing is fixed: all is measured."""

BATCH_TOLERANCE = 1e-3
"""How far a probability may move when its text shares a run: rounding moves it by far less, shared scales by more."""

HALF_TOLERANCE = 1e-2
"""The same where products have 11 bits, which round to 5e-4 each; nothing there has a scale to share."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A bundle with its classifier, warm and tested, and how to run it here: the plan, and what it depends on."""

    bundle: Bundle
    reference: Reference
    classifier: Classifier
    plan: Plan
    conditions: Conditions


def load(path: Path, asked: Asked = MEASURED, device: Device = AUTO, *, before: Collection[Loaded] = ()) -> Loaded:
    """Open a bundle, check it, test it, measure it and warm it up. Blocks for as long as that takes.

    Of what was loaded `before` it takes the tokenizer where it has the same, and the plan where that depends on the
    same: others may be served meanwhile, who would wait for the one and disturb the measurement of the other.

    Raises StartupError when the bundle was changed, before or meanwhile, cannot be loaded, does not give its golden
    answers here, or none to a text of `max_tokens`, and when the device cannot be had.
    """
    try:
        with refusing(path):
            return _load(path, asked, device, before)
    except BundleError as error:
        raise StartupError(str(error)) from error


def _load(path: Path, asked: Asked, device: Device, before: Collection[Loaded]) -> Loaded:
    bundle = Bundle.open(path)
    reference = Reference.open(bundle)
    check_calibration(bundle)
    tokenizer = next((one.classifier.tokenizer for one in before if _same_tokenizer(one.bundle, bundle)), None)
    classifier = Classifier.load(bundle, threads=asked.threads or 1, device=device, tokenizer=tokenizer)
    batches = _may_share_runs(bundle, classifier, device)
    conditions = Conditions.of(bundle, batches=batches, cpus=available_cpus())
    plan, classifier = _planned(bundle, classifier, asked, device, conditions, before)
    if not classifier.on_gpu:  # a session keeps the memory of its largest run, and the measured ones were larger
        classifier.shrink()
        _give_back_memory()
    check_longest(bundle, classifier)  # which also warms up: no client waits for memory to be allocated
    # What was read after the hashes were checked may be of another bundle, that took this one's place.
    if Bundle.open(path).manifest != bundle.manifest:
        raise BundleError(f"{path}: changed while it was read; load it again")
    return Loaded(bundle, reference, classifier, plan, conditions)


def _may_share_runs(bundle: Bundle, classifier: Classifier, device: Device) -> bool:
    """Whether texts may share a run, of a bundle that has been seen to give its golden answers here."""
    alone = check_golden(bundle, classifier)
    half = bundle.manifest.variant == FP16 or device.kind == "tensorrt"  # which rounds to 11 bits by itself
    change = neighbours_change(classifier, [row.text for row in bundle.golden()], alone)
    return change <= (HALF_TOLERANCE if half else BATCH_TOLERANCE)


def _planned(
    bundle: Bundle,
    classifier: Classifier,
    asked: Asked,
    device: Device,
    conditions: Conditions,
    before: Collection[Loaded],
) -> tuple[Plan, Classifier]:
    """The plan of what was loaded before under the same conditions, else one that is measured, and the graph for it."""

    def on(threads: int) -> Classifier:
        if threads == (asked.threads or 1):
            return classifier
        return Classifier.load(bundle, threads=threads, device=device, tokenizer=classifier.tokenizer)

    known = next((one.plan for one in before if one.conditions.like(conditions)), None)
    if known is not None:
        return replace(known, cost=copy(known.cost)), on(known.threads)
    texts = [row.text for row in bundle.golden()]
    return choose(on, texts, asked, cpus=conditions.cpus, batches=conditions.batches, gpu=classifier.on_gpu)


def neighbours_change(classifier: Classifier, texts: list[str], alone: list[Prediction]) -> float:
    """The largest change of a probability, in [0, 1], when these texts, answered alone so far, share one run."""
    together = classifier.run([classifier.encode(text) for text in texts])
    return max(
        float(np.abs(one.probabilities - other.probabilities).max()) for one, other in zip(together, alone, strict=True)
    )


def _same_tokenizer(one: Bundle, other: Bundle) -> bool:
    return one.manifest.max_tokens == other.manifest.max_tokens and (
        one.manifest.files[TOKENIZER] == other.manifest.files[TOKENIZER]
    )


def _give_back_memory() -> None:
    """Return freed memory to the system, where the C library can."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
