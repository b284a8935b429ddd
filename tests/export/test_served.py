"""The bundle of a student of any family is served, and the service answers as the student does."""

from __future__ import annotations

import numpy as np

from distill.students.student import probabilities
from service.settings import Settings
from tests.support.service_here import run_app


async def test_the_service_answers_as_the_student_does(student, build, validation, tmp_path):
    bundle = build(student, tmp_path / "bundle", "auto")
    texts = list(validation.texts[:20])
    async with run_app(Settings(bundle=tmp_path / "bundle")) as client:
        answered = (await client.post("/classify", json={"texts": texts, "top_k": len(student.labels)})).json()
    expected = probabilities(student.logits(texts), bundle.manifest.temperature)
    tops = [{each["label"]: each["score"] for each in row["top"]} for row in answered["results"]]
    found = np.array([[top[label] for label in student.labels] for top in tops])
    np.testing.assert_allclose(found, expected, atol=0.05)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-4)
