"""Recording rules of availability and latency: the share of bad answers, and how fast it uses up what is allowed."""

from __future__ import annotations

from k8s.monitoring.rules.rule import Group

WINDOWS = ("5m", "30m", "1h", "6h", "3d")


def answers_group() -> Group:
    """Return the rules. A client that left is no failure of the service; one that was turned away is."""
    group = Group("reflux-answers", "1m")
    for window in WINDOWS:
        group.record(
            "model:reflux_answers:increase",
            f'sum by (model_version) (increase(reflux_answers_total{{outcome!="left"}}[{window}]))',
            window=window,
        )
        group.record(
            "model:reflux_answers:error_ratio",
            f"""
            sum by (model_version) (rate(reflux_answers_total{{outcome!~"ok|left"}}[{window}]))
            / (sum by (model_version) (rate(reflux_answers_total{{outcome!="left"}}[{window}])) > 0)
            """,
            window=window,
        )
        group.record(
            "model:reflux_answers:slow_ratio",
            f"""
            1 - sum by (model_version) (
              sum by (model_version, le) (rate(reflux_answer_seconds_bucket[{window}]))
              and on (model_version, le) reflux_latency_objective
            )
            / (sum by (model_version) (rate(reflux_answer_seconds_count[{window}])) > 0)
            """,
            window=window,
        )
        for name, ratio, objective in (
            ("availability", "error_ratio", "reflux_availability_objective"),
            ("latency", "slow_ratio", "reflux_latency_objective"),
        ):
            group.record(
                f"model:reflux_{name}:burn",
                f"""
                model:reflux_answers:{ratio}{{window="{window}"}}
                / on (model_version) group_left () (1 - max by (model_version) ({objective}))
                """,
                window=window,
            )
    return group
