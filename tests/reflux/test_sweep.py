"""`reflux sweep` trains, measures and prints; its exit code says whether a candidate fits."""

from __future__ import annotations

import sys

import pytest
import yaml

from export.sweep import sweep as module
from reflux import cli as command


@pytest.fixture(scope="module")
def small(task):
    """The task with a sweep of one more student, and one that cannot be trained."""
    described = yaml.safe_load(task.read_text())
    model = described["students"]["small"]["model"]
    described["sweep"] = {
        "students": {
            "ngrams": {"family": "ngrams", "model": model, "buckets": 64, "width": 4},
            "deep": {"family": "encoder", "model": model, "layers": 9},
        }
    }
    path = task.parent / "sweep.yaml"
    path.write_text(yaml.safe_dump(described))
    return path


@pytest.fixture
def sweep(small, monkeypatch, capsys):
    """`sweep(*options)`: the exit code and what was printed. Bundles take no time to measure."""
    times = {"p50": 0.5, "p99": 1.0, "mean": 0.5, "runs": 9}
    both = {"alone": times, "together": times}
    found = {**both, "texts_per_second": 64_000, "by_length": {}, "memory_mib": None}
    monkeypatch.setattr(module, "measure_bundle", lambda bundle, texts: found)

    def run(*options):
        monkeypatch.setattr(
            sys, "argv", ["reflux", "sweep", str(small), "--output", str(small.parent / "run"), *options]
        )
        with pytest.raises(SystemExit) as ended:
            command.main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out + captured.err

    return run


def test_the_exit_code_says_whether_a_candidate_fits(sweep, small):
    folder = small.parent / "run"
    code, printed = sweep()
    assert code == 0
    assert "ngrams" in printed
    assert "small" in printed
    assert "Give a limit" in printed
    assert "warning: sweep.students.deep.max_tokens: " in printed
    assert f"{folder}/sweep/sweep.md" in printed
    assert "bundle to serve" not in printed
    code, printed = sweep("--latency-ms", "0.5")
    assert code == 0
    assert f"bundle to serve: {folder}/bundles/" in printed
    assert (folder / "sweep" / "sweep.json").is_file()
    code, printed = sweep("--cost-per-million", "0.000001")
    assert code == 3
    assert "No candidate is within $1e-06 per million texts" in printed
