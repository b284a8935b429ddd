"""Recording rules of one window: the counts of all pods, the gap with its interval, and the evidence.

They repeat `service.monitor` (windows, gap, gap_evalues, evalues) on the counters, for all pods of a bundle version
together. What counters cannot tell is left out: losses are not adjusted for by hour, a band without a comparison is
dropped instead of joining its neighbour (`coverage` says how much that is), and no hour is left out of the mirror.
"""

from __future__ import annotations

from k8s.monitoring.rules.evidence import add_evidence
from k8s.monitoring.rules.rule import Group, limit

INTERVALS = {"1h": "1m", "6h": "1m", "1d": "4m", "7d": "4m"}
"""How often each window is evaluated: long ones less often, but before a sample is stale, which is after 5 minutes."""

COUNTERS = (
    "reflux_requests",
    "reflux_expected_disagreement",
    "reflux_shadow_eligible",
    "reflux_shadow_sampled",
    "reflux_shadow_weight",
    "reflux_shadow_weight_sq",
    "reflux_shadow_disagree_weight",
)


def window_group(window: str) -> Group:
    """Return the rules of `window`, one of INTERVALS."""
    group = Group(f"reflux-window-{window}", INTERVALS[window])
    for rules in (_counts, _gap, _interval, _losses, add_evidence):
        rules(group, window)
    return group


def _counts(group: Group, window: str) -> None:
    for name in COUNTERS:
        expression = f"sum by (model_version, band) (increase({name}_total[{window}]))"
        group.record(f"model_band:{name}:increase", expression, window=window)
    group.record(
        "model_band_agree:reflux_shadow_compared:increase",
        f"sum by (model_version, band, agree) (increase(reflux_shadow_compared_total[{window}]))",
        window=window,
    )
    group.record(
        "model_band:reflux_shadow_lost:increase",
        f'sum by (model_version, band) (increase(reflux_shadow_results_total{{outcome!="completed"}}[{window}]))',
        window=window,
    )
    for name in ("requests", "shadow_eligible", "shadow_sampled", "shadow_lost"):
        group.record(
            f"model:reflux_{name}:increase",
            f'sum by (model_version) (model_band:reflux_{name}:increase{{window="{window}"}})',
            window=window,
        )
    group.record(
        "model:reflux_shadow_compared:increase",
        f'sum by (model_version) (model_band_agree:reflux_shadow_compared:increase{{window="{window}"}})',
        window=window,
    )
    group.record(
        "model:reflux_shadow_cost_usd:increase",
        f"sum by (model_version) (increase(reflux_shadow_cost_usd_total[{window}]))",
        window=window,
    )


def _gap(group: Group, window: str) -> None:
    """Add the post-stratified gap: within a band comparisons weigh 1 / propensity, bands weigh their requests."""
    w = f'{{window="{window}"}}'
    group.record(
        "model_band:reflux_gap:ratio",
        f"""
        clamp_max(
          model_band:reflux_shadow_disagree_weight:increase{w}
          / (model_band:reflux_shadow_weight:increase{w} > 0), 1)
        """,
        window=window,
    )
    group.record(  # Kish's effective number of comparisons
        "model_band:reflux_gap:effective",
        f"""
        model_band:reflux_shadow_weight:increase{w} ^ 2
        / (model_band:reflux_shadow_weight_sq:increase{w} > 0)
        """,
        window=window,
    )
    group.record(
        "model_band:reflux_gap:share",
        f"""
        ((model_band:reflux_shadow_eligible:increase{w} > 0) and model_band:reflux_gap:ratio{w})
        / on (model_version) group_left ()
        sum by (model_version) ((model_band:reflux_shadow_eligible:increase{w} > 0) and model_band:reflux_gap:ratio{w})
        """,
        window=window,
    )
    group.record(
        "model:reflux_gap:ratio",
        f"sum by (model_version) (model_band:reflux_gap:share{w} * model_band:reflux_gap:ratio{w})",
        window=window,
    )
    group.record(
        "model:reflux_gap:expected",
        f"""
        sum by (model_version) (model_band:reflux_expected_disagreement:increase{w})
        / (sum by (model_version) (model:reflux_requests:increase{w}) > 0)
        """,
        window=window,
    )
    group.record(
        "model:reflux_gap:coverage",
        f"""
        sum by (model_version) (
          model_band:reflux_shadow_eligible:increase{w} and model_band:reflux_gap:ratio{w}
          or 0 * model_band:reflux_shadow_eligible:increase{w}
        )
        / (sum by (model_version) (model_band:reflux_shadow_eligible:increase{w}) > 0)
        """,
        window=window,
    )


