// What is served: versions, teacher, candidate, and who can use it.

import { byId, count, element, facts, interval, onChange, percent, show } from "./dom.js";

const code = text => element("code", "", text ?? "unknown");

export const showModel = onChange((model, other, teacher) => {
  show("served", `${model.name} `, code(model.version));
  show("model", facts([
    ["Bundle", `${model.name} `, code(model.version)],
    ["Family", model.family === model.variant ? model.family : `${model.family}, ${model.variant}`],
    ["Reads", `${model.max_tokens} tokens`],
    ...stages(model),
    ["Learned from", `${model.teacher?.name ?? "unknown"} `, code(model.teacher?.version)],
    teacher == null ? ["Compared with", "no teacher"] : ["Compared with", `${teacher.name} `, code(teacher.version)],
    model.teacher?.calibration ? ["Teacher calibrated by", model.teacher.calibration.method] : null,
    ...(model.teacher?.terms ?? []).map(terms => ["Teacher's terms", terms.reference]),
    ...Object.entries(model.variants).length < 2 ? [] : Object.entries(model.variants).map(([name, { version, share }]) =>
      [`The ${name}`, code(version), ` answers ${percent(share, 0)} of the requests`]),
    other && [`Beside it: the ${other.variant}`, `${other.verdict}, gap ${percent(other.gap.ratio)}`,
      element("small", "", ` ${interval(other.gap)}, ${count(other.counts.compared)} compared`)],
    model.access.notice ? ["Access", element("span", "drift", model.access.notice)] : null,
  ]), element("details", "", element("summary", "", `${model.labels.length} labels`), element("p", "", model.labels.join(", "))));
});

// Each stage of a cascade, and its teacher where that answers last: when it answers, and which share of the texts it
// answered; nothing for other bundles.
const stages = ({ stages: each = [], answers_by_stage: answers = {}, measured = {} }) => {
  const total = Object.values(answers).reduce((sum, one) => sum + one, 0);
  const all = each.map(({ folder, cut_off: cutOff }) => [folder.split("/").at(-1), cutOff]);
  if (all.length && all.at(-1)[1] != null) all.push(["teacher", null]);
  const rows = all.map(([name, cutOff]) => [`Stage ${name}`,
    total ? `${percent(answers[name] / total)} of ${count(total)} texts` : "no text yet",
    element("small", "", cutOff == null ? " what reaches it" : ` from a score of ${cutOff.toFixed(3)}`)]);
  return measured.guarantee ? [...rows, ["Guaranteed", measured.guarantee]] : rows;
};

// Buttons that choose between the bundles in service; none where there is one.
export function showVariants(names, chosen, choose, verdicts) {
  byId("variants").hidden = names.length < 2;
  show("variants", names.length < 2 ? [] : choices(names, chosen, choose, name => `${name}: ${verdicts[name] ?? "…"}`));
}

export const choices = (names, chosen, choose, label = name => name) => names.map(name => {
  const button = element("button", "", label(name));
  button.type = "button";
  button.setAttribute("aria-pressed", String(name === chosen));
  button.addEventListener("click", () => choose(name));
  return button;
});
