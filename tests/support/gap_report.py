"""The content of a `gap.json`, computed from classifiers drawn at random, for tests of the report."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np

from distill.evaluation.costs import costs
from distill.evaluation.disagreements import most_surprising
from distill.evaluation.gap import compare
from distill.evaluation.reliability import before_after

LABELS = ("billing", "shipping", "account")
STUDENTS = {"small": ("int8", 1.25), "large": ("fp32", 4.0)}


def gap_report(
    labels: tuple[str, ...] = LABELS, *, rows: int = 50, gold: bool = True, text: str = ""
) -> dict[str, Any]:
    """Return a `gap.json`, read back, of two students with these labels on `rows` texts that begin with `text`."""
    generator = np.random.default_rng(0)
    teacher = generator.dirichlet(np.full(len(labels), 0.3), size=rows)
    true = teacher.argmax(1)
    true[: rows // 10] = generator.integers(0, len(labels), rows // 10)
    texts = [f"{text}text {row}" for row in range(rows)]
    said = [labels[one] if gold else None for one in true]
    students = {}
    for name, (variant, milliseconds) in STUDENTS.items():
        student = 0.6 * teacher + 0.4 * generator.dirichlet(np.full(len(labels), 0.3), size=rows)
        softer = student**0.5 / (student**0.5).sum(axis=1, keepdims=True)
        found = costs(
            milliseconds=milliseconds, usd_per_hour=0.36, teacher_usd_per_1000=0.5, labels_usd=20.0, by_the_text=True
        )
        students[name] = {
            "gap": compare(teacher, student, labels, true if gold else None).as_dict(),
            "calibration": {
                "temperature": 1.3,
                "agreement": asdict(before_after(softer, student, teacher.argmax(1))),
                "gold": asdict(before_after(softer, student, true)) if gold else None,
            },
            "disagreements": [asdict(one) for one in most_surprising(teacher, student, labels, texts, said)],
            "costs": asdict(found),
            "variant": variant,
            "measured": {"milliseconds": milliseconds, "bytes": 3 * 2**20, "reason": f"{variant} was fastest"},
            "gates": {},
            "usd_per_1000": found.student_usd_per_1000,
        }
    return json.loads(
        json.dumps(
            {
                "task": "desk",
                "created": "2026-01-02T03:04:05+00:00",
                "teacher": {
                    "name": "local:big",
                    "version": "abc",
                    "milliseconds": None,
                    "in_batches": False,
                    "usd_per_1000": 0.5,
                    "labelled": {"rows": 940, "refused": 2, "invalid": 1},
                    "calibration": None,
                    "self_agreement": None,
                    "reliability": asdict(before_after(teacher, teacher, true)) if gold else None,
                    "terms": [],
                },
                "students": students,
                "comparisons": {},
                "chosen": "small",
                "budget": {"latency_ms": 3.0},
                "data": {
                    "rows": {"train": 800, "validation": 90, "test": rows},
                    "cleaning": {
                        "rows": 1000,
                        "kept": 890,
                        "exact": 60,
                        "near": 30,
                        "leaked": {"validation": 11, "test": 9},
                        "conflicting": 4,
                    },
                    "counts": {
                        "": {"train": 5, "validation": 0, "test": 0},
                        "a": {"train": 3, "validation": 2, "test": 1},
                        "b\xa0c": {"train": 0, "validation": 0, "test": 0},
                    },
                    "delimiters": ["train.csv: read with the delimiter ';'"],
                    "findings": [{"level": "warning", "message": "train: 800 rows"}],
                },
            }
        )
    )