def _interval(group: Group, window: str) -> None:
    """Add the standard error and the stratified Wilson interval (Yan and Su 2010), as `service.monitor.gap` has them.

    Half a disagreement and half an agreement are added to each band, so that one without a disagreement has a variance.
    """
    w = f'{{window="{window}"}}'
    ratio, n = f"model_band:reflux_gap:ratio{w}", f"model_band:reflux_gap:effective{w}"
    share, variance = f"model_band:reflux_gap:share{w}", f"model_band:reflux_gap:variance{w}"
    plain = f"({ratio} * (1 - {ratio}) / {n})"
    z, between = limit("interval_quantile"), f"model:reflux_gap:between{w}"
    group.record(
        "model_band:reflux_gap:variance",
        f"({ratio} * {n} + 0.5) * ({n} - {ratio} * {n} + 0.5) / ({n} + 1) ^ 3",
        window=window,
    )
    group.record(  # the requests are a sample of the traffic themselves
        "model:reflux_gap:between",
        f"""
        sum by (model_version) ({share} * ({ratio} - on (model_version) group_left () model:reflux_gap:ratio{w}) ^ 2)
        / sum by (model_version) (model:reflux_shadow_eligible:increase{w} > 0)
        """,
        window=window,
    )
    group.record(
        "model:reflux_gap:stderr",
        f"sqrt(sum by (model_version) ({share} ^ 2 * {variance}) + sum by (model_version) ({between}))",
        window=window,
    )
    reduced = "sqrt(sum by (model_version) ({s} ^ 2 * {v})) / (sum by (model_version) ({s} * sqrt({v})) > 0)"
    group.record(
        "model:reflux_gap:quantile",
        f"({reduced.format(s=share, v=variance)}) * {z}",
        window=window,
        end="upper",
    )
    group.record(
        "model:reflux_gap:quantile",
        f"""
        ({reduced.format(s=share, v=plain)}) * {z}
        or sum by (model_version) (model:reflux_gap:quantile{{window="{window}", end="upper"}})
        """,
        window=window,
        end="lower",
    )
    for end, sign, clamp, bound in (("lower", "-", "clamp_min", 0), ("upper", "+", "clamp_max", 1)):
        quantile = f'on (model_version) group_left () model:reflux_gap:quantile{{window="{window}", end="{end}"}}'
        square = f"(0 * {n} + {quantile}) ^ 2"
        group.record(
            "model_band:reflux_gap:wilson",
            f"""
            (
              {n} * {ratio} + {square} / 2
              {sign} sqrt({square} * ({n} * {ratio} * (1 - {ratio}) + {square} / 4))
            )
            / ({n} + {square})
            """,
            window=window,
            end=end,
        )
        limits = f'model_band:reflux_gap:wilson{{window="{window}", end="{end}"}}'
        group.record(
            f"model:reflux_gap:{end}",
            f"""
            {clamp}(
              sum by (model_version) (model:reflux_gap:ratio{w})
              {sign} sqrt(
                (
                  sum by (model_version) ({share} * on (model_version, band) {limits})
                  - sum by (model_version) (model:reflux_gap:ratio{w})
                ) ^ 2
                + (sum by (model_version) ({between}) * {z}) * {z}
              ), {bound})
            """,
            window=window,
        )


def _losses(group: Group, window: str) -> None:
    w = f'{{window="{window}"}}'
    lost, compared = f"model_band:reflux_shadow_lost:increase{w}", "model_band_agree:reflux_shadow_compared:increase"
    eligible = f"model_band:reflux_shadow_eligible:increase{w}"
    group.record(
        "model:reflux_shadow_ended:increase",
        f"model:reflux_shadow_lost:increase{w} + model:reflux_shadow_compared:increase{w}",
        window=window,
    )
    group.record(
        "model:reflux_shadow_lost:ratio",
        f"model:reflux_shadow_lost:increase{w} / (model:reflux_shadow_ended:increase{w} > 0)",
        window=window,
    )
    group.record(  # how far apart the gap would be if all lost comparisons had agreed, and if none had
        "model:reflux_gap:worst_case_width",
        f"""
        sum by (model_version) (
          {eligible} * ({lost} / (({lost} + sum without (agree) ({compared}{w})) > 0) or 0 * {eligible} + 1)
        )
        / (sum by (model_version) ({eligible}) > 0)
        """,
        window=window,
    )
