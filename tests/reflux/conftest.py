"""A small task for tests that run a whole one."""

from __future__ import annotations

import pytest
import yaml


@pytest.fixture(scope="module")
def task(tmp_path_factory, tiny_encoder, tiny_teacher, keyword_rows, write_csv):
    """A task file: keyword rows, labelled by a bundle, for one small student."""
    folder = tmp_path_factory.mktemp("a [red] task")  # what rich would take for markup
    for name, count, seed in (("train", 150, 1), ("test", 60, 2)):
        write_csv(folder / f"{name}.csv", keyword_rows(count, seed))
    described = {
        "name": "keywords",
        "data": {
            "train": {"path": "train.csv", "label": "label"},
            "test": {"path": "test.csv", "label": "label"},
            "validation": 0.2,
        },
        "teacher": {"kind": "bundle", "path": str(tiny_teacher.path), "usd_per_hour": 1.0},
        "students": {
            "small": {
                "family": "static",
                "model": str(tiny_encoder),
                "hidden": 16,
                "max_tokens": 32,
                "optimisation": {"epochs": 1, "learning_rate": 1e-2},
            }
        },
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(described))
    return folder / "task.yaml"
