"""Train a student of a task by several recipes, and compare each with the task's own over the same seeds.

A recipe changes keys of the task file and nothing else. Students are judged on the test split by their agreement with
the teacher, and by their accuracy where there are gold labels. Differences are paired: the same seeds, the same texts.
Their intervals are from a bootstrap of seeds and texts together; a recipe wins if its interval of the difference in
agreement is above zero and it is better for every seed.

    python benchmarks/recipes.py TASK FOLDER [--student NAME] [--recipes NAME ...] [--seeds 3] [--set KEY=VALUE ...]

`FOLDER` keeps the stages, so that a run that was stopped goes on, and further recipes or seeds train theirs alone.
Recipes with `views` need a teacher that can be asked, those with `paraphrases` one that writes texts, those with
`embedding phase` a local one, and `no pairs` a static student. `--set` changes the task for all recipes, such as
`--set students.encoder.optimisation.epochs=4`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from distill.run import Run
from distill.stages import write_atomic
from distill.students.student import load_student
from distill.task import Task, load_task

Changes = Mapping[str, Any]

OWN, TWICE = "own", "twice the epochs"
_HARD: Changes = {"loss": {"hard": 1.0}}
_MSE: Changes = {"loss": {"kind": "mse"}}
"""In place of the whole section: the temperature of the task's own loss has no effect with these, and is refused."""

RECIPES: dict[str, Changes] = {
    OWN: {},
    TWICE: {},
    "hard labels": _HARD,
    "mse": _MSE,
    "kl 1": {"loss.kind": "kl", "loss.temperature": 1.0},
    "kl 2": {"loss.kind": "kl", "loss.temperature": 2.0},
    "kl 4": {"loss.kind": "kl", "loss.temperature": 4.0},
    "averaging": {"optimisation.averaging": 0.1},
    "no pairs": {"pairs": False},
    "layer decay": {"optimisation.layer_decay": 0.8},
    "views": {"labelling.views": {}},
    "3 views": {"labelling.views": {"per_text": 3}},
    "views, averaging": {"labelling.views": {}, "optimisation.averaging": 0.1},
    "views, mse": {"labelling.views": {}, **_MSE},
    "views, hard labels": {"labelling.views": {}, **_HARD},
    "embedding phase": {"embedding_phase": {}},
    "views, embedding phase": {"labelling.views": {}, "embedding_phase": {}},
    "paraphrases": {"labelling.paraphrases": {}},
    "views, paraphrases": {"labelling.views": {}, "labelling.paraphrases": {}},
}
"""Changes by name. `loss`, `optimisation`, `embedding_phase` and `pairs` are the student's.

`TWICE` takes as many steps as one view of each text does, so it tells what the views bring from what the steps do.
"""

_DRAWS = 2000


@dataclass(frozen=True, slots=True)
class Judged:
    """Whether a recipe's students were right, [S, N]: with the teacher, and with gold labels if there are any."""

    agrees: npt.NDArray[np.float64]
    right: npt.NDArray[np.float64] | None
    seconds: float


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--student", help="the first one by default")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=[OWN, "mse", "averaging", "layer decay"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes for all recipes")
    given = parser.parse_args()
    base = changed(load_task(given.task), dict(one.split("=", 1) for one in given.set))
    student = given.student or next(iter(base.students))
    names = list(dict.fromkeys([OWN, *given.recipes]))
    judged = {}
    for name in names:
        judged[name] = judge(base, student, name, given.seeds, given.folder)
        print(f"{name}: {100 * judged[name].agrees.mean():.2f} %", file=sys.stderr, flush=True)
    print(f"{student}, {given.seeds} seeds, {judged[OWN].agrees.shape[1]:,} test texts\n")
    print("\n".join(table(judged)))


def changed(task: Task, changes: Changes) -> Task:
    """Return a task with other values under dotted keys; text is read as YAML."""
    document = task.model_dump(mode="json", exclude_none=True, exclude_unset=True)
    for key, value in changes.items():
        section, *parts = document, *key.split(".")
        for part in parts[:-1]:
            section = section.setdefault(part, {})
        section[parts[-1]] = yaml.safe_load(value) if isinstance(value, str) else value
    return Task.model_validate(document)


