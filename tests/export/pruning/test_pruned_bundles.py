"""Pruned students compete for a bundle, by the same gates; their graphs are smaller, and as fused as any."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest

from distill.data.splits import Train
from distill.run import Run
from distill.task import Export, Gates, Prune, load_task
from export import selection
from export.build import build_bundle
from export.bundle.classifier import Classifier
from export.bundle.format import CARD, FUSED, INT8, INT8_DYNAMIC, INT8_QDQ, MODEL, PLAIN
from export.bundle.verify import verify
from export.graph.speed import Speeds
from export.run import ExportRun

PRUNED = "-pruned-25-25"
QUARTER = Prune(heads=0.25, feed_forward=0.25, epochs=2, learning_rate=1e-3)
HALF = Prune(heads=0.5, feed_forward=0.5, epochs=0)


@pytest.fixture
def make(students, baseline, keyword_rows, monkeypatch, tmp_path):
    """`make(times, prune=, agreement=, variant=, family=)`: a bundle, each variant being measured to take so long.

    Those without a time take 10 ms.
    """
    texts = tuple(text for text, _ in keyword_rows(96, 21))
    pool = Train(tuple(map(str, range(len(texts)))), texts, (None,) * len(texts))

    def build(times, prune=(QUARTER,), agreement=0.5, variant="auto", family="encoder"):
        monkeypatch.setattr(
            selection,
            "measure",
            lambda graphs, *_, **__: Speeds({name: np.array([times.get(name, 10.0) / 1000]) for name in graphs}),
        )
        return build_bundle(
            students[family],
            tmp_path / "bundle",
            name="small",
            baseline=dataclasses.replace(baseline, train=pool),
            settings=Export(variant=variant, gates=Gates(agreement=agreement), prune=prune),
            teacher={},
        )

    return build


def shapes(bundle):
    """The shapes of the matrices of a bundle's graph, and how many nodes of each kind it has."""
    graph = onnx.load(bundle.path / MODEL).graph
    kinds = [node.op_type for node in graph.node]
    return {tuple(tensor.dims) for tensor in graph.initializer if len(tensor.dims) == 2}, kinds


@pytest.mark.parametrize("kind", [PLAIN, FUSED, INT8, INT8_QDQ, INT8_DYNAMIC])
def test_every_kind_of_graph_of_a_pruned_student_may_be_served(make, validation, kind):
    bundle = make({FUSED: 2.0, kind: 1.5, kind + PRUNED: 0.5}, variant="fp32" if kind in (PLAIN, FUSED) else kind)
    manifest = bundle.manifest
    assert (manifest.variant, manifest.kind) == (kind + PRUNED, kind)
    assert manifest.measured["reason"] == f"{kind}{PRUNED} passed its gates"
    assert manifest.gates[f"{kind}{PRUNED}: agreement with fp32"]["passed"]
    assert manifest.gates[f"{kind}{PRUNED}, 16 texts in one run: agreement with each text alone"]["passed"]
    assert verify(bundle.path) == bundle
    assert len(Classifier.load(bundle).probabilities(validation.texts)) == len(validation)


def test_auto_tries_every_kind_of_a_pruned_student(make):
    bundle = make({FUSED: 2.0, INT8: 1.0, INT8_QDQ + PRUNED: 0.5})
    kinds = [PLAIN, FUSED, INT8, INT8_QDQ, INT8_DYNAMIC]
    assert list(bundle.manifest.measured["variants"]) == [*kinds, *(kind + PRUNED for kind in kinds)]
    assert bundle.manifest.variant == INT8_QDQ + PRUNED


def test_a_served_graph_is_smaller_and_fused_though_its_layers_have_different_numbers_of_heads(make):
    whole, kinds = shapes(make({PLAIN: 3.0, FUSED: 2.0}, prune=(), variant="fp32"))
    bundle = make({PLAIN: 3.0, FUSED: 2.0, FUSED + PRUNED: 1.0}, variant="fp32")
    found, pruned_kinds = shapes(bundle)
    facts = bundle.manifest.measured["pruned"]["pruned-25-25"]
    assert sorted(facts["kept"]["heads"]) == [1, 2]
    assert facts["kept"]["neurons"] == [48, 48]
    assert {(32, 64), (64, 32)} <= whole
    assert (32, 64) not in found  # (64, 32) is also the table of positions
    assert {(32, 48), (48, 32), (32, 16), (16, 32)} <= found
    assert pruned_kinds == kinds
    assert pruned_kinds.count("MultiHeadAttention") == 2
    expected = {"architecture": "bert", "layers": 2, "fused": 2, "unpadded": True}
    assert bundle.manifest.measured["attention"] == expected
    assert bundle.manifest.gates["fused: layers with fused attention"]["passed"]
    variants = bundle.manifest.measured["variants"]
    assert variants[FUSED + PRUNED]["bytes"] < variants[FUSED]["bytes"]
    text = (bundle.path / CARD).read_text(encoding="utf-8")
    heads = ", ".join(map(str, facts["kept"]["heads"]))
    assert (
        f"- Pruned: of each layer's attention heads it has {heads} of 2, of its feed-forward neurons 48, 48 of 64"
        in text
    )
    assert f"| {FUSED}{PRUNED} | 1.000 | 0.500 |" in text


