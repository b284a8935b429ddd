"""Measure how soon a teacher that changes is found by its anchors, and how often a steady one is suspected.

Simulated teachers of 77 classes with noise of their own answer 200 anchors a day, as the shadow asks about them.

    python benchmarks/teacher_drift.py [--runs 100]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where `tests` are

from service.monitor.teacher_drift import LOG_DRIFT, TeacherDrift
from tests.support.changing_teacher import ANCHORS, NOISES, ChangingTeacher

CLASSES_CHANGED = (1, 2, 3, 8, 16)
DAYS = (0, 1, 7, 30)
"""Days of anchors before the change; 0: it changed before it was asked about any."""


def found_within_a_day(kind: str, noise: float, classes: int, day: int, runs: int) -> float:
    """Return the share of runs in which the change is found by the first round after it."""
    found = 0
    for seed in range(runs):
        teacher = ChangingTeacher.of(kind, noise, seed)
        drift = TeacherDrift(teacher.recorded())
        for _ in range(day):
            teacher.ask_round(drift)
        teacher.change(classes)
        found += teacher.ask_round(drift) >= LOG_DRIFT
    return found / runs


def quiet(kind: str, noise: float, runs: int, days: int = 30) -> tuple[int, float, float]:
    """Return the number of runs with a false alarm in so many days, the largest log e-value, and calls per anchor."""
    alarms, highest, asked = 0, float("-inf"), 0
    for seed in range(runs):
        teacher = ChangingTeacher.of(kind, noise, 10_000 + seed)
        drift = TeacherDrift(teacher.recorded())
        most = max(teacher.ask_round(drift) for _ in range(days))
        alarms, highest, asked = alarms + (most >= LOG_DRIFT), max(highest, most), asked + drift.asked
    return alarms, highest, asked / (runs * days * ANCHORS)


def main() -> None:
    """Print a table for each noise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    runs = parser.parse_args().runs
    for name, (kind, noise) in NOISES.items():
        alarms, highest, calls = quiet(kind, noise, runs)
        print(f"\nnoise {name}: {alarms} of {runs} false alarms in 30 days, {calls:.2f} calls per anchor and day")
        print(f"  largest log e-value without a change {highest:.1f}; a drift from {LOG_DRIFT:.1f} on")
        print(f"  {'classes changed':<17}" + "".join(f"{f'day {day}':>8}" for day in DAYS))
        for classes in CLASSES_CHANGED:
            shares = (found_within_a_day(kind, noise, classes, day, runs) for day in DAYS)
            print(f"  {classes:<17}" + "".join(f"{share:>8.0%}" for share in shares), flush=True)


if __name__ == "__main__":
    main()
