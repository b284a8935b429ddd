"""What a student gains from its shadow log, and what the weights of the log's rows do to that.

    python benchmarks/redistill.py runs/demo --student static [--tickets 12000] [--rate 0.2] [--fresh 4000] [--seeds 3]

The run is that of `reflux demo`, whose student answers new tickets; those that the sampler takes are the log, answered
by the teacher. The student is trained on the task's rows alone, with the log as by `reflux redistill`, and with the log
weighted by 1 / propensity, so that it stands for the traffic. Printed is how often each disagrees with the teacher on
fresh tickets, over all of them and on the tenth that the served student is least sure of.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from distill.data.sources import read
from distill.data.splits import Train
from distill.sections import TicketSource
from distill.students.student import Student
from distill.task import TEACHER
from distill.training.distil import distil
from export.bundle.classifier import Classifier
from export.bundle.format import Bundle
from export.bundle.reference import Reference
from reflux.demo import TASK
from reflux.pipeline import open_run
from reflux.redistill.rows import LogRows, weights_of
from service.shadow.outbox.training_rows import TrainingLog
from service.shadow.sampler import Sampler

LOG_SEED, FRESH_SEED = 77, 909


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--student", default="static")
    parser.add_argument("--tickets", type=int, default=12_000)
    parser.add_argument("--rate", type=float, default=0.2)
    parser.add_argument("--fresh", type=int, default=4_000)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    run = open_run(TASK, given.run)
    soft, splits = run.soft_labels(), run.splits()
    served, teacher = (Bundle.open(given.run / "bundles" / name) for name in (given.student, "teacher"))
    log = shadowed(served, teacher, texts(given.tickets, LOG_SEED), given.rate, soft.labels)
    rows = LogRows.of(log, np.zeros(len(log.texts), dtype=bool), None)
    own = splits.train
    both = Train(own.ids + rows.ids, own.texts + rows.texts, own.gold + (None,) * len(rows.texts))
    place = {text: at for at, text in enumerate(rows.texts)}
    inverse = np.bincount([place[text] for text in log.texts], 1.0 / log.propensity)
    trained = {
        "the task's rows": (soft, own, None),
        "and the log": (rows.added_to(soft), both, np.concatenate([np.ones(len(own)), rows.weights])),
        "and the log, weighted": (rows.added_to(soft), both, np.concatenate([np.ones(len(own)), weights_of(inverse)])),
    }
    config = run.task.students[given.student]
    if config.model == TEACHER and run.finetuned_teacher is not None:
        config = config.model_copy(update={"model": str(run.finetuned_teacher.path)})
    fresh = texts(given.fresh, FRESH_SEED)
    wanted = np.array(teacher.manifest.labels)[Classifier.load(teacher).probabilities(fresh).argmax(axis=1)]
    scores = Classifier.load(served).probabilities(fresh).max(axis=1)
    unsure = scores <= np.quantile(scores, 0.1)
    print(f"{len(rows.texts)} texts of {given.tickets} in the log\n")
    print("| trained on | gap, % | of the least sure tenth, % |\n|---|--:|--:|")
    for name, (labels, learn, weight) in trained.items():
        found = []
        for seed in range(given.seeds):
            drawn = config.optimisation.model_copy(update={"seed": seed})
            own_config = config.model_copy(update={"optimisation": drawn})
            student = distil(own_config, labels, learn, splits.validation, name, weight).student
            found.append(wrong(student, fresh, wanted))
        print(f"| {name} | {told([each.mean() for each in found])} | {told([each[unsure].mean() for each in found])} |")


def texts(count: int, seed: int) -> list[str]:
    """Return new tickets."""
    return list(read(TicketSource(tickets=count, seed=seed), "tickets").texts)


def shadowed(served: Bundle, teacher: Bundle, given: Sequence[str], rate: float, labels: Sequence[str]) -> TrainingLog:
    """Return the log of texts that the served student answered, sampled at `rate`."""
    student, sampler = Classifier.load(served), Sampler(Reference.open(served), rate, random.Random(1))
    placed = [(text, sampler.place(student.classify(text).score)[0]) for text in given]
    taken = [(text, band) for text, band in placed if sampler.draw(band)]
    order = [teacher.manifest.labels.index(label) for label in labels]
    band = np.array([band for _, band in taken], dtype=np.intp)
    chosen = [text for text, _ in taken]
    answers = Classifier.load(teacher).probabilities(chosen)[:, order]
    return TrainingLog(
        texts=chosen,
        answers=answers,
        band=band,
        propensity=np.array(sampler.propensity)[band],
        agreed=np.ones(len(taken), dtype=bool),
        answered=np.zeros(len(taken)),
        held_out=np.zeros(0),
        erased=0,
        others=0,
    )


def wrong(student: Student, given: Sequence[str], wanted: npt.NDArray[np.str_]) -> npt.NDArray[np.bool_]:
    """Return on which texts a student puts another label first than is wanted."""
    found = np.array(student.labels)[student.logits(given).argmax(axis=1)]
    return np.asarray(found != wanted)


def told(shares: Sequence[float]) -> str:
    """Return the mean over the seeds, and the least and the largest."""
    return f"{100 * np.mean(shares):.1f} ({100 * min(shares):.1f} to {100 * max(shares):.1f})"


if __name__ == "__main__":
    main()
