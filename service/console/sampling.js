// Bands and sampling, what became of the samples, and what they cost.

import { age, count, element, facts, interval, onChange, percent, scale, show, table, usd } from "./dom.js";

export const OUTCOMES = {
  completed: "compared",
  queue_full: "queue full",
  budget: "no budget left",
  breaker_open: "teacher failing, not asked",
  timeout: "timed out",
  teacher_error: "teacher failed",
  invalid_answer: "answer not usable",
  refused: "refused by the teacher",
  store_error: "not stored",
  shutdown: "lost at shutdown",
};

export const showBands = onChange(bands => show("bands", table("From the most confident to the least", ["Band", "#Measured",
  "#Ceiling", "Measured, and ceiling", "#Expected", "#Compared", "#Sampled at", "#Requests", "#Share", "#Share at validation"],
  bands.map(band => [band.band, percent(band.ratio), percent(band.ceiling),
    scale(1, band.ratio == null ? {} : { lower: 0, upper: band.ratio }, [band.ceiling]), percent(band.expected_ratio),
    count(band.compared), percent(band.propensity), count(band.requests), percent(band.share), percent(band.offline.share)]))));

export const showLosses = onChange(({ counts, losses, outcomes, queue, deferred }) => {
  const ends = Object.entries(outcomes).filter(([, number]) => number).sort(([, a], [, b]) => b - a);
  show("losses", facts([
    [deferred ? "Answered by students" : "Answered", count(counts.requests)],
    ...deferred ? [["Answered by the teacher itself", `${count(deferred.answered)}, ${percent(deferred.share)} of all`],
      ["Gap of all answers", `${percent(deferred.gap.ratio)} (${interval(deferred.gap)})`]] : [],
    ["Sampled for the teacher", count(counts.sampled)],
    ["Compared", count(counts.compared)],
    ["Disagreements", count(counts.disagreements)],
    ["Lost, of what was sampled", percent(losses.ratio)],
    ["Waiting", `${count(queue.waiting + queue.in_flight)}${
      queue.oldest_age_seconds == null ? "" : `, the oldest answered ${age(queue.oldest_age_seconds)}`}`],
    ...Object.entries(queue.abandoned ?? {}).map(([version, number]) =>
      [`Waiting for ${version}`, `${count(number)}, and no process asks about that version`]),
  ]), ends.length ? table("Outcomes", ["Outcome", "#Samples"],
    ends.map(([name, number]) => [OUTCOMES[name] ?? name, count(number)])) : null);
});

export const showCost = onChange(({ cost }) => {
  const alone = cost.teacher_alone_usd, saved = alone > 0 ? 1 - cost.usd / alone : null;
  const most = Math.max(alone ?? 0, cost.usd) || 1;
  const line = (name, value) => element("div", "compared", element("span", "", name),
    element("span", "number", usd(value)), scale(most, value ? { lower: 0, upper: value } : {}));
  show("cost",
    line("Spent on comparisons", cost.usd),
    line("The teacher alone, for all requests", alone),
    saved == null ? null : element("p", "", saved >= 0 ? `${percent(saved, 0)} less than the teacher alone.`
      : "More than the teacher alone would have cost."),
    facts([
      ["1,000 comparisons", usd(cost.usd_per_1000_comparisons)],
      ["Tokens", count(cost.tokens)],
      ["Budget", cost.budget_usd_per_hour == null ? "no limit"
        : `${usd(cost.budget_usd_per_hour)} an hour, ${usd(cost.budget_usd_left_now)} left now`],
    ]));
});
