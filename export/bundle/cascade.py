"""A cascade: several students in one bundle, the cheapest first, each for the texts that it is sure enough about.

A text is answered by the first stage whose score reaches the stage's cut-off; the others pass it on, and the last
answers whatever reaches it. The class has the same face as `Classifier`, for all that answers texts offline; serving
batches each stage apart and does not use it. The teacher is no part of it: where a cascade defers texts to the teacher,
the last stage answers them here, as it does in service when the teacher cannot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self, TypeAlias

from export.bundle.classifier import Classifier, Floats, GraphTokenizer, Prediction, stacked
from export.bundle.format import MANIFEST, TOKENIZER, Bundle, BundleError, Manifest, write_bundle
from export.bundle.manifest_rules import CASCADE
from export.bundle.providers import AUTO, Device
from export.bundle.stages import Stage, stage_folder


class Cascade:
    """The classifiers of a cascade's stages, ready to answer. `cut_offs` has one for each stage but the last.

    A prediction's `stage` is the place of the stage that answered. Its `embedding` is always that of the first stage:
    embeddings of different students cannot be compared, and every text passes the first.
    """

    def __init__(self, classifiers: Sequence[Classifier], cut_offs: Sequence[float], classes: int) -> None:
        self.stages = tuple(zip(classifiers, (*cut_offs, -math.inf), strict=True))
        self._classes = classes

    @classmethod
    def of(cls, manifest: Manifest, classifiers: Sequence[Classifier]) -> Self:
        """Return the cascade with this manifest, whose stages are loaded already."""
        cut_offs = [stage.cut_off for stage in manifest.stages[:-1] if stage.cut_off is not None]
        return cls(classifiers, cut_offs, len(manifest.labels))

    @classmethod
    def load(cls, bundle: Bundle, *, threads: int = 1, device: Device = AUTO) -> Self:
        """Load the stages of a cascade. Raises BundleError as `Classifier.load` does."""
        classifiers: list[Classifier] = []
        bundles: list[Bundle] = []
        for stage in bundle.manifest.stages:
            own = bundle.stage(stage)
            tokenizer = known_tokenizer(own, zip(bundles, classifiers, strict=True))
            classifiers.append(Classifier.load(own, threads=threads, device=device, tokenizer=tokenizer))
            bundles.append(own)
        return cls.of(bundle.manifest, classifiers)

    def answer(self, texts: Sequence[str]) -> list[Prediction]:
        """Answer texts, those that reach a stage in one run. Raises InferenceError as `Classifier.answer` does."""
        answers: dict[int, Prediction] = {}
        firsts: list[Prediction] = []
        before = self.stages[0][0].tokenizer
        waiting = dict(enumerate(map(before.encode, texts)))
        for place, (classifier, cut_off) in enumerate(self.stages):
            own = classifier.tokenizer
            for index, encoded in waiting.items():
                if not own.keeps(encoded, by=before):
                    waiting[index] = own.encode(texts[index])
            before = own
            found = classifier.run([*waiting.values()]) if waiting else []
            firsts = firsts or found
            for index, prediction in zip([*waiting], found, strict=True):
                if prediction.score >= cut_off:
                    answers[index] = at_stage(prediction, place, firsts[index])
                    del waiting[index]
        return [answers[index] for index in range(len(texts))]

    def classify(self, text: str) -> Prediction:
        """Answer one text. Raises InferenceError as `answer` does."""
        return self.answer([text])[0]

    def possible(self, text: str, tolerance: float) -> list[Prediction]:
        """Return the answers to a text on machines whose scores differ by up to `tolerance`, the cheapest first.

        A score as near to a cut-off as that may lead to either side. Raises InferenceError as `answer` does.
        """
        found: list[Prediction] = []
        first: Prediction | None = None
        for place, (classifier, cut_off) in enumerate(self.stages):
            prediction = classifier.classify(text)
            first = first or prediction
            if prediction.score >= cut_off - tolerance:
                found.append(at_stage(prediction, place, first))
            if prediction.score >= cut_off + tolerance:
                break
        return found

    def probabilities(self, texts: Sequence[str], *, track: Callable[[Iterable[str]], Iterable[str]] = iter) -> Floats:
        """Answer many texts, one at a time: probabilities [N, K]. `track` may wrap the iteration in a progress bar."""
        return stacked([self.classify(text) for text in track(texts)], self._classes)

    def check(self) -> None:
        """Check each stage's graph. Raises InferenceError as `Classifier.check` does."""
        for classifier, _ in self.stages:
            classifier.check()


