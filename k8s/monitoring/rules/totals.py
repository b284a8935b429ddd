"""Recording rules without a window of their own: constants, what pages, why the gap is not seen, drift and budget."""

from __future__ import annotations

from k8s.monitoring.rules.rule import Group, limit, log_weighted


def constants_group() -> Group:
    """Return the rules of the bundles' constants, which other rules look back on."""
    group = Group("reflux-constants", "1m")
    group.record(
        "model_band_alt_agree:reflux_gap_llr:min",
        "min by (model_version, band, alt, agree) (reflux_gap_llr)",
    )
    pods = "sum without (side, bet, band, event) (reflux_gap_log_factor)"  # differs if any constant does
    group.record("model:reflux_gap_constants:max", f"max by (model_version) ({pods})")
    group.record("model:reflux_gap_constants:min", f"min by (model_version) ({pods})")
    group.record("model:reflux_gap:slo", "max by (model_version) (reflux_gap_slo)")
    return group


def verdict_group() -> Group:
    """Return the rules of what alerts look at: the evidence of all windows, blindness, drift and budget."""
    group = Group("reflux-verdict", "1m")
    group.record(
        "model:reflux_gap:log_evidence",
        log_weighted("model:reflux_gap:log_evalue", "reflux_gap_window_weight", "window"),
    )
    # Detectors of pods add up, and so do the comparisons that their thresholds count.
    group.record("model:reflux_gap:edetector", "sum by (model_version) (reflux_gap_edetector)")
    group.record("model:reflux_gap:edetector_at", "sum by (model_version) (reflux_gap_edetector_threshold)")
    _blind(group)
    group.record(
        "model_feature:reflux_drift:excess",
        "max by (model_version, feature) (reflux_drift_statistic / reflux_drift_threshold)",
    )
    group.record("model:reflux_drift:detected", "max by (model_version) (reflux_drift_detected)")
    group.record("model:reflux_teacher:drift", "max by (model_version) (reflux_teacher_drift)")
    group.record("model:reflux_teacher:log_evalue", "max by (model_version) (reflux_teacher_log_evalue)")
    group.record(
        "model:reflux_shadow_budget:ratio",
        """
        sum by (model_version) (increase(reflux_shadow_cost_usd_total[1h]))
        / sum by (model_version) (reflux_shadow_budget_usd_per_hour)
        """,
    )
    # Sampled texts that are nowhere: a defect, whatever the number. Each process accounts for its own, so that it may
    # restart alone: what it left to others in a shared store is handed over here, and resumed where it is asked about.
    group.record(
        "model:reflux_shadow:missing",
        """
        sum by (model_version) (reflux_shadow_sampled_total)
        + sum by (model_version) (reflux_shadow_resumed_total)
        - sum by (model_version) (reflux_shadow_handed_over_total)
        - sum by (model_version) (reflux_shadow_results_total)
        - sum by (model_version) (reflux_shadow_queue_depth)
        - sum by (model_version) (reflux_shadow_inflight)
        """,
    )
    return group


def _blind(group: Group) -> None:
    """Add one series for each reason why nobody knows the gap, as `service.monitor.blindness`, and the pods' own."""
    ended = 'sum by (model_version) (model:reflux_shadow_ended:increase{{window="{}"}})'.format
    enough = f"and on (model_version) {ended('1d')} >= {limit('judged_samples')}"
    reasons = {
        "losses": f"""
            sum by (model_version) (model:reflux_shadow_lost:ratio{{window="1h"}}) > {limit("lost_ratio")}
            and on (model_version) {ended("1h")} >= {limit("lost_samples")}
        """,
        "silence": f"""
            sum by (model_version) (increase(reflux_shadow_sampled_total[10m])) >= {limit("silent_samples")}
            and on (model_version) sum by (model_version) (increase(reflux_shadow_compared_total[10m])) == 0
        """,
        "uncertainty": f"""
            sum by (model_version) (model:reflux_gap:worst_case_width{{window="1d"}}) > {limit("worst_case_width")}
            {enough}
        """,
        "coverage": f"""
            sum by (model_version) (model:reflux_gap:coverage{{window="1d"}}) < {limit("coverage")}
            {enough}
        """,
        "pods": """
            sum by (model_version) (reflux_gap_verdict == bool 3) > 0
            and on (model_version) model:reflux_shadow_eligible:increase{window="1h"} > 0
        """,
    }
    for reason, expression in reasons.items():
        group.record("model_reason:reflux_gap:blind", expression, reason=reason)
