"""Measure what pruned feed-forward widths and attention heads of an encoder save and cost, exported as int8.

    python benchmarks/pruning.py TASK RUN STUDENT [--core 1] [--epochs 1]

The units of a feed-forward layer are ranked by how much they move its output on training texts: the mean magnitude of a
unit's activation times the norm of its outgoing weights. Heads likewise: the mean norm of what a head adds to the
output. The least are removed. With `--epochs` the pruned student is distilled again, with the task's settings. Time is
paired with the whole student, agreement is with the teacher on the test split. BERT and its kin alone.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from variants import TIMED_TEXTS, TYPICAL_TEXTS, difference, load, make

from distill.data.splits import Train, Validation
from distill.labelling.soft_labels import SoftLabels
from distill.run import Run
from distill.students.padding import pad
from distill.students.student import Student, load_student, predict
from distill.students.vocabulary import compact_tables
from distill.task import load_task
from distill.training.loop import train
from distill.training.losses import distillation_loss
from export.bundle.format import INT8
from export.graph.speed import measure
from export.selection import evenly_spaced

RANKING_TEXTS = 512
WIDTHS = (1.0, 0.75, 0.5, 0.25)
HEADS = (1.0, 0.5)
ROUNDS = 10


@torch.inference_mode()
def ranks(student: Student, texts: Sequence[str]) -> tuple[list[Tensor], list[Tensor]]:
    """Return of every layer how much each unit, and each head, moves the layer's output on the texts."""
    module = student.network.module
    layers = module.transformer.encoder.layer
    units = [torch.zeros(layer.output.dense.in_features) for layer in layers]
    heads = [torch.zeros(layer.attention.self.num_attention_heads) for layer in layers]

    def watch(at: int, into: list[Tensor], dense: nn.Linear, groups: int) -> Any:
        weights = dense.weight.detach()  # [outputs, inputs]

        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            values = inputs[0].flatten(0, -2)
            if groups == values.shape[1]:
                into[at] += values.abs().sum(0) * weights.norm(dim=0)
                return
            width = values.shape[1] // groups
            for head in range(groups):
                part = slice(head * width, (head + 1) * width)
                into[at][head] += (values[:, part] @ weights[:, part].T).norm(dim=1).sum()

        return dense.register_forward_pre_hook(hook)

    hooks = []
    for at, layer in enumerate(layers):
        hooks.append(watch(at, units, layer.output.dense, len(units[at])))
        hooks.append(watch(at, heads, layer.attention.output.dense, len(heads[at])))
    for row in student.encode(texts):
        module(*pad([row]))
    for hook in hooks:
        hook.remove()
    return units, heads


def pruned(student: Student, ranked: tuple[list[Tensor], list[Tensor]], width: float, heads: float) -> Student:
    """Return a copy of a student with a share of its units and of its heads."""
    network = deepcopy(student.network)
    transformer = network.module.transformer
    for layer, units, own in zip(transformer.encoder.layer, *ranked, strict=True):
        if width < 1:
            kept = units.topk(round(width * len(units))).indices.sort().values
            layer.intermediate.dense = _rows(layer.intermediate.dense, kept)
            layer.output.dense = _columns(layer.output.dense, kept)
        if heads < 1:
            kept = own.topk(round(heads * len(own))).indices.sort().values
            attention = layer.attention.self
            size = attention.attention_head_size
            places = (kept[:, None] * size + torch.arange(size)).flatten()
            for part in ("query", "key", "value"):
                setattr(attention, part, _rows(getattr(attention, part), places))
            layer.attention.output.dense = _columns(layer.attention.output.dense, places)
            attention.num_attention_heads = len(kept)
            attention.all_head_size = len(places)
    config = network.module.config
    config.intermediate_size = round(width * config.intermediate_size)
    config.num_attention_heads = round(heads * config.num_attention_heads)
    return replace(student, network=network)


