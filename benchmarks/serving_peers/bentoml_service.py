"""BentoML with the student and adaptive batching. `bentoml serve bento:Classifier` imports it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import bentoml
from onnx_student import Student


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Classifier:
    """One service with adaptive batching."""

    def __init__(self) -> None:
        self.student = Student(Path(os.environ["STUDENT_BUNDLE"]))

    @bentoml.api(batchable=True, max_batch_size=8)  # type: ignore[untyped-decorator]
    def classify(self, texts: list[str]) -> list[dict[str, Any]]:
        """Return the labels of the texts."""
        return [{"label": label, "score": score} for label, score in self.student.classify(texts)]
