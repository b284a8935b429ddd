"""Measure how a bundle answers: time, throughput and memory, in a process that has loaded nothing else.

`python -m export.sweep.measure BUNDLE TEXTS` does it, and writes JSON; `measure_bundle` starts that process. A process
of its own has the memory of a server without its web framework, and no other student's graph in its caches. Texts are
tokenised in the measured time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from distill.errors import DistillError
from export.bundle.cascade import Answering, Cascade, load_classifier
from export.bundle.classifier import GraphTokenizer
from export.bundle.format import Bundle

LENGTHS = (16, 64, 128)
"""Tokens of the texts that show what length costs, special tokens included, as far as the student reads so many."""

TOGETHER = 32
_MOST_RUNS, _FEWEST_RUNS, _SECONDS = 200, 10, 1.0
"""Runs of a measurement: as many as fit into the seconds, within these limits."""


def measure_bundle(bundle: Bundle, texts: Sequence[str]) -> dict[str, Any]:
    """Measure a bundle on one thread of this machine, with texts of the task.

    Returns times in milliseconds: `alone` and `together` (runs of one text and of 32) each with `p50`, `p99`, `mean`
    and the number of `runs`; `by_length` the same for texts of some lengths in tokens; `texts_per_second` in runs of
    32; `memory_mib`, the most memory of the process, None where the system does not tell. Raises DistillError when the
    process fails.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "texts.json"
        path.write_text(json.dumps(list(texts)), encoding="utf-8")
        command = [sys.executable, "-m", "export.sweep.measure", str(bundle.path), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise DistillError(f"{bundle.path}: cannot be measured ({said[-1]}); try `reflux export --verify` on it")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure_answers(classifier: Answering, texts: Sequence[str], max_tokens: int) -> dict[str, Any]:
    """Measure what answers texts, in this process: the result of `measure_bundle` without its memory."""
    alone, together = _times(classifier, [[text] for text in texts]), _times(classifier, _groups(texts))
    tokenizer = (classifier.stages[0][0] if isinstance(classifier, Cascade) else classifier).tokenizer
    by_length = {}
    for length in (length for length in LENGTHS if length <= max_tokens):
        text = _text_of(tokenizer, texts, length)
        by_length[str(length)] = {
            "alone": _times(classifier, [[text]]),
            "together": _times(classifier, [[text] * TOGETHER]),
        }
    return {
        "alone": alone,
        "together": together,
        "texts_per_second": 1000 * TOGETHER / together["mean"],
        "by_length": by_length,
    }


def _groups(texts: Sequence[str]) -> list[list[str]]:
    """Return runs of 32 texts each, going over the texts again where they are too few."""
    count = -(-len(texts) // TOGETHER)
    return [[texts[(TOGETHER * group + at) % len(texts)] for at in range(TOGETHER)] for group in range(count)]


def _times(classifier: Answering, groups: Sequence[Sequence[str]]) -> dict[str, float]:
    """Time runs over groups of texts, in turn, after one that is not timed."""
    classifier.answer(groups[0])
    spent: list[float] = []
    end = time.perf_counter() + _SECONDS
    while len(spent) < _FEWEST_RUNS or (len(spent) < _MOST_RUNS and time.perf_counter() < end):
        start = time.perf_counter()
        classifier.answer(groups[len(spent) % len(groups)])
        spent.append(1000 * (time.perf_counter() - start))
    p50, p99 = np.quantile(spent, [0.5, 0.99])
    return {"p50": float(p50), "p99": float(p99), "mean": float(np.mean(spent)), "runs": len(spent)}


def _text_of(tokenizer: GraphTokenizer, texts: Sequence[str], length: int) -> str:
    """Return words of the texts that make `length` tokens, or a few more or less; more are cut."""
    source = " ".join(texts).split()
    words: list[str] = []
    while len(tokenizer.encode(" ".join(words) or "a").ids) < length and len(words) < 2 * length:
        words.append(source[len(words) % len(source)])
    return " ".join(words) or "a"


def _peak_memory() -> float | None:
    """Return the most memory that this process has had, in MiB. Not `getrusage`, which counts its parent's, too."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), None)
    return None if found is None else int(found) / 1024


def _main(folder: str, texts: str) -> None:
    bundle = Bundle.open(folder)
    found = measure_answers(load_classifier(bundle), json.loads(Path(texts).read_text()), bundle.manifest.max_tokens)
    sys.stdout.write(json.dumps({**found, "memory_mib": _peak_memory()}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
