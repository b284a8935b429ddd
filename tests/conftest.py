"""Tiny bundles and models, and rows to train them on; `tests.support.tiny_bundle` says what they answer."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from export.bundle.format import Bundle, Golden, write_bundle
from tests.support import tiny_bundle as tiny
from tests.support.postgres import Server, SharedStore, server

MakeBundle = Callable[..., Bundle]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server, running, with a database `migrated`."""
    with server() as running:
        yield running


@pytest.fixture
def shared_store(postgres: Server) -> SharedStore:
    """An empty database with the tables of `reflux migrate`, of this test alone."""
    return SharedStore(postgres, postgres.create("migrated"))


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The driver of a browser that all tests of a process share."""
    from tests.support.browser import chromium

    with chromium(tmp_path_factory.mktemp("browser")) as driver:
        yield driver


@pytest.fixture
def browser(chromium: Any) -> Any:
    """A `tests.support.browser.Browser` with a tab of its own."""
    from tests.support.browser import new_tab

    return new_tab(chromium)


@pytest.fixture(scope="session")
def words() -> Mapping[str, tuple[str, ...]]:
    """The ten words that speak for each label; `" ".join(words[label][:n])` is a text of that label."""
    return tiny.WORDS


@pytest.fixture(scope="session")
def labels() -> tuple[str, ...]:
    """The labels of keyword rows, sorted."""
    return tuple(sorted(tiny.WORDS))


@pytest.fixture(scope="session")
def make_bundle() -> MakeBundle:
    """`make_bundle(path, *, name=, role=, labels=, flip=, multi_label=, threshold=)` writes one; see `build_bundle`."""
    return tiny.build_bundle


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A student over the four labels of `words`. Shared: copy it before changing its files."""
    return tiny.build_bundle(tmp_path_factory.mktemp("bundles") / "student")


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A teacher for `{"kind": "bundle", "path": ...}`: it takes `refund` for shipping and `late` for technical."""
    return tiny.build_bundle(
        tmp_path_factory.mktemp("bundles") / "teacher",
        name="tiny-teacher",
        role="teacher",
        flip={"refund": "shipping", "late": "technical"},
    )


@pytest.fixture
def bundle_copy(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """The folder of a copy of `tiny_bundle`, to be spoilt."""
    return shutil.copytree(tiny_bundle.path, tmp_path / "bundle")


@pytest.fixture
def rewrite(tiny_bundle: Bundle, tmp_path: Path) -> Callable[[Mapping[str, bytes]], Path]:
    """`rewrite({file: bytes})`: the folder of a sealed bundle like `tiny_bundle`, with other files."""

    def write(changes: Mapping[str, bytes]) -> Path:
        contents = {name: tiny_bundle.path / name for name in tiny_bundle.manifest.files}
        return write_bundle(tmp_path / "changed", {**contents, **changes}, tiny_bundle.manifest).path

    return write


@pytest.fixture
def golden(tiny_bundle: Bundle) -> Golden:
    """A golden row of `tiny_bundle` whose label is beyond doubt."""
    return next(row for row in tiny_bundle.golden() if max(row.probabilities) > 0.8)


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that transformers loads: a random BERT of three layers, 32 wide, that knows the words of `words`."""
    from transformers import BertConfig

    from tests.support.tiny_models import write_encoder

    folder = tmp_path_factory.mktemp("encoders") / "tiny-bert"
    return write_encoder(folder, BertConfig, max_position_embeddings=64, num_hidden_layers=3, intermediate_size=64)


@pytest.fixture
def tiny_model(tmp_path: Path) -> Callable[..., Path]:
    """`tiny_model(Config, **options)`: a folder of a random encoder; the options are those of `write_encoder`."""
    from tests.support.tiny_models import write_encoder

    return lambda config, **options: write_encoder(tmp_path / f"tiny-{config.model_type}", config, **options)


@pytest.fixture(scope="session")
def tiny_causal(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_causal(family, **options)`: a folder of a random causal language model; see `write_causal`."""
    from tests.support.tiny_models import write_causal

    def make(family: str = "llama", **options: Any) -> Path:
        return write_causal(tmp_path_factory.mktemp("causal") / f"tiny-{family}", family, **options)

    return make


@pytest.fixture(scope="session")
def tiny_classifier(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_classifier(kind, **options)`: a folder of a random sequence classifier; see `write_classifier`."""
    from tests.support.tiny_models import write_classifier

    return lambda kind, **options: write_classifier(
        tmp_path_factory.mktemp("classifiers") / f"tiny-{kind}", kind, **options
    )


@pytest.fixture(scope="session")
def keyword_rows() -> Callable[[int, int], list[tuple[str, str]]]:
    """`keyword_rows(count, seed)`: rows of (text, label), each text with more words of its label than of another."""
    return tiny.keyword_rows


@pytest.fixture(scope="session")
def write_csv() -> Callable[..., Path]:
    """`write_csv(path, rows, columns=("text", "label"))`: rows as a file with a line of columns. Returns the path."""

    def write(path: Path, rows: Sequence[Sequence[str]], columns: Sequence[str] = ("text", "label")) -> Path:
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([columns, *rows])
        return path

    return write
