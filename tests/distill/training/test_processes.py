"""Two processes on CPUs that train together with accelerate end with a student as good as one process does."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import yaml

from distill.run import RECORD, Run
from distill.students.student import load_student
from distill.task import load_task
from tests.support import task_files
from tests.support.task_files import LABELLED


def test_two_processes_train_a_student_as_one_does(tmp_path, keyword_rows, tiny_encoder, write_csv):
    for seed, (name, count) in enumerate({"train": 300, "test": 120}.items(), start=1):
        write_csv(tmp_path / f"{name}.csv", keyword_rows(count, seed))
    fit = {"data": {"path": "train.csv", "label": "label"}, "optimisation": task_files.optimisation(2, 3e-3)}
    words = {**task_files.static(tiny_encoder, 8, batch_size=8, averaging=0.2), "embedding_phase": {"epochs": 1}}
    task = {
        "name": "keywords",
        "data": LABELLED,
        "teacher": {"kind": "local", "model": str(tiny_encoder), "fit": fit, "max_tokens": 32},
        "students": {"alone": words, "together": words},
    }
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(task))
    run = Run(load_task(tmp_path / "task.yaml"), tmp_path / "run")
    splits = run.make_data()
    run.make_labels()
    run.make_student("alone")
    # Not `accelerate launch`, which starts a single process on CPUs unless MPI is there.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, "-m", "reflux", "train", "task.yaml", "--output", "run"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    soft = run.soft_labels()
    said = soft.hard[soft.rows_of(splits.test.ids)]
    agreed = {}
    for name in task["students"]:
        folder = run.student(name).require("train")
        agreed[name] = (load_student(folder).logits(splits.test.texts).argmax(1) == said).mean()
    assert min(agreed.values()) > 0.8
    assert abs(agreed["alone"] - agreed["together"]) < 0.1
    # Together they see each row once an epoch, in half as many steps, and so end elsewhere.
    losses = [json.loads((run.student(name).path / RECORD).read_text())["losses"] for name in task["students"]]
    assert losses[0] != losses[1]
