"""What the tests of `export` share: a student of each family with random weights, its graphs, and a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # also for the processes that tests start

import numpy as np
import onnx
import pytest
import torch
import yaml
from onnx import numpy_helper

from distill.data.splits import Validation
from distill.run import Run
from distill.students.config import EncoderStudent, NgramsStudent, StaticStudent
from distill.students.encoder import build as build_encoder
from distill.students.ngrams import build as build_ngrams
from distill.students.sequence_classifier import load_classifier
from distill.students.static import build as build_static
from distill.students.student import Student
from distill.task import Export, Gates, load_task
from export.build import Baseline, build_bundle
from export.bundle.format import Bundle
from export.graph.variants import fuse
from export.run import ExportRun
from export.torch_to_onnx import export_onnx
from tests.support import task_files
from tests.support.task_files import LABELLED, optimisation

torch.set_num_threads(1)

FAMILIES = ("encoder", "static", "ngrams", "sequence-classifier")
TEMPERATURE = 1.7
MAX_TOKENS = 24
LOOSE = Gates(agreement=0.5)


def _decided(student: Student, head: Any, texts: Sequence[str]) -> Student:
    """Scale the weights: with the initial ones of transformers, a student answers every text alike."""
    with torch.no_grad():
        for layer in student.network.module.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.weight.mul_(0.4 * layer.in_features**-0.5 / layer.weight.std())
        head.weight.mul_(float(3 / student.logits(texts).std(axis=0).mean()))
        head.bias.sub_(torch.from_numpy(student.logits(texts).mean(axis=0)))
    return student.with_temperature(TEMPERATURE)


@pytest.fixture(scope="session")
def students(
    tiny_encoder: Path, labels: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory, keyword_rows: Any
) -> dict[str, Student]:
    """A student of each family, untrained, over the labels of keyword rows. Shared: do not change them."""
    from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

    torch.manual_seed(0)
    model = str(tiny_encoder)
    encoder = build_encoder(EncoderStudent(family="encoder", model=model, layers=(0, 2), max_tokens=MAX_TOKENS), labels)
    static = build_static(
        StaticStudent(family="static", model=model, hidden=16, max_tokens=MAX_TOKENS), labels, ["my invoice is late"]
    )
    ngrams = build_ngrams(
        NgramsStudent(family="ngrams", model=model, buckets=512, width=32, max_tokens=MAX_TOKENS), labels
    )
    folder = tmp_path_factory.mktemp("classifiers") / "tiny"
    AutoModelForSequenceClassification.from_pretrained(
        model, num_labels=len(labels), id2label=dict(enumerate(labels))
    ).save_pretrained(folder)
    PreTrainedTokenizerFast.from_pretrained(model).save_pretrained(folder)
    classifier = load_classifier(str(folder), MAX_TOKENS)
    texts = [text for text, _ in keyword_rows(40, 9)]
    head = classifier.network.module.get_submodule("classifier.classifier")
    return {
        "encoder": _decided(encoder, encoder.network.module.head, texts),
        "static": _decided(static, static.network.module.head, texts),
        "ngrams": _decided(ngrams, ngrams.network.module.head, texts),
        "sequence-classifier": _decided(classifier, head, texts),
    }


@pytest.fixture(scope="session", params=FAMILIES)
def student(request: pytest.FixtureRequest, students: dict[str, Student]) -> Student:
    """The student of each family in turn."""
    return students[request.param]


@pytest.fixture(scope="session")
def graphs(students: dict[str, Student], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The fp32 graph of each family's student."""
    folder = tmp_path_factory.mktemp("graphs")
    for family, student in students.items():
        export_onnx(student, folder / f"{family}.onnx")
    return {family: folder / f"{family}.onnx" for family in students}


@pytest.fixture(scope="session")
def lively(
    students: dict[str, Student], graphs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Fused graphs in which each node has weights and biases of its own: new encoders have ones and zeros."""
    folder = tmp_path_factory.mktemp("lively")
    generator = np.random.default_rng(0)
    paths = {}
    for family in ("encoder", "sequence-classifier"):
        path = fuse(graphs[family], folder / f"{family}.onnx", students[family].network.module.config)
        model = onnx.load(path)
        constants = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in model.graph.node:
            for index, name in enumerate(node.input):
                tensor = constants.get(name)
                if tensor is not None and len(tensor.dims) == 1 and tensor.data_type == onnx.TensorProto.FLOAT:
                    values = numpy_helper.to_array(tensor)
                    values = values + generator.normal(scale=0.3, size=values.shape).astype(np.float32)
                    own = f"{node.output[0]}/vector{index}"
                    model.graph.initializer.append(numpy_helper.from_array(values, own))
                    node.input[index] = own
        onnx.save(model, path)
        paths[family] = path
    return paths


@pytest.fixture(scope="session")
def validation(keyword_rows: Callable[[int, int], list[tuple[str, str]]]) -> Validation:
    """Eighty keyword rows."""
    texts, gold = zip(*keyword_rows(80, 5), strict=True)
    return Validation(tuple(f"validation-{row}" for row in range(len(texts))), texts, gold)


@pytest.fixture(scope="session")
def baseline(validation: Validation, labels: tuple[str, ...]) -> Baseline:
    """The validation split, with a teacher that is right about every row."""
    gold = [labels.index(str(label)) for label in validation.gold]
    return Baseline(validation, np.eye(len(labels), dtype=np.float32)[gold])


@pytest.fixture(scope="session")
def build(baseline: Baseline) -> Callable[..., Bundle]:
    """`build(student, path, variant, **settings)`: the bundle of a student; int8 and fp16 need little agreement."""

    def make(student: Student, path: Path, variant: str = "fp32", *, gates: Gates = LOOSE, **settings: Any) -> Bundle:
        given = {"name": "small", "baseline": baseline, "teacher": {"name": "local:big", "version": "v7"}, **settings}
        return build_bundle(student, path, settings=Export(variant=variant, gates=gates), **given)

    return make


@pytest.fixture(scope="session")
def task_file(tmp_path_factory: pytest.TempPathFactory, keyword_rows: Any, tiny_encoder: Path, write_csv: Any) -> Path:
    """A task whose teacher is fine-tuned on gold labels, with a student of each family."""
    folder = tmp_path_factory.mktemp("task")
    for seed, (name, count) in enumerate({"gold": 120, "train": 240, "test": 100}.items(), start=1):
        write_csv(folder / f"{name}.csv", keyword_rows(count, seed))
    fit = {"data": {"path": "gold.csv", "label": "label"}, "optimisation": optimisation(6, 3e-3, batch_size=16)}
    task = {
        "name": "keywords",
        "data": LABELLED,
        "teacher": {"kind": "local", "model": str(tiny_encoder), "fit": fit, "max_tokens": 32, "usd_per_hour": 3.6},
        "students": {
            "small": task_files.static(tiny_encoder, 2, batch_size=16),
            "large": task_files.encoder(tiny_encoder, 2, batch_size=16),
        },
        "export": {"variant": "fp32"},
        "budget": {"usd_per_hour": 0.36},
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(task))
    return folder / "task.yaml"


@pytest.fixture(scope="session")
def exported(task_file: Path) -> ExportRun:
    """The task's run with every stage done. Shared: copy its folder before changing it."""
    run = Run(load_task(task_file), task_file.parent / "run")
    run.make_data()
    run.make_labels()
    for name in run.task.students:
        run.make_student(name)
    exported = ExportRun(run)
    exported.make_bundles()
    exported.make_report()
    return exported
