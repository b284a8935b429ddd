"""How Argo Rollouts judges an analysis, for the conditions that ours consist of; by its documentation and its source.

A measurement is Failed if the failure condition holds, Successful if only the success condition does, and Inconclusive
if both are given and neither holds; a query or a condition that cannot be evaluated is an Error. An analysis is as bad
as its worst metric, and ends at its first metric that is over a limit.
"""

from __future__ import annotations

import ast
import math
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any

Query = Callable[[str], Awaitable[list[float]]]
"""Runs a query and returns the values of its vector. Raises if it cannot."""

CONSECUTIVE_ERRORS = 4
"""Argo's default of `consecutiveErrorLimit`."""


class Phase(StrEnum):
    """The outcome of a measurement or of an analysis, from the best to the worst."""

    SUCCESSFUL = "Successful"  # the rollout goes on
    INCONCLUSIVE = "Inconclusive"  # it pauses
    ERROR = "Error"  # it is aborted, and the stable version serves
    FAILED = "Failed"  # likewise


async def analyse(template: Mapping[str, Any], arguments: Mapping[str, str], query: Query) -> dict[str, Phase]:
    """Return the phase of every metric of an AnalysisTemplate. Between measurements no time passes."""
    found = {}
    for metric in template["spec"]["metrics"]:
        text = filled(metric["provider"]["prometheus"]["query"], arguments)
        found[metric["name"]] = await _metric(metric, text, query)
    return found


def worst(phases: Mapping[str, Phase]) -> Phase:
    """Return the phase of an analysis."""
    return max(phases.values(), key=list(Phase).index)


def filled(text: str, arguments: Mapping[str, str]) -> str:
    """Return a query with its arguments. Raises KeyError for one that is not given."""
    return re.sub(r"\{\{\s*args\.([\w-]+)\s*\}\}", lambda found: arguments[found[1]], text)


async def _metric(metric: Mapping[str, Any], text: str, query: Query) -> Phase:
    counts: Counter[Phase] = Counter()
    errors = 0
    while True:
        phase = await _measure(metric, text, query)
        counts[phase] += 1
        errors = errors + 1 if phase is Phase.ERROR else 0
        if counts[Phase.FAILED] > metric.get("failureLimit", 0):
            return Phase.FAILED
        if counts[Phase.INCONCLUSIVE] > metric.get("inconclusiveLimit", 0):
            return Phase.INCONCLUSIVE
        if errors > metric.get("consecutiveErrorLimit", CONSECUTIVE_ERRORS):
            return Phase.ERROR
        if counts.total() - counts[Phase.ERROR] >= metric["count"]:  # errors do not count
            return Phase.SUCCESSFUL


async def _measure(metric: Mapping[str, Any], text: str, query: Query) -> Phase:
    try:
        result = await query(text)
        fails, succeeds = (holds(metric[key], result) for key in ("failureCondition", "successCondition"))
    except Exception:
        return Phase.ERROR
    if fails:
        return Phase.FAILED
    return Phase.SUCCESSFUL if succeeds else Phase.INCONCLUSIVE


def holds(condition: str, result: Sequence[float]) -> bool:
    """Evaluate a condition of `&&`, `||`, `!`, comparisons, numbers, `result`, `len` and `isNaN`.

    Raises ValueError for anything else, and IndexError like Argo for an element that `result` does not have.
    """
    python = re.sub(r"!(?!=)", " not ", condition.replace("&&", " and ").replace("||", " or "))
    tree = ast.parse(python.strip(), mode="eval")
    allowed = (
        *(ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.Compare, ast.Constant),
        *(ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Subscript, ast.Call, ast.Name, ast.Load),
    )
    names = {"result": list(result), "len": len, "isNaN": math.isnan}
    for node in ast.walk(tree):
        if not isinstance(node, allowed) or (isinstance(node, ast.Name) and node.id not in names):
            raise ValueError(f"{ast.unparse(node)} in a condition is not understood: {condition}")
    return bool(eval(compile(tree, condition, "eval"), {"__builtins__": {}}, names))