def judge(base: Task, student: str, recipe: str, seeds: int, folder: Path) -> Judged:
    """Train a student by a recipe with each seed, unless that is done, and judge the results on the test split."""
    own = ("loss", "optimisation.", "embedding_phase", "pairs")
    changes = {
        f"students.{student}.{key}" if key.startswith(own) else key: value for key, value in RECIPES[recipe].items()
    }
    task = changed(base, changes)
    config = task.students[student]
    if recipe == TWICE:
        twice = {"epochs": 2 * config.optimisation.epochs}
        config = config.model_copy(update={"optimisation": config.optimisation.model_copy(update=twice)})
    slug = recipe.replace(", ", "-").replace(" ", "-")
    students = {
        f"{student}-{slug}-{seed}": config.model_copy(
            update={"optimisation": config.optimisation.model_copy(update={"seed": seed})}
        )
        for seed in range(seeds)
    }
    run = Run(task.model_copy(update={"students": students}), root_of(folder, task))
    run.make_data()
    run.make_labels()
    return judgement(run, [train(run, name) for name in students])


def root_of(folder: Path, task: Task) -> Path:
    """Return the folder of a task's stages.

    Those with views or paraphrases begin as a copy of those without, and ask no text anew.
    """
    more, plain = task.labelling, folder / "plain"
    names = [f"views-{more.views.per_text}"] if more.views else []
    names += [f"paraphrases-{more.paraphrases.per_text}"] if more.paraphrases else []
    if not names:
        return plain
    root = folder / "-".join(names)
    if not root.exists() and plain.exists():
        shutil.copytree(plain, root, ignore=shutil.ignore_patterns("students"))
    return root


def train(run: Run, name: str) -> float:
    """Train a student unless that is done, and return the seconds that it took."""
    kept = run.root / "seconds.json"
    seconds: dict[str, float] = json.loads(kept.read_text()) if kept.exists() else {}
    key = run.student(name).fingerprint
    if not run.student(name).done or key not in seconds:
        begun = time.perf_counter()
        run.make_student(name)
        seconds[key] = time.perf_counter() - begun
        write_atomic(kept, json.dumps(seconds))
    return seconds[key]


def judgement(run: Run, seconds: Sequence[float]) -> Judged:
    """Compare each student of a run with the teacher and the gold labels, on the test split."""
    splits, soft = run.splits(), run.soft_labels()
    known = set(soft.ids)
    test = splits.test.take([row for row, name in enumerate(splits.test.ids) if name in known])
    choice = soft.hard[soft.rows_of(test.ids)]
    chosen = np.stack([load_student(run.student(name).path).logits(test.texts).argmax(1) for name in run.task.students])
    gold = np.array([soft.labels.index(label) for label in test.gold if label is not None])
    right = (chosen == gold).astype(np.float64) if test.has_gold else None
    return Judged((chosen == choice).astype(np.float64), right, float(np.mean(seconds)))


def table(judged: Mapping[str, Judged]) -> list[str]:
    """Return the lines of a Markdown table; a difference is that to the task's own recipe, in points."""
    columns = ("recipe", "agreement", "difference", "accuracy", "difference", "better seeds", "seconds", "won")
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    own = judged[OWN]
    for name, one in judged.items():
        agreement, accuracy = f"{100 * one.agrees.mean():.2f} %", "–"
        if one.right is not None:
            accuracy = f"{100 * one.right.mean():.2f} %"
        if name == OWN:
            lines.append(f"| {name} | {agreement} | | {accuracy} | | | {one.seconds:.0f} | |")
            continue
        change, low, high = difference(one.agrees, own.agrees)
        more = "–"
        if one.right is not None and own.right is not None:
            more = "{:+.2f} [{:+.2f}, {:+.2f}]".format(*difference(one.right, own.right))
        better = int((one.agrees.mean(1) > own.agrees.mean(1)).sum())
        won = "yes" if low > 0 and better == len(one.agrees) else "no"
        lines.append(
            f"| {name} | {agreement} | {change:+.2f} [{low:+.2f}, {high:+.2f}] | {accuracy} | {more} "
            f"| {better} of {len(one.agrees)} | {one.seconds:.0f} | {won} |"
        )
    return lines


def difference(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the mean difference of two arrays [S, N], in points, and its 95 % interval over seeds and texts."""
    paired = 100 * (one - other)
    seeds, texts = paired.shape
    generator = np.random.default_rng(0)
    draws = [
        paired[generator.integers(0, seeds, seeds)].mean(0)[generator.integers(0, texts, texts)].mean()
        for _ in range(_DRAWS)
    ]
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(paired.mean()), float(low), float(high)


if __name__ == "__main__":
    main()