def test_a_pruned_student_that_costs_too_much_agreement_is_refused_and_the_card_says_why(make):
    bundle = make({FUSED: 2.0, "fused-pruned-50-50": 0.1}, prune=(HALF,), agreement=0.995, variant="fp32")
    assert bundle.manifest.variant == FUSED
    gate = bundle.manifest.gates["fused-pruned-50-50: agreement with fp32"]
    assert (gate["passed"], gate["required"]) == (False, 0.995)
    assert (
        f"fused-pruned-50-50 was not taken (fused-pruned-50-50: agreement with fp32: {gate['measured']:.4g}"
        in (bundle.manifest.measured["reason"])
    )
    assert bundle.manifest.measured["variants"]["fused-pruned-50-50"]["refused"] is True
    text = (bundle.path / CARD).read_text(encoding="utf-8")
    assert f"| fused-pruned-50-50: agreement with fp32 | {gate['measured']:.6g} | 0.995 | no |" in text
    assert "- Pruned" not in text
    assert bundle.manifest.measured["pruned"]["pruned-50-50"]["epochs"] == 0


@pytest.mark.parametrize(
    ("times", "taken"),
    [
        ({f"{INT8}{PRUNED}": 0.96}, INT8),  # as fast as one another: the whole one
        ({f"{INT8}{PRUNED}": 0.9}, f"{INT8}{PRUNED}"),
        ({f"{INT8}{PRUNED}": 0.9, f"{INT8}-pruned-50-50": 0.88}, f"{INT8}{PRUNED}"),  # the one that is named first
        ({f"{INT8}{PRUNED}": 0.9, f"{INT8}-pruned-50-50": 0.5}, f"{INT8}-pruned-50-50"),
    ],
)
def test_the_fastest_that_passes_is_served_and_in_doubt_the_whole_one(make, times, taken):
    bundle = make({FUSED: 2.0, INT8: 1.0, **times}, prune=(QUARTER, HALF), agreement=0.3, variant=INT8)
    assert bundle.manifest.variant == taken
    assert list(bundle.manifest.measured["pruned"]) == ["pruned-25-25", "pruned-50-50"]


@pytest.mark.parametrize("asked", [INT8, INT8_QDQ, INT8_DYNAMIC])
def test_no_pruned_graph_of_another_kind_is_served_than_was_asked_for(make, asked):
    times = {FUSED: 2.0, asked: 1.5, asked + PRUNED: 1.0, FUSED + PRUNED: 0.5, PLAIN + PRUNED: 0.4}
    manifest = make(times, variant=asked).manifest
    assert manifest.variant == asked + PRUNED
    assert not any(gate.startswith(FUSED + PRUNED) for gate in manifest.gates)


def test_the_temperature_is_fitted_to_a_pruned_graph_of_32_bits(make):
    bundle = make({FUSED: 2.0, FUSED + PRUNED: 1.0}, variant="fp32")
    before, after = bundle.manifest.measured["recalibrated"]["cross_entropy"]
    assert after < before


@pytest.mark.parametrize("family", ["static", "ngrams"])
def test_a_student_without_attention_is_exported_whole_beside_one_that_is_pruned(make, family):
    bundle = make({}, variant="fp32", family=family)
    assert list(bundle.manifest.measured["variants"]) == [PLAIN]
    assert bundle.manifest.measured["reason"] == f"fp32 was asked for; a student of the family {family} is not pruned"


def test_a_graph_for_gpus_or_tensorrt_is_known_as_such_when_it_is_of_a_pruned_student(make):
    from export.bundle.providers import Device

    bundle = make({PLAIN: 3.0, PLAIN + PRUNED: 1.0}, variant=PLAIN)
    assert bundle.manifest.variant == PLAIN + PRUNED
    assert Device("tensorrt").for_bundle(bundle.manifest) == Device("tensorrt")


def test_the_key_makes_other_bundles_of_the_students_and_the_same_of_the_teacher(task_file, exported, tmp_path):
    pruned = task_file.with_name("pruned.yaml")
    text = task_file.read_text(encoding="utf-8")
    pruned.write_text(text.replace("export:\n", "export:\n  prune: [{heads: 0.25}]\n"), encoding="utf-8")
    other = ExportRun(Run(load_task(pruned), exported.run.root))
    assert other.task.export.prune == (Prune(heads=0.25),)
    for name in exported.task.students:
        assert exported.bundle_stage(name).done
        assert not other.bundle_stage(name).done
        assert other.run.student(name).done
    assert other.bundle_stage("teacher").done
