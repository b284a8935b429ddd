"""The monitoring rules for those who cannot wait for hours: without waiting, or with all durations shorter."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from tests.support.promtool import RULES

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
RANGE = re.compile(r"\[(\w+)\]")
WAITS = ("for", "keep_firing_for")


def impatient(folder: Path) -> Path:
    """Return a file of the rules, evaluated every second, with alerts that do not wait and end at once."""
    rules = yaml.safe_load(RULES.read_text())
    for group in rules["groups"]:
        group["interval"] = "1s"
        for rule in group["rules"]:
            for key in WAITS:
                rule.pop(key, None)
    return _written(folder, rules)


def hastened(folder: Path, factor: float) -> Path:
    """Return a file of the rules in which every duration is `factor` times as short; the labels keep their names.

    Windows, waits and intervals keep their proportions: at 60, with a scrape a second, an hour takes a minute.
    """
    rules = yaml.safe_load(RULES.read_text())
    for group in rules["groups"]:
        group["interval"] = shorter(group["interval"], factor)
        for rule in group["rules"]:
            rule["expr"] = RANGE.sub(lambda found: f"[{shorter(found[1], factor)}]", rule["expr"])
            rule |= {key: shorter(rule[key], factor) for key in WAITS if key in rule}
    return _written(folder, rules)


def shorter(duration: str, factor: float) -> str:
    """Return a duration such as `6h`, divided by `factor`, in milliseconds."""
    return f"{round(1000 * int(duration[:-1]) * SECONDS[duration[-1]] / factor)}ms"


def _written(folder: Path, rules: Any) -> Path:
    file = folder / "rules.yaml"
    file.write_text(yaml.safe_dump(rules, width=10_000))
    return file
