"""Distil the students of a task from nothing, and print how good and how fast each is, as it is served.

    python benchmarks/quality.py [TASK] [--folder FOLDER] [--go-on] [--teacher MODEL] [--set KEY=VALUE ...]

The task is that of Banking77 by default. If it has a student `encoder` of some layers, the same with all layers is
distilled too, as `whole`. All that `reflux run` does is done in FOLDER, by default `runs/quality-NAME`, which must not
exist unless `--go-on` is given. Agreement, retention and accuracy are those of the report: on the test split, through
the bundle's graph. `int8 costs` says in points of agreement by how much the trained student is better in torch than the
bundle's graph, where that is int8. A student's time is the median for a text of 16 tokens alone on one core, in a
process of its own; the teacher's is that for as many tokens in torch with 32-bit numbers on one thread. Name the
teacher's folder or hub id with `--teacher`; without it, that is a model with the shape of all-mpnet-base-v2 and random
weights, which take as long.

`--set` changes the task, such as `--set students.encoder.optimisation.epochs=2`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from recipes import changed
from transformers import AutoConfig, AutoModel, MPNetConfig

from distill.run import Run
from distill.stages import Stage
from distill.students.pretrained import locate
from distill.students.student import load_student
from distill.task import Task, load_task
from export.bundle.format import INT8, Bundle
from export.run import ExportRun
from export.selection import evenly_spaced
from export.sweep.measure import measure_bundle
from reflux import pipeline

TASK = Path(__file__).parents[1] / "examples" / "banking77" / "task.yaml"
TOKENS = 16
RUNS = 100
ENCODER, WHOLE = "encoder", "whole"
LEARNING_RATE = 2.0e-4
"""Of the encoder with all layers; the deeper, the lower."""
COLUMNS = ("student", "retention", "agreement", "accuracy", "int8 costs", "ms", "times as fast", "MiB")


def main() -> None:
    """Run the task, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=Path, nargs="?", default=TASK)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--go-on", action="store_true", help="use what the folder has already")
    parser.add_argument("--teacher", help="the teacher's encoder, to time")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes of the task")
    given = parser.parse_args()
    begun = time.perf_counter()
    task = changed(load_task(given.task), dict(one.split("=", 1) for one in given.set))
    task = with_whole(task)
    folder = given.folder or Path("runs") / f"quality-{task.name}"
    if folder.exists() and not given.go_on:
        sys.exit(f"{folder} exists: remove it, or give --go-on to use what it has")
    result = pipeline.run(task, folder, warn=lambda message: print(f"warning: {message}", file=sys.stderr))
    run = Run(task, folder)
    exported = ExportRun(run)
    teacher = teacher_milliseconds(given.teacher)
    print(f"the teacher: {result.gap['teacher']['name']}, {teacher:.1f} ms\n")
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    for name, student in result.gap["students"].items():
        bundle = Bundle.open(exported.bundle_stage(name).path) if name in task.students else None
        print("| " + " | ".join(row(run, name, student, bundle, teacher)) + " |")
    print(f"\n{(time.perf_counter() - begun) / 60:.0f} minutes")


def with_whole(task: Task) -> Task:
    """Return the task with one more student: its encoder, with all layers."""
    if ENCODER not in task.students or WHOLE in task.students:
        return task
    layers = AutoConfig.from_pretrained(locate(task.students[ENCODER].model)).num_hidden_layers
    encoder = task.model_dump(mode="json", exclude_none=True, exclude_unset=True)["students"][ENCODER]
    optimisation = {**encoder.get("optimisation", {}), "learning_rate": LEARNING_RATE}
    return changed(task, {f"students.{WHOLE}": {**encoder, "layers": layers, "optimisation": optimisation}})


def row(run: Run, name: str, student: dict[str, Any], bundle: Bundle | None, teacher: float) -> list[str]:
    """Return a row of the table; of a cascade, which has no `bundle` here, without times."""
    gap = student["gap"]
    cells = [name, *(share(gap[key]) for key in ("retention", "agreement", "student_accuracy"))]
    if bundle is None:
        return [*cells, "–", "–", "–", "–"]
    cost = "–"
    if bundle.manifest.variant.startswith(INT8):
        cost = f"{100 * (agreement_in_torch(run, run.student(name)) - gap['agreement']['value']):+.2f}"
    measured = measure_bundle(bundle, evenly_spaced(run.splits().validation.texts, RUNS))
    milliseconds = measured["by_length"][str(TOKENS)]["alone"]["p50"]
    size = bundle.manifest.measured["bytes"] / 2**20
    return [*cells, cost, f"{milliseconds:.3f}", f"{teacher / milliseconds:,.0f}", f"{size:.1f}"]


def share(interval: dict[str, float] | None) -> str:
    """Write a share with its 95 % interval; nothing where there are no gold labels."""
    if interval is None:
        return "–"
    return f"{100 * interval['value']:.1f} % [{100 * interval['lower']:.1f}, {100 * interval['upper']:.1f}]"


def agreement_in_torch(run: Run, stage: Stage) -> float:
    """Return how often a trained student agrees with the teacher on the test split, before its export."""
    soft = run.soft_labels()
    known = set(soft.ids)
    test = run.splits().test
    test = test.take([at for at, name in enumerate(test.ids) if name in known])
    chosen = load_student(stage.path).logits(test.texts).argmax(1)
    return float((chosen == soft.hard[soft.rows_of(test.ids)]).mean())


@torch.inference_mode()
def teacher_milliseconds(model: str | None) -> float:
    """Return the median time of a text of `TOKENS` tokens in the teacher's encoder, in torch on one thread."""
    # Token type and position ids of a fresh model are as those of a loaded one; its head takes no time to speak of.
    encoder = AutoModel.from_pretrained(model) if model else AutoModel.from_config(MPNetConfig(vocab_size=30527))
    encoder.eval().to(torch.float32)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ids = torch.randint(5, 1000, (1, TOKENS))
    spent = []
    for _ in range(RUNS + 5):
        begun = time.perf_counter()
        encoder(input_ids=ids, attention_mask=torch.ones_like(ids))
        spent.append(1000 * (time.perf_counter() - begun))
    torch.set_num_threads(threads)
    return statistics.median(spent[5:])


if __name__ == "__main__":
    main()
