"""The limit: tokenise and run one text at a time in this process, without a server.

It runs the same code on the same texts in the same order as the service. The first line of stdin is the plan; each
further line is a number of seconds to measure, answered with a line on stdout.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from statistics import median

from export.bundle.classifier import Classifier
from export.bundle.format import Bundle

_WARM_UP = 0.2


@dataclass(frozen=True, slots=True)
class Loop:
    """Texts per second, and the median and the longest time of a text in milliseconds."""

    throughput: float
    milliseconds: float
    most: float


def run(classifier: Classifier, texts: list[str], seconds: float) -> Loop:
    """Classify the texts in turn for `seconds`."""
    took = []
    begin = now = time.perf_counter()
    for text in itertools.cycle(texts):
        classifier.classify(text)
        before, now = now, time.perf_counter()
        took.append(now - before)
        if now - begin >= seconds:
            break
    return Loop(len(took) / (now - begin), 1000 * median(took), 1000 * max(took))


def main() -> None:
    """Print the labels of the texts if the plan asks for them, otherwise one measurement per line of stdin."""
    plan = json.loads(sys.stdin.readline())
    os.sched_setaffinity(0, {plan["core"]})
    bundle = Bundle.open(plan["bundle"])
    classifier = Classifier.load(bundle)
    if plan.get("labels"):
        chosen = (classifier.classify(text).probabilities.argmax() for text in plan["texts"])
        print(json.dumps([bundle.manifest.labels[index] for index in chosen]))
        return
    for line in sys.stdin:
        run(classifier, plan["texts"], _WARM_UP)
        print(json.dumps(asdict(run(classifier, plan["texts"], float(line)))), flush=True)


if __name__ == "__main__":
    main()
