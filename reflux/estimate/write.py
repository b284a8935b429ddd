"""Write the texts and answers of a question into files, and say with which commands `reflux new` makes a task of them.

The task itself is written there.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from distill.data.values import is_blank
from distill.stages import write_atomic
from distill.teachers.api.pricing import list_price
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


def free_folder(name: str) -> Path:
    """Return the first of `name`, `name-2` and so on that is not there."""
    return next(path for number in count(1) if not (path := Path(name if number == 1 else f"{name}-{number}")).exists())


def new_tasks(
    folder: Path, about: Mapping[str, Any], usd_per_million: tuple[float, float] | None
) -> list[tuple[list[str], str]]:
    """Return the commands that make a task of the folder's files, as arguments, each with what it does.

    `about` is the estimate's document of the question. Each command writes a folder of its own, and asks for nothing.
    """
    new = ["reflux", "new", str(folder / TEXTS), "--text", "text"]
    usd = about["money"]["teacher_usd_per_1000"]
    paid = [] if usd is None else ["--usd-per-1000", f"{usd:.3g}"]
    logged = [*new, "--label", "label", "--teacher", "answers", *paid, "--to", str(folder / "logged")]
    teacher = _teacher(about["cost"]["models"], usd_per_million)
    asked = [*new, "--no-label", "--labels", str(folder / LABELS), *teacher, "--yes", "--to", str(folder / "asked")]
    return [(logged, "from the logged answers"), (asked, "or from a teacher that is asked again")]


def _teacher(models: Mapping[str, int], usd_per_million: tuple[float, float] | None) -> list[str]:
    """The options for the log's commonest model, at its vendor; for the usual one if it has no price."""
    name = Counter(models).most_common(1)[0][0].rpartition("/")[2]
    kind = "anthropic" if name.startswith("claude") else "openai"
    priced = [] if usd_per_million is None else ["--usd-per-million", *(f"{usd:.15g}" for usd in usd_per_million)]
    if not name or not (priced or list_price(name)):
        return ["--teacher", "openai"]
    return ["--teacher", kind, "--model", name, *priced]