def at_stage(prediction: Prediction, place: int, first: Prediction) -> Prediction:
    """Return a prediction of the stage at `place` as the cascade's; `first` is that of the first stage."""
    return prediction._replace(stage=place, embedding=first.embedding) if place else prediction


Answering: TypeAlias = Classifier | Cascade
"""What answers texts as a bundle does."""


def load_classifier(bundle: Bundle, *, threads: int = 1, device: Device = AUTO) -> Answering:
    """Load what answers texts as a bundle does, a cascade or not. Raises BundleError as `Classifier.load` does."""
    kind = Cascade if bundle.manifest.stages else Classifier
    return kind.load(bundle, threads=threads, device=device)


def write_cascade(
    path: str | Path,
    stages: Sequence[Bundle],
    cut_offs: Sequence[float],
    contents: Mapping[str, bytes | Path],
    manifest: Manifest,
    *,
    defer: float | None = None,
) -> Bundle:
    """Write a cascade at `path`, whole or not at all, in place of any bundle that is there.

    `stages` are the bundles of its stages, the cheapest first, and `cut_offs` the least score at which each but the
    last answers. The last one leaves the texts on which its score is below `defer` to the teacher; None: no text.
    `contents` are the files about the whole, as for `write_bundle`, and `manifest` describes it; its `family`,
    `variant`, `temperature`, `max_tokens` and `stages` are set here.

    Raises BundleError when the stages are not bundles of students with the labels of the manifest, ValueError unless
    there is one cut-off less than stages, and OSError when it cannot be written.
    """
    files = dict(contents)
    entries = []
    for place, (bundle, cut_off) in enumerate(zip(stages, (*cut_offs, defer), strict=True)):
        own = bundle.manifest
        if own.labels != manifest.labels or own.multi_label or own.stages or own.role != "student":
            raise BundleError(
                f"{bundle.path}: cannot be a stage of {manifest.name}: it must be a student that gives each text one "
                f"of the same {len(manifest.labels)} labels, in the same order; export all stages from one task"
            )
        folder = stage_folder(place, own.name)
        entries.append(Stage(folder, own.version, cut_off))
        files |= {f"{folder}/{name}": bundle.path / name for name in (*own.files, MANIFEST)}
    sealed = replace(
        manifest,
        family=CASCADE,
        variant=CASCADE,
        temperature=1.0,
        max_tokens=max(bundle.manifest.max_tokens for bundle in stages),
        stages=tuple(entries),
    )
    return write_bundle(path, files, sealed)


def is_deferred(prediction: Prediction, manifest: Manifest) -> bool:
    """Whether the cascade with this manifest leaves a text that its stages answered so to the teacher."""
    below = manifest.deferred_below
    return below is not None and prediction.stage == len(manifest.stages) - 1 and prediction.score < below


def known_tokenizer(bundle: Bundle, loaded: Iterable[tuple[Bundle, Classifier]]) -> GraphTokenizer | None:
    """Return the tokenizer of a loaded bundle that has an equal one, None if there is none."""
    own = bundle.manifest
    for other, classifier in loaded:
        manifest = other.manifest
        if manifest.max_tokens == own.max_tokens and manifest.files[TOKENIZER] == own.files[TOKENIZER]:
            return classifier.tokenizer
    return None
