"""The constants of the monitoring rules, as gauges: what a verdict is decided by, so that no rule repeats a number.

They are the same in every pod of a bundle version with the same settings. Rules multiply the plain counters by them
(k8s/monitoring), and so get the evidence of all pods together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from prometheus_client.core import Metric

from service.monitor.blindness import ENOUGH, LEAST_COVERED, MOST_WIDTH, SILENT_SAMPLES
from service.monitor.cells import Floats
from service.monitor.evalues import BAND_FACTORS, LOG_PAGE, LOG_TICKET
from service.monitor.evalues import log_factors as ceiling_log_factors
from service.monitor.gap_evalues import exceed_factors, keep_factors
from service.monitor.means import normal_quantile
from service.monitor.teacher_drift import LOG_DRIFT
from service.monitor.verdict import LOG_CERTAIN
from service.monitor.windows import FEW, MOST_LOST, WEIGHTS
from service.shadow.families import gauge

LIMITS = {
    "log_page": LOG_PAGE,
    "log_ticket": LOG_TICKET,
    "log_certify": LOG_CERTAIN,
    "log_teacher": LOG_DRIFT,
    "lost_ratio": MOST_LOST,
    "lost_samples": FEW,
    "worst_case_width": MOST_WIDTH,
    "coverage": LEAST_COVERED,
    "judged_samples": ENOUGH,
    "silent_samples": SILENT_SAMPLES,
    "interval_quantile": normal_quantile(0.95),
}
"""What the verdict compares its findings with, by the value of the label `limit`."""

EVENTS = ("disagreed", "agreed", "unsampled")
"""What becomes of a request for which a coin was tossed. A sample without a comparison counts against the evidence."""


def limits(version: str) -> Metric:
    """Return the family of the limits."""
    text = "What a verdict compares its findings with; log_... are natural logarithms of e-values."
    samples = [((version, name), float(value)) for name, value in LIMITS.items()]
    return gauge("reflux_gap_limit", text, ("model_version", "limit"), samples)


def window_weights(version: str) -> Metric:
    """Return the family of the shares of the windows in their common e-value."""
    text = "Share of a window in the evidence of all windows."
    samples = [((version, window), weight) for window, weight in WEIGHTS.items()]
    return gauge("reflux_gap_window_weight", text, ("model_version", "window"), samples)


def log_likelihood_ratios(version: str, null: Floats) -> Metric:
    """Return what one comparison adds to the log e-value of each alternative to the ceilings `null` [B]."""
    bands = len(null)
    disagree, agree = ceiling_log_factors(null)
    every = np.arange(bands)
    rows = {f"{factor:g}": position * bands + every for position, factor in enumerate(BAND_FACTORS)}
    rows["spread"] = np.full(bands, len(BAND_FACTORS) * bands)
    samples = (
        ((version, f"b{band}", alt, value), float(factors[row[band], band]))
        for alt, row in rows.items()
        for value, factors in (("true", agree), ("false", disagree))
        for band in every
    )
    text = "Log likelihood ratio of one comparison, for an alternative to the ceiling of its band."
    return gauge("reflux_gap_llr", text, ("model_version", "band", "alt", "agree"), samples)


def log_factors(version: str, propensity: Sequence[float], slo: float, foreseen: Floats) -> Metric:
    """Return what one request adds to each bet of the e-values on the whole gap (`service.monitor.gap_evalues`).

    `propensity` [B] is in (0, 1], `slo` in (0, 1), `foreseen` [B] as for `log_exceeds`. All bands are in one slot.
    """
    text = "What a request adds to the logarithm of a bet: exceeds, that the gap is above its SLO; keeps, below."
    labels = ("model_version", "side", "bet", "band", "event")
    return gauge("reflux_gap_log_factor", text, labels, _factors(version, np.asarray(propensity), slo, foreseen))


def _factors(version: str, propensity: Floats, slo: float, foreseen: Floats) -> Iterator[tuple[tuple[str, ...], float]]:
    bands = np.arange(len(propensity))
    slot = np.zeros_like(bands)
    exceeds = exceed_factors(propensity, slo, foreseen, slot, bands)
    keeps = keep_factors(propensity, slo, foreseen, slot, bands)
    for side, tables in (("exceeds", exceeds), ("keeps", keeps)):
        for event, table in zip(EVENTS, tables, strict=True):
            for (bet, band), value in np.ndenumerate(table):
                yield (version, side, str(bet), f"b{band}", event), float(value)
