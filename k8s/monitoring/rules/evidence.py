"""Recording rules of the evidence in one window: logarithms of e-values on the whole gap and on its bands.

They are `service.monitor.gap_evalues` and `evalues` in PromQL: counts times what one of each adds.
"""

from __future__ import annotations

from k8s.monitoring.rules.rule import Group, log_mean_exp

SAME = 1e-9
"""Largest difference of sums of equal constants, by rounding."""


def add_evidence(group: Group, window: str) -> None:
    """Add the logarithms of the e-values: counts times what one of each adds, a constant of the bundle.

    Where the constants of the whole gap changed within the window (another sampling rate, another SLO), or pods differ
    in them, there is no evidence on it, rather than a wrong one. Of ceilings, which a pod lowers once, the highest of
    the window counts.
    """
    w = f'{{window="{window}"}}'
    compared = "model_band_agree:reflux_shadow_compared:increase"
    sampled = f"model_band:reflux_shadow_sampled:increase{w}"
    eligible = f"model_band:reflux_shadow_eligible:increase{w}"
    counted = {
        agree: f'sum without (agree) ({compared}{{window="{window}", agree="{agree}"}})' for agree in ("true", "false")
    }
    counts = {
        "exceeds": (counted["false"], f"clamp_min({sampled} - {counted['false']}, 0)"),
        "keeps": (f"clamp_min({sampled} - {counted['true']}, 0)", counted["true"]),
    }
    group.record(
        "model:reflux_gap_constants:changed",
        f"""
        max_over_time(model:reflux_gap_constants:max[{window}])
        - min_over_time(model:reflux_gap_constants:min[{window}]) > {SAME}
        """,
        window=window,
    )
    for side, (disagreed, agreed) in counts.items():
        events = (("disagreed", disagreed), ("agreed", agreed), ("unsampled", f"clamp_min({eligible} - {sampled}, 0)"))
        terms = "\n          + ".join(
            f"{_factor(side, event)} * on (model_version, band) group_left () {count}" for event, count in events
        )
        group.record(
            "model_bet:reflux_gap:log_evalue",
            f"""
        sum by (model_version, bet) (
          {terms}
        )
        unless on (model_version) model:reflux_gap_constants:changed{w}
            """,
            window=window,
            side=side,
        )
    group.record(
        "model_component:reflux_gap:log_evalue",
        "\n".join(
            (
                f"sum by (model_version, band, alt) ({_ceilings('!=', window)})",
                f"or sum by (model_version, alt) ({_ceilings('=', window)})",
            )
        ),
        window=window,
    )
    bets = f'model_bet:reflux_gap:log_evalue{{window="{window}", side="%s"}}'
    components = f"model_component:reflux_gap:log_evalue{w}"
    for against, series in (("slo", bets % "exceeds"), ("ceilings", components)):
        expression = log_mean_exp(series)
        group.record("model_against:reflux_gap:log_evalue", expression, window=window, against=against)
    both = f"model_against:reflux_gap:log_evalue{w}"
    group.record("model:reflux_gap:log_evalue", log_mean_exp(both), window=window)
    group.record("model:reflux_gap:log_certify", log_mean_exp(bets % "keeps"), window=window)


def _factor(side: str, event: str) -> str:
    return f'max by (model_version, band, bet) (reflux_gap_log_factor{{side="{side}", event="{event}"}})'


def _ceilings(spread: str, window: str) -> str:
    """Return what the comparisons add to the alternatives to the ceilings, of one band each or of all (`spread`)."""
    return (
        f'min_over_time(model_band_alt_agree:reflux_gap_llr:min{{alt{spread}"spread"}}[{window}]) '
        "* on (model_version, band, agree) group_left () "
        f'model_band_agree:reflux_shadow_compared:increase{{window="{window}"}}'
    )
