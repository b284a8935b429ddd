"""What a rule is, and the pieces of PromQL that many rules share.

Windows are a label (`window="6h"`), not a part of the name, so that rules and dashboards can go over all windows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Rule = dict[str, object]

RUNBOOK = "https://reflux.example/docs/runbook.md"
"""Where docs/runbook.md is published; replace it by your own place."""


@dataclass(frozen=True)
class Group:
    """Rules that Prometheus evaluates one after another, every `interval`: a rule sees those above it as of now."""

    name: str
    interval: str
    rules: list[Rule] = field(default_factory=list)

    def record(self, name: str, expression: str, **labels: str) -> None:
        """Add a rule that records `expression` as `name`, with further labels."""
        self.rules.append({"record": name, "expr": lines(expression), **({"labels": labels} if labels else {})})

    def alert(
        self, name: str, expression: str, *, severity: str, wait: str, keep: str, summary: str, description: str
    ) -> None:
        """Add an alert that fires after `wait`, and for `keep` after its expression has no series any more."""
        self.rules.append(
            {
                "alert": name,
                "expr": lines(expression),
                "for": wait,
                "keep_firing_for": keep,
                "labels": {"severity": severity},
                "annotations": {
                    "summary": summary,
                    "description": description,
                    "runbook_url": f"{RUNBOOK}#{name.lower()}",
                },
            }
        )

    def as_dict(self) -> dict[str, object]:
        """Return the group as Prometheus reads it."""
        return {"name": self.name, "interval": self.interval, "rules": self.rules}


def lines(expression: str) -> str:
    """Return an expression without the indentation of its source."""
    lines = expression.strip("\n").rstrip().split("\n")
    indent = min(len(line) - len(line.lstrip()) for line in lines)
    return "\n".join(line[indent:] for line in lines)


def limit(name: str) -> str:
    """Return a limit of the bundle: one per version, though every pod has it. To be compared with a value per version.

    An operator must stand before it: `> on (model_version) group_left () ...` keeps the labels of the value.
    """
    return f'on (model_version) group_left () max by (model_version) (reflux_gap_limit{{limit="{name}"}})'


def log_mean_exp(series: str) -> str:
    """Return the logarithm of the mean e-value of `series` of a version, whose logarithms may have any size."""
    return f"""
        max by (model_version) ({series})
        + ln(avg by (model_version) ({_scaled(series)}))
    """


def log_weighted(series: str, weight: str, label: str) -> str:
    """Return the same for a weighted mean. `weight` is a gauge with a value for each value of `label`."""
    weights = f"max by (model_version, {label}) ({weight})"
    weighted = f"{_scaled(series)} * on (model_version, {label}) group_left () {weights}"
    present = f"{weights} and on (model_version, {label}) {series}"
    return f"""
        max by (model_version) ({series})
        + ln(
          sum by (model_version) ({weighted})
          / sum by (model_version) ({present})
        )
    """


def _scaled(series: str) -> str:
    """Return e-values in units of the largest, which do not overflow."""
    return f"exp({series} - on (model_version) group_left () max by (model_version) ({series}))"
