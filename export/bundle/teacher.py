"""The teacher kind `bundle`: an exported classifier, run by ONNX Runtime and so without torch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from distill.teachers import Account, Answer, TeacherError, label_order
from distill.teachers.names import Name, names_of
from export.bundle.cascade import load_classifier
from export.bundle.classifier import InferenceError
from export.bundle.format import Bundle, BundleError, Manifest
from export.bundle.verify import bundle_errors, check_longest, classifiers_of


class BundleTeacherConfig(BaseModel):
    """`path` is the bundle's directory, `threads` its intra-op pool, `usd_per_hour` the price of its machine."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
    aside: ClassVar[tuple[str, ...]] = ("threads", "usd_per_hour")
    """Keys that change no answer."""

    kind: Literal["bundle"] = "bundle"
    path: Path
    threads: int = Field(default=1, ge=1)
    usd_per_hour: float = Field(default=0.0, ge=0.0)


def own_name(manifest: Manifest) -> Name:
    """Return the name and version of the teacher that a bundle is."""
    return f"bundle:{manifest.name}", manifest.version


def origin_of(manifest: Manifest) -> Name | None:
    """Return the name and version of the teacher that a bundle was exported from, None for that of a student."""
    origin = names_of(manifest.teacher)[0]
    return origin if manifest.role == "teacher" and all(origin) else None


class BundleTeacher:
    """Answers with an exported classifier, one text per run, in a worker thread.

    `origin` is the name and version of the teacher that the bundle was exported from, None for that of a student.
    """

    config_type: ClassVar[type[BaseModel]] = BundleTeacherConfig
    batch_size = 16
    concurrency = 1

    def __init__(self, bundle: Bundle, labels: Sequence[str], *, threads: int = 1, usd_per_hour: float = 0.0) -> None:
        if bundle.manifest.multi_label:
            raise TeacherError(f"the bundle {bundle.path} is multi-label; a teacher gives each text one label")
        self.name, self.version = own_name(bundle.manifest)
        self.origin = origin_of(bundle.manifest)
        self.labels = tuple(labels)
        self._order = label_order(bundle.manifest.labels, labels, f"the bundle {bundle.path}")
        with bundle_errors(bundle.path):
            self._classifier = load_classifier(bundle, threads=threads)
            self._classifier.check()
            for own, stage in classifiers_of(bundle, self._classifier):
                check_longest(own, stage)
        self._usd_per_second = usd_per_hour / 3600

    @classmethod
    def from_config(cls, config: BundleTeacherConfig, labels: Sequence[str], account: Account | None = None) -> Self:
        """Open the bundle.

        Raises TeacherError when it is not a bundle, was changed, is multi-label, has other labels, or its graph fails
        on texts of up to `max_tokens`.
        """
        try:
            return cls(Bundle.open(config.path), labels, threads=config.threads, usd_per_hour=config.usd_per_hour)
        except BundleError as error:
            raise TeacherError(str(error)) from error

    async def ask(self, texts: Sequence[str], repeat: int = 0) -> Sequence[Answer]:
        """Answer each text in a worker thread. A text on which the graph fails is answered as `invalid`."""
        return await asyncio.to_thread(lambda: [self._answer(text) for text in texts])

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the embedding of each text, [N, d]; for a cascade that of its first stage."""
        return np.stack([self._classifier.classify(text).embedding for text in texts])

    async def aclose(self) -> None:
        """Do nothing: the session is freed with the object."""

    def _answer(self, text: str) -> Answer:
        start = time.perf_counter()
        try:
            prediction = self._classifier.classify(text)
        except InferenceError:
            prediction = None
        seconds = time.perf_counter() - start
        cost = seconds * self._usd_per_second
        if prediction is None:
            return Answer(None, "local", cost_usd=cost, seconds=seconds, outcome="invalid")
        probabilities = prediction.probabilities[self._order]
        return Answer(probabilities, "local", tokens=prediction.tokens, cost_usd=cost, seconds=seconds)
