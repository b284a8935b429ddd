"""A bundle is written to a free or empty folder, or in place of a bundle, never over anything else."""

from __future__ import annotations

import shutil
import threading

import pytest

from distill.errors import DistillError
from export.bundle.format import MANIFEST
from export.bundle.target import alone, require_new, require_replaceable


@pytest.fixture
def bundle(tiny_bundle, tmp_path):
    """The folder of a bundle."""
    return shutil.copytree(tiny_bundle.path, tmp_path / "bundle")


def test_what_is_in_the_way_of_a_new_folder_is_called_what_it_is(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    for free in (tmp_path / "new", tmp_path / "empty"):
        require_new(free)
    with pytest.raises(DistillError, match=r"file: is a file, and nothing is overwritten; name a new folder$"):
        require_new(tmp_path / "file")
    with pytest.raises(DistillError, match=r": is not an empty folder, and nothing is overwritten; give --to$"):
        require_new(tmp_path, "give --to")


def test_a_free_folder_an_empty_one_and_a_bundle_may_be_replaced(bundle, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(bundle)
    for folder in (tmp_path / "new", tmp_path / "empty", bundle):
        assert require_replaceable(folder, keep=[tmp_path / "other"]) == folder
    assert require_replaceable(tmp_path / "link") == bundle


def test_a_bundle_whose_manifest_is_damaged_may_be_replaced(bundle):
    (bundle / "anchors.jsonl").unlink(missing_ok=True)
    (bundle / MANIFEST).write_text("{")
    assert require_replaceable(bundle) == bundle


@pytest.mark.parametrize("manifest", ["{}", "[]", "{", '{"files": {}}'])
def test_a_folder_whose_manifest_is_of_something_else_is_kept(tmp_path, manifest):
    (tmp_path / MANIFEST).write_text(manifest)
    (tmp_path / "background.js").write_text("mine")
    with pytest.raises(DistillError, match=r"holds background\.js beside a bundle"):
        require_replaceable(tmp_path)


def test_what_a_bundle_is_made_of_is_kept(bundle, tmp_path):
    (tmp_path / "link").symlink_to(bundle)
    for folder in (bundle, tmp_path / "link", tmp_path, bundle / "new"):
        with pytest.raises(DistillError, match=f"{bundle} is read to make it, and is not overwritten"):
            require_replaceable(folder, keep=[bundle])


def test_what_a_killed_process_left_is_removed_but_not_that_of_one_that_writes(tmp_path):
    (tmp_path / ".bundle-0a_9z8y7").mkdir()
    seen = []

    def write():
        with alone(tmp_path / "bundle"):
            seen.append("second")

    second = threading.Thread(target=write)
    with alone(tmp_path / "bundle"):
        assert not (tmp_path / ".bundle-0a_9z8y7").exists()
        (tmp_path / ".bundle-11111111").mkdir()
        second.start()
        second.join(0.05)
        assert seen == []
        assert (tmp_path / ".bundle-11111111").exists()
    second.join()
    assert seen == ["second"]
    assert list(tmp_path.iterdir()) == []
