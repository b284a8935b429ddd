"""Classify a whole file with a bundle, on this machine and without a service."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from distill.artifacts import write_atomic
from distill.data.sources import read
from distill.progress import track
from distill.sections import FileSource
from export.bundle import Bundle
from export.runtime import Classifier

COLUMNS = ("id", "text", "label", "score", "truncated")


def classify_file(bundle: Bundle, source: FileSource, target: Path) -> int:
    """Write a CSV with each row's text, label, score and whether it was truncated. Gives the number of rows.

    Raises DataError for a file that cannot be read, and InferenceError when the graph fails on a text.
    """
    rows = read(source, "row")
    classifier = Classifier.load(bundle)
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(COLUMNS)
    for name, text in zip(rows.ids, track(rows.texts, "classifying", len(rows)), strict=True):
        answer = classifier.classify(text)
        best = answer.best
        score = f"{answer.probabilities[best]:.6f}"
        writer.writerow([name, text, bundle.manifest.labels[best], score, str(answer.truncated).lower()])
    write_atomic(target, buffer.getvalue())
    return len(rows)
