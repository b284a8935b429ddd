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
from distill.students.student import TOKENIZER, Student
from distill.task import Export
from distill.truncation import truncate_at
from export.bundle.classifier import Classifier, Prediction
from export.bundle.format import FUSED, MODEL, PLAIN, PORTABLE
from export.bundle.session import has_gpu
from export.gates import Gate, enforce
from export.graph.attention import AttentionFusion
from export.graph.portable import make_portable
from export.graph.quantise import KINDS
from export.graph.variants import REDUCED, load_variants, make_variants
from export.recalibrate import recalibrate
from export.selection import Selector, evenly_spaced
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
    """Make the graph of a student to serve, in a folder for its files.

    `texts` are those of the validation split, `teacher` its probabilities [N, K] for them, `pool` the texts that the
    student learned from. A multi-label student gives each label of at least `threshold`. With `recalibrated`, a reduced
    graph gets a temperature of its own. Raises GateError when the fp32 graph does not compute what the student does, or
    when what was asked for does not pass (the variant, a trimmed vocabulary), or when attention is not fused that ONNX
    Runtime can fuse.
    """
    facts: dict[str, Any] = {}
    trimmed: list[Gate] = []
    if settings.trim_vocabulary:
        found = trim_vocabulary(student, pool, texts, settings.gates.agreement, name)
        student, trimmed, facts["vocabulary"] = found.student, [found.gate], {"kept": found.kept, "whole": found.whole}
    gpu, tokenizer = has_gpu(), folder / TOKENIZER
    with status(f"exporting {name}") as tell:
        tell("making its graphs")
        student.tokenizer.no_padding()
        truncate_at(student.tokenizer, student.max_tokens)
        student.tokenizer.save(str(tokenizer))
        export_onnx(student, folder / MODEL)
        typical = student.encode(evenly_spaced(texts, _TYPICAL_TEXTS))
        config = getattr(student.network.module, "config", None) if settings.variant != PLAIN else None
        graphs = make_variants(folder / MODEL, folder, config, typical, _reduced(settings.variant, gpu), gpu=gpu)
        attention = AttentionFusion.of(graphs.get(FUSED, graphs[PLAIN]), config)

        def load(graph: Path) -> Classifier:
            return load_variants({MODEL: graph}, tokenizer, student.max_tokens, len(student.labels))[MODEL]

        classifiers = load_variants(graphs, tokenizer, student.max_tokens, len(student.labels))
    cut = student.temperature * math.log(threshold / (1 - threshold)) if student.multi_label else None
    selector = Selector(student, texts, settings, name, cut, gpu)
    selection = selector.select(classifiers)
    fusion = [] if attention is None else attention.gates()
    enforce(fusion, f"{name}, fused graph", _UNFUSED)
    variant, temperature = selection.variant, student.temperature
    graph, served, answers = graphs[variant], classifiers[variant], selection.answers[variant]
    if recalibrated and variant in REDUCED:
        again = recalibrate(graph, answers, teacher, temperature, load, texts)
        facts["recalibrated"] = {"trained": temperature, "cross_entropy": [*again.cross_entropy]}
        graph, served, answers, temperature = again.graph, again.classifier, again.answers, again.temperature
    portable, checks = None, [*trimmed, *selection.gates, *fusion]
    if served.packed:
        portable = make_portable(graph, folder / PORTABLE)
        checks = [*checks, *selector.check_portable(load(portable), answers)]
    caveat = attention.caveat() if attention is not None and not gpu else None
    variants = selection.variants(teacher)
    milliseconds = selection.speeds.milliseconds
    measured = {
        "milliseconds": milliseconds[variant],
        "milliseconds_by_variant": milliseconds,
        "variants": {each: {**row, "bytes": graphs[each].stat().st_size} for each, row in variants.items()},
        "rows": selection.rows,
        "reason": selection.reason if caveat is None else f"{selection.reason}; {caveat}",
        "attention": attention and attention.as_dict(),
        "bytes": graph.stat().st_size,
        **facts,
    }
    return ServedGraph(graph, tokenizer, portable, served, answers, variant, temperature, checks, measured)


def _reduced(variant: str, gpu: bool) -> tuple[str, ...]:
    """Return the reduced variants to try: for `auto`, those that this machine has a use for."""
    if variant == "auto":
        return REDUCED if gpu else KINDS
    return (variant,) if variant in REDUCED else ()