def _rows(dense: nn.Linear, kept: Tensor) -> nn.Linear:
    made = nn.Linear(dense.in_features, len(kept))
    made.weight.data, made.bias.data = dense.weight.detach()[kept].clone(), dense.bias.detach()[kept].clone()
    return made


def _columns(dense: nn.Linear, kept: Tensor) -> nn.Linear:
    made = nn.Linear(len(kept), dense.out_features)
    made.weight.data, made.bias.data = dense.weight.detach()[:, kept].clone(), dense.bias.detach().clone()
    return made


def distilled(student: Student, run: Run, soft: SoftLabels, learn: Train, choose: Validation, config: Any) -> None:
    """Distil a student that is trained already for some epochs more, in place."""
    module = student.network.module
    targets = np.column_stack([soft.probabilities[soft.rows_of(learn.ids)], np.ones(len(learn))])
    wanted = soft.probabilities[soft.rows_of(choose.ids)].argmax(1)
    with compact_tables(module, student.encode(learn.texts), student.encode(choose.texts), frozen=True) as (rows, held):
        train(
            module,
            rows,
            targets,
            lambda logits, target: distillation_loss(
                logits, target[:, :-1], target[:, -1], temperature=config.loss.temperature, hard=config.loss.hard
            ),
            lambda trained: float((predict(trained, held).argmax(1) == wanted).mean()),
            config.optimisation,
            "distilling again",
        )


def main() -> None:
    """Measure the student that is named."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("task", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("student")
    parser.add_argument("--core", type=int, default=None, help="run on this core alone")
    parser.add_argument("--epochs", type=int, default=0)
    given = parser.parse_args()
    if given.core is not None:
        os.sched_setaffinity(0, {given.core})
    run = Run(load_task(given.task), given.run)
    splits, soft = run.splits(), run.soft_labels()
    known = set(soft.ids)
    learn, choose, test = (
        split.take([row for row, name in enumerate(split.ids) if name in known])
        for split in (splits.train, splits.validation, splits.test)
    )
    said = soft.probabilities[soft.rows_of(test.ids)].argmax(axis=1)
    config = run.task.students[given.student]
    config = config.model_copy(update={"optimisation": config.optimisation.model_copy(update={"epochs": given.epochs})})
    student = load_student(run.student(given.student).path)
    ranked = ranks(student, evenly_spaced(learn.texts, RANKING_TEXTS))
    typical, timed = evenly_spaced(choose.texts, TYPICAL_TEXTS), evenly_spaced(test.texts, TIMED_TEXTS)
    print(f"{given.student}, int8, {len(test.texts):,} texts, {given.epochs} epochs after pruning\n")
    print("| units | heads | share of the time (quartiles) | agreement with the teacher | points | MiB |")
    print("|---|---|---|---|---|---|")
    with TemporaryDirectory() as scratch:
        whole, agreed = None, None
        for width in WIDTHS:
            for heads in HEADS:
                smaller = pruned(student, ranked, width, heads)
                if given.epochs and (width < 1 or heads < 1):
                    distilled(smaller, run, soft, learn, choose, config)
                graphs = make(smaller, Path(scratch) / f"{width}-{heads}", typical)
                own = load(smaller, {INT8: graphs[INT8]})[INT8]
                right = own.probabilities(test.texts).argmax(axis=1) == said
                whole, agreed = (own, right) if whole is None or agreed is None else (whole, agreed)
                speeds = measure({"whole": whole, "pruned": own}, timed, rounds=ROUNDS)
                low, high = speeds.quartiles("pruned", "whole")
                print(
                    f"| {100 * width:.0f} % | {100 * heads:.0f} % | {speeds.ratio('pruned', 'whole'):.3f} "
                    f"({low:.3f} to {high:.3f}) | {100 * right.mean():.2f} % | {difference(right, agreed)} "
                    f"| {graphs[INT8].stat().st_size / 2**20:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
