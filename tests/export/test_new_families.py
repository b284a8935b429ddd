"""Families that are new in transformers 5 pass every stage: fitted, labelling, distilled, exported and served.

A Qwen3.5 model teaches a student of another family, since ONNX has no operator for its linear attention.
"""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from distill.run import Run
from distill.students.transformers_versions import FIVE
from distill.task import load_task
from export.run import ExportRun
from service.settings import Settings
from tests.support.service_here import run_app
from tests.support.task_files import LABELLED, optimisation

pytestmark = pytest.mark.skipif(not FIVE, reason="transformers 4 does not know these families")

SPECIAL: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "max_position_embeddings": 66}
KINDS: dict[str, dict[str, Any]] = {
    "EuroBertConfig": {"mask_token_id": 3, "num_key_value_heads": 2},
    "NomicBertConfig": {},
    "Qwen3_5TextConfig": {
        "num_key_value_heads": 2,
        "head_dim": 16,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    },
}


@pytest.mark.parametrize(
    ("teacher", "student"),
    [
        ("EuroBertConfig", "EuroBertConfig"),
        ("NomicBertConfig", "NomicBertConfig"),
        ("Qwen3_5TextConfig", "NomicBertConfig"),
    ],
)
async def test_a_family_passes_from_the_teacher_to_the_service(
    teacher, student, tiny_model, keyword_rows, write_csv, tmp_path
):
    import transformers

    folders = {
        kind: str(tiny_model(getattr(transformers, kind), **{**SPECIAL, **KINDS[kind]})) for kind in {teacher, student}
    }
    for seed, (name, count) in enumerate({"gold": 120, "train": 200, "test": 60}.items(), start=1):
        write_csv(tmp_path / f"{name}.csv", keyword_rows(count, seed))
    learning = optimisation(6, 3e-3, batch_size=16)
    fit = {"data": {"path": "gold.csv", "label": "label"}, "optimisation": learning}
    small = {"family": "encoder", "model": folders[student], "layers": 1, "max_tokens": 32, "optimisation": learning}
    task = {
        "name": "keywords",
        "data": LABELLED,
        "teacher": {"kind": "local", "model": folders[teacher], "fit": fit, "max_tokens": 32},
        "students": {"small": small},
        "export": {"variant": "fp32"},
    }
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(task))
    run = Run(load_task(tmp_path / "task.yaml"), tmp_path / "run")
    run.make_data()
    run.make_labels()
    run.make_student("small")
    exported = ExportRun(run)
    exported.make_bundles()
    rows = keyword_rows(60, 9)
    async with run_app(Settings(bundle=tmp_path / "run" / "bundle")) as client:
        reply = await client.post("/classify", json={"texts": [text for text, _ in rows]})
    given = [row["label"] for row in reply.json()["results"]]
    assert sum(label == gold for label, (_, gold) in zip(given, rows, strict=True)) / len(rows) > 0.5  # of four labels
