// Where the gap hurts: by direction, by predicted class, and in what is decided.

import { count, element, interval, onChange, percent, scale, show, table } from "./dom.js";

export const showHarm = onChange(({ directions, classes, decision, witness }) => {
  const most = Math.max(...directions.map(({ upper }) => upper ?? 0), 0) || 1;
  const mostOfClass = Math.max(...classes.map(({ upper }) => upper ?? 0), 0) || 1;
  show("harm",
    element("div", "", element("h3", "", "By direction"), directions.length
      ? table("Shares of all requests", ["Teacher says", "Student says", "#Share", "#95 % interval", "Interval", "#Seen"],
        directions.map(row => [row.teacher ?? "all others", row.student ?? (row.teacher == null ? "" : "–"), percent(row.ratio, 2),
          interval(row), scale(most, row), count(row.count)]))
      : element("p", "quiet", "No disagreement yet.")),
    element("div", "", element("h3", "", "By predicted class"), classes.length
      ? table("Gap within each class, the worst first",
        ["Student says", "#Share of traffic", "#Gap", "#95 % interval", "Interval", "#Compared"],
        classes.map(row => [row.label, percent(row.share, 0), percent(row.ratio), interval(row), scale(mostOfClass, row),
          count(row.compared)]))
      : element("p", "quiet", "No comparison yet.")),
    decision == null && witness == null ? null : element("div", "", element("h3", "", "Decision"),
      decision == null ? null : element("p", "", `The application decides otherwise than with the teacher on ${percent(decision.ratio)} (${
        interval(decision)}) of the texts; ${count(decision.compared)} compared.`),
      witness == null ? null : element("p", "", `The witness ${witness.name} read ${count(witness.seen)} of ${
        count(witness.requests)} texts and agrees with the student on ${percent(witness.agreement)}.`)));
});
