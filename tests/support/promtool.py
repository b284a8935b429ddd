"""Traffic of pods as Prometheus would have scraped it every minute, and promtool, which runs the rules on it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from prometheus_client.core import Metric

from service.monitor.cells import Cells
from service.shadow.outcome import OUTCOMES

RULES = Path(__file__).parents[2] / "k8s" / "monitoring" / "rules.yaml"
PROMTOOL = shutil.which("promtool")
LATE = "0.1"
"""The bucket of answers in time."""


@dataclass(frozen=True)
class Traffic:
    """What a pod counts in a minute, per band [B]: `lost` of its samples end as `outcome`.

    Without `eligible`, no coin is tossed. Beside these requests, `failed` are not answered; of those that are, `slow`
    are answered late. `missing` of the samples of each band are nowhere, `defects` texts are not counted.
    """

    requests: Any
    sampled: Any
    disagreed: Any
    expected: Any
    lost: Any = 0.0
    outcome: str = "budget"
    eligible: bool = True
    failed: float = 0.0
    slow: float = 0.0
    missing: float = 0.0
    defects: float = 0.0

    def cells(self, propensity: Any, minutes: float) -> Cells:
        """Return the same as cells of one slot, of `minutes`."""
        bands = len(propensity)
        requests, sampled, disagreed, expected, lost = (
            np.broadcast_to(np.asarray(value, dtype=float), bands) * minutes
            for value in (self.requests, self.sampled, self.disagreed, self.expected, self.lost)
        )
        return Cells.of(
            slot=np.zeros(bands),
            band=np.arange(bands),
            propensity=np.asarray(propensity),
            requests=requests,
            expected=expected,
            sampled=sampled,
            lost=lost,
            agreed=sampled - lost - disagreed,
            disagreed=disagreed,
        )


@dataclass
class Pod:
    """One pod of a version: its counters by name and labels, minute by minute, from the first scrape on."""

    name: str
    propensity: Any
    version: str = "v1"
    _values: dict[tuple[str, ...], list[str]] = field(default_factory=dict)
    _now: dict[tuple[str, ...], float] = field(default_factory=dict)

    def absent(self, minutes: int) -> Pod:
        """Let the pod not exist for `minutes`."""
        for key in self._keys():
            self._values.setdefault(key, []).append(f"_x{minutes - 1}" if minutes > 1 else "_")
        return self

    def born(self, count: float = 0.0) -> Pod:
        """Start the process, at this minute, with all counters at `count`: 0 also after a restart."""
        for key in self._keys():
            self._values.setdefault(key, []).append(f"{count!r}")
            self._now[key] = count
        return self

    def serve(self, minutes: int, traffic: Traffic) -> Pod:
        """Serve `traffic` in each of the next `minutes`."""
        for key, rate in self._rates(traffic).items():
            now = self._now[key]
            # Each value in full: a sum that rounds to a little less than the last one would be a restart.
            self._values[key] += [repr(now + minute * rate) for minute in range(1, minutes + 1)]
            self._now[key] = now + minutes * rate
        return self

    def series(self) -> Iterator[dict[str, str]]:
        """Yield every series as promtool reads it."""
        for (name, *labels), values in self._values.items():
            known = [f'model_version="{self.version}"', f'pod="{self.name}"', *labels]
            yield {"series": f"{name}{{{', '.join(known)}}}", "values": " ".join(values)}

    def _keys(self) -> Iterable[tuple[str, ...]]:
        return self._rates(Traffic(0.0, 0.0, 0.0, 0.0))

    def _rates(self, traffic: Traffic) -> dict[tuple[str, ...], float]:
        cells = traffic.cells(self.propensity, 1.0)
        found: dict[tuple[str, ...], float] = {}
        for band, inverse in enumerate(1.0 / np.asarray(self.propensity)):
            label = f'band="b{band}"'
            compared, disagreed = float(cells.compared[band]), float(cells.disagreed[band])
            for name, value in (
                ("requests", cells.requests[band]),
                ("expected_disagreement", cells.expected[band]),
                ("shadow_eligible", cells.requests[band] * traffic.eligible),
                ("shadow_sampled", cells.sampled[band] + traffic.missing),
                ("shadow_resumed", 0.0),
                ("shadow_handed_over", 0.0),
                ("shadow_weight", compared * inverse),
                ("shadow_weight_sq", compared * inverse**2),
                ("shadow_disagree_weight", disagreed * inverse),
            ):
                found[f"reflux_{name}_total", label] = float(value)
            for agree, value in (("true", compared - disagreed), ("false", disagreed)):
                found["reflux_shadow_compared_total", label, f'agree="{agree}"'] = value
            for outcome in OUTCOMES:
                value = {"completed": compared, traffic.outcome: float(cells.lost[band])}.get(outcome, 0.0)
                found["reflux_shadow_results_total", label, f'outcome="{outcome}"'] = value
        answered = float(cells.requests.sum())
        for name in ("reflux_shadow_queue_depth", "reflux_shadow_inflight"):
            found[name,] = 0.0
        found["reflux_shadow_defects_total",] = traffic.defects
        found["reflux_answers_total", 'outcome="ok"'] = answered
        found["reflux_answers_total", 'outcome="failed"'] = traffic.failed
        found["reflux_answer_seconds_count",] = answered
        found["reflux_answer_seconds_bucket", f'le="{LATE}"'] = answered - traffic.slow
        found["reflux_answer_seconds_bucket", 'le="+Inf"'] = answered
        return found


def gauge(name: str, value: float, minutes: int, pod: str = "a", version: str = "v1", **labels: str) -> dict[str, str]:
    """Return one gauge of a pod that keeps its value for `minutes`."""
    metric = Metric(name, "", "gauge")
    metric.add_sample(name, {"model_version": version} | labels, value)
    return next(gauges(pod, minutes, metric))


def gauges(pod: str, minutes: int, *families: Metric) -> Iterator[dict[str, str]]:
    """Yield gauges of a pod that keep their value for `minutes`."""
    for family in families:
        for sample in family.samples:
            labels = ", ".join(f'{key}="{value}"' for key, value in ({"pod": pod} | sample.labels).items())
            yield {"series": f"{sample.name}{{{labels}}}", "values": f"{sample.value!r}x{minutes}"}


def near(minute: int, series: str, value: float, tolerance: float = 0.01) -> dict[str, Any]:
    """Return a test that the one `series`, `name{label="value"}`, is within `tolerance` of `value` at `minute`."""
    labels = series[series.index("{") :]
    expression = f"abs({series} - ({value!r})) < bool {tolerance!r}"
    return {"expr": expression, "eval_time": f"{minute}m", "exp_samples": [{"labels": labels, "value": 1}]}


def something(minute: int, expression: str) -> dict[str, Any]:
    """Return a test that an expression has a series at `minute`."""
    return {"expr": f"count({expression}) > bool 0", "eval_time": f"{minute}m", "exp_samples": [{"value": 1}]}


def nothing(minute: int, expression: str) -> dict[str, Any]:
    """Return a test that an expression has no series at `minute`."""
    return {"expr": expression, "eval_time": f"{minute}m", "exp_samples": []}


def firing(minute: int, *alerts: tuple[str, str]) -> dict[str, Any]:
    """Return a test that at `minute` these alerts fire, each with its model version, and no others."""
    expression = 'max by (alertname, model_version) (ALERTS{alertstate="firing"})'
    samples = [
        {"labels": f'{{alertname="{name}"' + f', model_version="{version}"' * bool(version) + "}", "value": 1}
        for name, version in alerts
    ]
    return {"expr": expression, "eval_time": f"{minute}m", "exp_samples": samples}


def run(
    folder: Path,
    series: Iterable[dict[str, str]],
    checks: list[dict[str, Any]],
    step: str = "1m",
    every: str | None = None,
) -> None:
    """Run the rules on the series, whose values are `step` apart, and the tests on what they record.

    The rules run once in each step, or `every` so often. Fails with promtool's words.
    """
    groups = [group["name"] for group in yaml.safe_load(RULES.read_text())["groups"]]
    test = {"interval": step, "input_series": [*series], "promql_expr_test": checks}
    whole = {
        "rule_files": [str(RULES)],
        "evaluation_interval": every or step,
        "group_eval_order": groups,
        "tests": [test],
    }
    file = folder / "test.yaml"
    file.write_text(yaml.safe_dump(whole, width=10_000))
    done = subprocess.run([PROMTOOL or "promtool", "test", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
