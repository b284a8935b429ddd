"""The demonstration in small: the same path with a tiny encoder, few tickets and few requests."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console

from reflux import demo

TASK = {
    "name": "tiny-desk",
    "data": {
        "train": {"tickets": 200, "seed": 1},
        "validation": {"tickets": 60, "seed": 2},
        "test": {"tickets": 60, "seed": 3},
    },
    "students": {"static": {"family": "static", "model": "teacher", "max_tokens": 32, "optimisation": {"epochs": 2}}},
}


@pytest.fixture
def tiny_demo(tmp_path: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.set_num_threads(1)
    fit = {"data": {"tickets": 150, "seed": 4}, "optimisation": {"epochs": 1}}
    teacher = {"kind": "local", "model": str(tiny_encoder), "max_tokens": 32, "usd_per_hour": 0.1, "fit": fit}
    task = tmp_path / "task.yaml"
    task.write_text(yaml.safe_dump({**TASK, "teacher": teacher}))
    monkeypatch.setattr(demo, "TASK", task)
    monkeypatch.setattr(demo, "REQUESTS", 120)
    monkeypatch.setattr(demo, "SHADOW_RATE", 1.0)
    return tmp_path / "run"


def test_the_demo_ends_with_the_live_gap_beside_the_offline_one(tiny_demo: Path) -> None:
    output = io.StringIO()
    demo.demo(tiny_demo, Console(file=output, width=160), keep=False)
    shown = output.getvalue()
    gap = json.loads((tiny_demo / "report" / "gap.json").read_text())
    agreement = gap["students"]["static"]["gap"]["agreement"]["value"]
    assert f"{100 * (1 - agreement):.1f} %" in next(line for line in shown.splitlines() if "offline gap" in line)
    assert "live gap, 120 of 120 shadowed" in shown
    assert '"stopped"' in (tiny_demo / "service.log").read_text()
