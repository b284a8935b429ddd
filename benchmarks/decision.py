"""Measure what abstaining rules leave to a human: of usual texts, and of texts from elsewhere.

python benchmarks/decision.py RUN --foreign tickets.csv.gz --text Document

RUN is the folder of a finished run. Each rule is fitted on its validation split and judged on its test split.
"""

from __future__ import annotations

import argparse
import csv
import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distill.data.prepared import read_splits
from distill.decision import Abstain
from distill.labelling.soft_labels import SoftLabels
from export.bundle.classifier import Classifier
from export.bundle.format import Bundle
from export.fit_decision import Answers, fit_decision
from export.selection import evenly_spaced

RULES = {
    "below 0.5": Abstain(kind="abstain", below=0.5),
    "below 0.5, novelty 0.99": Abstain(kind="abstain", below=0.5, novelty=0.99),
    "below 0.5, novelty 0.95": Abstain(kind="abstain", below=0.5, novelty=0.95),
    "novelty 0.95 alone": Abstain(kind="abstain", below=1e-9, novelty=0.95),
    "precision 0.95": Abstain(kind="abstain", precision=0.95),
    "precision 0.95, novelty 0.95": Abstain(kind="abstain", precision=0.95, novelty=0.95),
}
FOREIGN, TRAINING = 2000, 5000


def main() -> None:
    """Print a table for each student of the run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--foreign", type=Path, required=True, help="a CSV file, compressed by gzip")
    parser.add_argument("--text", default="text", help="its column of texts")
    given = parser.parse_args()
    splits, soft = read_splits(given.run / "data"), SoftLabels.read(given.run / "labels" / "labels.parquet")
    with gzip.open(given.foreign, "rt", encoding="utf-8", newline="") as file:
        foreign = evenly_spaced([row[given.text] for row in csv.DictReader(file)], FOREIGN)
    teacher = {split: soft.probabilities[soft.rows_of(getattr(splits, split).ids)] for split in ("validation", "test")}
    for folder in sorted((given.run / "bundles").iterdir()):
        bundle = Bundle.open(folder)
        if bundle.manifest.role != "student":
            continue
        classifier = Classifier.load(bundle)
        training, validation, test, other = (
            answers(classifier, texts)
            for texts in (
                evenly_spaced(splits.train.texts, TRAINING),
                splits.validation.texts,
                splits.test.texts,
                foreign,
            )
        )
        print(f"\n{folder.name}: {len(splits.test)} test texts, {len(foreign)} foreign ones")
        print("| rule | decided | of these, right | foreign texts decided |\n|---|---|---|---|")
        for name, rule in RULES.items():
            decision = fit_decision(rule, bundle.manifest.labels, validation, teacher["validation"], training)
            chosen, elsewhere = (
                decision.choose(each.probabilities, decision.novel(each.embeddings)) for each in (test, other)
            )
            decided = chosen != decision.abstain
            right = (chosen == teacher["test"].argmax(axis=1))[decided].mean()
            among = (elsewhere != decision.abstain).mean()
            print(f"| {name} | {100 * decided.mean():.1f} % | {100 * right:.1f} % | {100 * among:.1f} % |")


def answers(classifier: Classifier, texts: Sequence[str]) -> Answers:
    """Classify texts, one run each."""
    found = [classifier.classify(text) for text in texts]
    return Answers(np.stack([one.probabilities for one in found]), np.stack([one.embedding for one in found]))


if __name__ == "__main__":
    main()
