"""Write the texts and answers of a question into files from which `reflux new` makes a task."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from distill.data.values import is_blank
from distill.stages import write_atomic
from export.bundle.target import require_new
from reflux.estimate.questions import Question

TEXTS = "texts.csv"
LABELS = "labels.txt"


def write_question(question: Question, folder: Path) -> None:
    """Write `texts.csv`, a row a call with the columns `text` and `label`, and `labels.txt`, a label a line.

    An answer that names no label leaves its cell empty. Raises DistillError if the folder is in use.
    """
    require_new(folder)
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(("text", "label"))
    rows = zip(question.texts, question.chosen, strict=True)
    writer.writerows((text, label or "") for text, label in rows if not is_blank(text))
    write_atomic(folder / TEXTS, buffer.getvalue())
    write_atomic(folder / LABELS, "".join(f"{label}\n" for label in question.labels))
