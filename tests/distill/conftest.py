"""What the tests of `distill` share: splits of keyword rows, a teacher's labels for them, and students trained once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # also for the processes that tests start

import numpy as np
import pytest
import torch

from distill.data.splits import Examples, Test, Train, Validation
from distill.labelling.soft_labels import SoftLabels
from distill.students.config import EncoderStudent, NgramsStudent, StaticStudent, StudentConfig
from distill.training.distil import DistilledStudent, distil

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make_split(keyword_rows: Callable[[int, int], list[tuple[str, str]]]) -> Callable[..., Any]:
    """`make_split(Train, count, seed)`: keyword rows with their gold labels as a split of that kind."""

    def make(kind: type[Examples], count: int, seed: int) -> Examples:
        texts, gold = zip(*keyword_rows(count, seed), strict=True)
        return kind(tuple(f"{kind.__name__.lower()}-{row}" for row in range(count)), texts, gold)

    return make


@pytest.fixture(scope="session")
def soft_for(labels: tuple[str, ...]) -> Callable[..., SoftLabels]:
    """`soft_for(*splits)`: the labels of a teacher that gives every row's gold label the probability 0.88."""

    def make(*splits: Examples) -> SoftLabels:
        gold = [labels.index(str(label)) for split in splits for label in split.gold]
        count = len(gold)
        return SoftLabels(
            ids=tuple(name for split in splits for name in split.ids),
            texts=tuple(text for split in splits for text in split.texts),
            labels=labels,
            probabilities=(0.04 + 0.84 * np.eye(len(labels))[gold]).astype(np.float32),
            methods=("local",) * count,
            covered=np.ones(count),
            tail=np.zeros(count),
            tokens=np.full(count, 10),
            cost_usd=np.zeros(count),
            seconds=np.zeros(count),
            teacher="local:oracle",
            teacher_version="1",
        )

    return make


@pytest.fixture(scope="session")
def splits(make_split: Callable[..., Any]) -> tuple[Train, Validation, Test]:
    """A train, a validation and a test split."""
    return make_split(Train, 320, 1), make_split(Validation, 80, 2), make_split(Test, 120, 3)


@pytest.fixture(scope="session")
def encoder_config(tiny_encoder: Path) -> EncoderStudent:
    """A student of the family `encoder` that learns keyword rows in seconds."""
    return EncoderStudent(
        family="encoder",
        model=str(tiny_encoder),
        layers=(0, 2),
        max_tokens=32,
        optimisation={"epochs": 8, "learning_rate": 3e-3},
    )


@pytest.fixture(scope="session")
def static_config(tiny_encoder: Path) -> StaticStudent:
    """A student of the family `static` that learns keyword rows in seconds."""
    return StaticStudent(
        family="static",
        model=str(tiny_encoder),
        hidden=32,
        max_tokens=32,
        optimisation={"epochs": 8, "learning_rate": 1e-2},
    )


@pytest.fixture(scope="session")
def ngrams_config(tiny_encoder: Path) -> NgramsStudent:
    """A student of the family `ngrams` that learns keyword rows in seconds."""
    return NgramsStudent(
        family="ngrams",
        model=str(tiny_encoder),
        buckets=512,
        width=16,
        max_tokens=32,
        optimisation={"epochs": 8, "learning_rate": 3e-2},
    )


@pytest.fixture(scope="session")
def trained_encoder(encoder_config, soft_for, splits) -> DistilledStudent:
    """A distilled `encoder`."""
    learn, choose, _ = splits
    return distil(encoder_config, soft_for(learn, choose), learn, choose, "training")


@pytest.fixture(scope="session")
def trained_static(static_config, soft_for, splits) -> DistilledStudent:
    """A distilled `static`."""
    learn, choose, _ = splits
    return distil(static_config, soft_for(learn, choose), learn, choose, "training")


@pytest.fixture(scope="session")
def trained_ngrams(ngrams_config, soft_for, splits) -> DistilledStudent:
    """A distilled `ngrams`."""
    learn, choose, _ = splits
    return distil(ngrams_config, soft_for(learn, choose), learn, choose, "training")


@pytest.fixture(scope="session", params=["encoder", "static", "ngrams"])
def family(request) -> str:
    """Each family that is distilled, in turn."""
    return request.param


@pytest.fixture(scope="session")
def config(family, encoder_config, static_config, ngrams_config) -> StudentConfig:
    """The configuration of a student of the family."""
    return {"encoder": encoder_config, "static": static_config, "ngrams": ngrams_config}[family]


@pytest.fixture(scope="session")
def trained(family, trained_encoder, trained_static, trained_ngrams) -> DistilledStudent:
    """A distilled student of the family."""
    return {"encoder": trained_encoder, "static": trained_static, "ngrams": trained_ngrams}[family]
