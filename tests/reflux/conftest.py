"""A small task for tests that run a whole one."""

import pytest
import yaml

from tests.support.task_files import LABELLED, static


@pytest.fixture(scope="module")
def task(tmp_path_factory, tiny_encoder, tiny_teacher, keyword_rows, write_csv):
    """A task file: keyword rows, labelled by a bundle, for one small student."""
    folder = tmp_path_factory.mktemp("a [red] task")  # what rich would take for markup
    for name, count, seed in (("train", 150, 1), ("test", 60, 2)):
        write_csv(folder / f"{name}.csv", keyword_rows(count, seed))
    described = {
        "name": "keywords",
        "data": LABELLED,
        "teacher": {"kind": "bundle", "path": str(tiny_teacher.path), "usd_per_hour": 1.0},
        "students": {"small": static(tiny_encoder, 1)},
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(described))
    return folder / "task.yaml"
