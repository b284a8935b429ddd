"""Measure how often the right label is among the nearest examples of a prompt, and how long finding them takes.

python benchmarks/nearest.py --train train.csv --test test.csv --text text --label category [--k 8]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from distill.data.sources import read
from distill.sections import FileSource
from distill.teachers.prompting.few_shot import FewShot


def main() -> None:
    """Find the nearest training texts of each test text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--text", default="text")
    parser.add_argument("--label", default="label")
    parser.add_argument("--k", type=int, default=8)
    given = parser.parse_args()
    nearest = FewShot(data=FileSource(path=given.train, text=given.text, label=given.label), k=given.k)
    start = time.perf_counter()
    labels = nearest.labels()
    indexed = time.perf_counter()
    test = read(FileSource(path=given.test, text=given.text, label=given.label), "test")
    found = [[label for _, label in nearest.examples(text)] for text in test.texts]
    done = time.perf_counter()
    right = sum(gold in near for gold, near in zip(test.gold, found, strict=True)) / len(test)
    first = sum(gold in near[-1:] for gold, near in zip(test.gold, found, strict=True)) / len(test)
    print(f"{len(labels)} labels, {len(test)} texts, k={given.k}")
    print(f"right label among the nearest: {right:.3f}, on the nearest one: {first:.3f}")
    print(f"index: {indexed - start:.2f} s, a text: {1000 * (done - indexed) / len(test):.2f} ms")


if __name__ == "__main__":
    main()
