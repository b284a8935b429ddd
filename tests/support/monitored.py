"""A small service as its monitoring sees it: three bands, calm and bad traffic, and the constants of its bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from prometheus_client.core import Metric

from service.shadow.rule_metrics import limits, log_factors, log_likelihood_ratios, window_weights
from service.telemetry.objectives import Objectives
from tests.support.promtool import LATE, Traffic, gauge, gauges

PROPENSITY = (0.02, 0.05, 0.4)
FORESEEN = np.array([0.002, 0.02, 0.3])
NULL = np.array([0.01, 0.05, 0.4])
SLO = 0.08
CALM = Traffic(
    requests=np.array([60.0, 30.0, 10.0]),
    sampled=np.array([1.2, 1.5, 4.0]),
    disagreed=np.array([0.0024, 0.03, 1.2]),
    expected=np.array([0.12, 0.6, 3.0]),
)
"""What a pod counts in a minute: a gap of 3.7 %."""

BAD = replace(CALM, disagreed=np.array([0.12, 0.45, 2.0]))
"""The same with a gap of 20 %."""


def constants(
    *pods: str,
    minutes: int = 200,
    propensity: Sequence[float] = PROPENSITY,
    version: str = "v1",
    changed: dict[str, float] | None = None,
) -> list[dict[str, str]]:
    """Return the gauges of constants of each pod, with `changed` limits."""
    limited = limits(version)
    limited.samples = [
        one._replace(value=(changed or {}).get(one.labels["limit"], one.value)) for one in limited.samples
    ]
    families = (
        limited,
        window_weights(version),
        log_factors(version, propensity, SLO, FORESEEN),
        log_likelihood_ratios(version, NULL),
        *(_versioned(family, version) for family in Objectives(0.999, 0.99, float(LATE)).collect()),
    )
    found = [one for pod in pods for one in gauges(pod, minutes, *families)]
    for pod in pods:
        found.append(gauge("reflux_model_info", 1.0, minutes, pod, version))
        found.append(gauge("reflux_gap_slo", SLO, minutes, pod, version))
    return found


def _versioned(family: Metric, version: str) -> Metric:
    """Return a family as the page of a model has it."""
    family.samples = [one._replace(labels={"model_version": version} | one.labels) for one in family.samples]
    return family
