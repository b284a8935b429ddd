// What may have moved the gap: other inputs, another teacher.

import { age, count, element, facts, onChange, percent, show, table } from "./dom.js";

const FEATURES = {
  expected_disagreement: "Expected disagreement",
  band: "Shares of the bands",
  class: "Predicted classes",
  length: "Length of the texts",
  unknown: "Unknown tokens",
  embedding: "Embedding",
};
const STATES = {
  ok: ["ok", "✓ no drift"],
  drift: ["drift", "▲ drift"],
  waiting: ["quiet", "not known yet"],
  off: ["quiet", "off"],
};
const state = status => element("span", `state ${STATES[status]?.[0] ?? ""}`, STATES[status]?.[1] ?? status);
const decimals = value => value == null ? "–" : Math.abs(value) >= 10 ? value.toFixed(1) : value.toPrecision(2);

export const showCauses = onChange(({ drift: { input, teacher }, teacher: asked }) => {
  show("causes",
    element("div", "", element("h3", "", "Inputs ", state(input.status)),
      input.features.length ? table("Drift of the inputs", ["Feature", "State", "#Statistic", "#Threshold", "#Texts"],
        input.features.map(({ feature, drift, message, statistic, threshold, n }) => [FEATURES[feature] ?? feature,
          [state(drift ? "drift" : statistic == null ? "waiting" : "ok"), message ? element("small", "", ` ${message}`) : null],
          decimals(statistic), decimals(threshold), count(n)]))
        : element("p", "quiet", input.status === "off" ? "This bundle has no reference for drift; export it again." :
          "No text has been compared with the reference yet.")),
    element("div", "", element("h3", "", "Teacher ", state(teacher.status)),
      teacher.message ? element("p", "", teacher.message) : null,
      facts([
        ["Anchor texts asked again", changed(teacher.anchors.changed, teacher.anchors.asked)],
        teacher.anchors.last == null ? null : ["Last asked", age(Date.now() / 1000 - teacher.anchors.last)],
        ["Calls repeated for its noise", changed(teacher.noise.changed, teacher.noise.repeats)],
        teacher.noise.upper == null ? null : ["Its noise is at most", percent(teacher.noise.upper)],
        ...(asked?.models ?? []).map(({ model, fingerprint, calls }) => [model, `${fingerprint ?? ""} ${count(calls)} calls`]),
      ])));
});

const changed = (some, all) => all ? `${count(some)} of ${count(all)} changed` : "none yet";
