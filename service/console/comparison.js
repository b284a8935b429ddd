// What is measured beside what is expected, and every window.

import { count, element, interval, onChange, percent, scale, show, table } from "./dom.js";

export const showComparison = onChange(({ gap, expected_gap: expected, rectifier, slo, offline, windows, coverage }) => {
  const offlineInterval = { ratio: offline.gap, lower: offline.lower, upper: offline.upper };
  const worst = gap.worst_case ?? {};
  const most = Math.max(2 * (slo.ratio ?? 0), gap.upper ?? 0, worst.upper ?? 0, expected ?? 0, offline.upper ?? 0) || 1;
  const line = (name, values, text) => element("div", "compared",
    element("span", "", name), element("span", "number", values.ratio === undefined ? null : percent(values.ratio), element("small", "", text ?? "")),
    scale(most, values, [slo.ratio]));
  const within = values => values.lower == null ? "" : ` ${interval(values)}`;
  show("comparison",
    line("Measured", gap, within(gap)),
    line("Expected from confidence", { ratio: expected }),
    line("At validation", offlineInterval, within(offlineInterval)),
    line("If every lost text had agreed, or none", { lower: worst.lower, upper: worst.upper, ratio: undefined }, within(worst) || "–"),
    element("p", "quiet", `The line is the SLO, ${percent(slo.ratio)}; the scale ends at ${percent(most)}. `, explain(rectifier),
      coverage == null ? "" : ` ${percent(coverage, 0)} of the traffic lies in bands that were compared.`));
  show("each-window", table("Every window", ["Window", "#Gap", "#95 % interval", "#Compared", "#Lost"],
    Object.entries(windows).map(([name, window]) => [name, percent(window.ratio), interval(window),
      count(window.compared), percent(window.lost_ratio, 0)])));
});

function explain(rectifier) {
  if (rectifier == null) return "";
  const points = `${Math.abs(100 * rectifier).toFixed(1)} points`;
  return rectifier > 0
    ? `${points} of the gap are not explained by the student's confidence.`
    : `The gap is ${points} below what the student's confidence predicts.`;
}
