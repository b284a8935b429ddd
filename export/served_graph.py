"""Make the graph that a bundle serves: export a student, select the best of its variants, and fit its temperature.

`selection` decides which variant it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distill.progress import status
from distill.students.encoder import Encoder
from distill.students.student import TOKENIZER, Student
from distill.task import Export
from distill.truncation import truncate_at
from export.bundle.classifier import Classifier, Prediction
from export.bundle.format import FUSED, MODEL, PLAIN, PORTABLE, split_variant
from export.bundle.session import has_gpu
from export.gates import Gate, enforce
from export.graph.attention import AttentionFusion
from export.graph.portable import make_portable
from export.graph.quantise import KINDS
from export.graph.variants import REDUCED, load_variants, make_variants
from export.pruning.prune import prune
from export.recalibrate import recalibrate
from export.selection import Selector, evenly_spaced, failures
from export.torch_to_onnx import export_onnx
from export.trim_vocabulary import trim_vocabulary

Floats = npt.NDArray[np.float32]

_TYPICAL_TEXTS = 200
_UNFUSED = (
    "Install the versions of torch, transformers and onnxruntime in constraints.txt, or set export.variant to plain to "
    "serve the slower graph."
)


@dataclass(frozen=True, slots=True)
class ServedGraph:
    """A graph with its files, its answers to the validation texts, and what was measured of it and its rivals.

    `portable` is the graph beside it that takes ids and mask alone, None where `graph` does so itself.
    """

    graph: Path
    tokenizer: Path
    portable: Path | None
    classifier: Classifier
    answers: list[Prediction]
    variant: str
    temperature: float
    gates: list[Gate]
    measured: dict[str, Any]


def make_served_graph(
    student: Student,
    folder: Path,
    *,
    name: str,
    texts: Sequence[str],
    teacher: Floats,
    pool: Sequence[str],
    settings: Export,
    threshold: float,
    recalibrated: bool,
) -> ServedGraph:
    """Make the graph of a student to serve, in a folder for its files: its own, or that of a pruned form of it.

    `texts` are those of the validation split, `teacher` its probabilities [N, K] for them, `pool` the texts that the
    student learned from. A multi-label student gives each label of at least `threshold`. With `recalibrated`, a reduced
    graph gets a temperature of its own. A vocabulary is left whole where the trimmed one does not pass its gate. Raises
    GateError when the fp32 graph does not compute what the student does, when the variant that was asked for does not
    pass, or when attention is not fused that ONNX Runtime can fuse.
    """
    facts: dict[str, Any] = {}
    trimmed: list[Gate] = []
    if settings.trim_vocabulary:
        found = trim_vocabulary(student, pool, texts, settings.gates.agreement, name)
        trimmed = [found.gate]
        if found.gate.passed:
            student, facts["vocabulary"] = found.student, {"kept": found.kept, "whole": found.whole}
    prunable = student.network.family == Encoder.family
    pruned = prune(student, settings.prune, pool, texts, name) if settings.prune and prunable else []
    students = {"": student, **{each.suffix: each.student for each in pruned}}
    gpu, tokenizer = has_gpu(), folder / TOKENIZER
    with status(f"exporting {name}") as tell:
        tell("making its graphs")
        student.tokenizer.no_padding()
        truncate_at(student.tokenizer, student.max_tokens)
        student.tokenizer.save(str(tokenizer))
        typical = student.encode(evenly_spaced(texts, _TYPICAL_TEXTS))
        made = {
            suffix: _make_graphs(each, folder / f"made{suffix}", typical, settings.variant, gpu=gpu)
            for suffix, each in students.items()
        }
        graphs = {kind + suffix: graph for suffix, each in made.items() for kind, graph in each.paths.items()}

        def load(graph: Path) -> Classifier:
            return load_variants({MODEL: graph}, tokenizer, student.max_tokens, len(student.labels))[MODEL]

        classifiers = load_variants(graphs, tokenizer, student.max_tokens, len(student.labels))
    cut = student.temperature * math.log(threshold / (1 - threshold)) if student.multi_label else None
    selector = Selector(student, texts, settings, name, cut, gpu)
    selection = selector.select(classifiers, {suffix: each for suffix, each in students.items() if suffix})
    for suffix, each in made.items():
        enforce(each.fusion, f"{name}, {FUSED}{suffix} graph", _UNFUSED)
    variant, temperature = selection.variant, student.temperature
    kind, suffix = split_variant(variant)
    graph, served, answers = graphs[variant], classifiers[variant], selection.answers[variant]
    if recalibrated and (kind in REDUCED or suffix):
        again = recalibrate(graph, answers, teacher, temperature, load, texts)
        facts["recalibrated"] = {"trained": temperature, "cross_entropy": [*again.cross_entropy]}
        graph, served, answers, temperature = again.graph, again.classifier, again.answers, again.temperature
    portable, checks = None, [*trimmed, *selection.gates, *made[suffix].fusion]
    if served.packed:
        portable = make_portable(graph, folder / PORTABLE)
        checks = [*checks, *selector.check_portable(load(portable), answers)]
    if pruned:
        facts["pruned"] = {each.suffix.removeprefix("-"): each.as_dict() for each in pruned}
    attention = made[suffix].attention
    reasons = [selection.reason, *_left_out(student, settings, trimmed)]
    if attention is not None and not gpu and (caveat := attention.caveat()) is not None:
        reasons.append(caveat)
    variants = selection.variants(teacher)
    milliseconds = selection.speeds.milliseconds
    measured = {
        "milliseconds": milliseconds[variant],
        "milliseconds_by_variant": milliseconds,
        "variants": {each: {**row, "bytes": graphs[each].stat().st_size} for each, row in variants.items()},
        "rows": selection.rows,
        "reason": "; ".join(reasons),
        "attention": attention and attention.as_dict(),
        "bytes": graph.stat().st_size,
        **facts,
    }
    return ServedGraph(graph, tokenizer, portable, served, answers, variant, temperature, checks, measured)


def _left_out(student: Student, settings: Export, trimmed: Sequence[Gate]) -> list[str]:
    """Say what was asked for and not done to the student; `trimmed` are the gates of its trimmed vocabulary."""
    reasons = []
    if why := failures(trimmed):
        reasons.append(f"the vocabulary was not trimmed ({why})")
    if settings.prune and student.network.family != Encoder.family:
        reasons.append(f"a student of the family {student.network.family} is not pruned")
    return reasons


@dataclass(frozen=True, slots=True)
class _Graphs:
    """The graphs of a student, by variant, and how much of their attention is fused."""

    paths: dict[str, Path]
    attention: AttentionFusion | None

    @property
    def fusion(self) -> list[Gate]:
        """The gates on fused attention."""
        return [] if self.attention is None else self.attention.gates()


def _make_graphs(student: Student, folder: Path, typical: Sequence[list[int]], variant: str, *, gpu: bool) -> _Graphs:
    """Make the graphs of a student that are tried where `variant` was asked for; `typical` are token ids of texts."""
    folder.mkdir(exist_ok=True)
    export_onnx(student, folder / MODEL)
    config = getattr(student.network.module, "config", None) if variant != PLAIN else None
    paths = make_variants(folder / MODEL, folder, config, typical, _reduced(variant, gpu), gpu=gpu)
    return _Graphs(paths, AttentionFusion.of(paths.get(FUSED, paths[PLAIN]), config))


def _reduced(variant: str, gpu: bool) -> tuple[str, ...]:
    """Return the reduced variants to try: for `auto`, those that this machine has a use for."""
    if variant == "auto":
        return REDUCED if gpu else KINDS
    return (variant,) if variant in REDUCED else ()
