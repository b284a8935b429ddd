// Try a text: the student's labels and, on request, the teacher's beside them.

import { post } from "./api.js";
import { byId, count, element, percent, scale, show, table, usd } from "./dom.js";
import { OUTCOMES } from "./sampling.js";

const SHOWN = 5;

// `variant` returns which bundle to ask.
export function startPlayground(variant) {
  byId("form").addEventListener("submit", async event => {
    event.preventDefault();
    const text = byId("text").value, parts = [askStudent(text, variant())];
    if (event.submitter?.id === "ask") parts.push(askTeacher(text, variant()));
    show("answer", element("p", "quiet", "…"));
    show("answer", await Promise.all(parts.map(part => part.catch(error => element("p", "notice", error.message)))));
    byId("answer").focus();
  });
}

// Offer to classify a text where that can be done: a worker has no such route.
export function offerStudent(offered) {
  byId("playground").hidden = !offered;
}

// Offer the teacher where there is one to be asked, with what an answer costs.
export function offerTeacher(offered, each) {
  byId("ask").hidden = !offered;
  byId("ask-cost").textContent = offered && each ? `An answer of the teacher costs about ${usd(each)}.` : "";
}

async function askStudent(text, variant) {
  const began = performance.now();
  const { results: [result], version } = await post("classify", { text, top_k: SHOWN }, { "x-reflux-variant": variant });
  const took = (performance.now() - began).toFixed(0);
  return element("div", "", labels("The student says", result.top), element("p", "quiet",
    `${count(result.tokens)} tokens${result.truncated ? ", the text had more" : ""}, ${took} ms, version ${version}${
      result.stage ? `, stage ${result.stage}` : ""}`));
}

async function askTeacher(text, variant) {
  const { outcome, top, cost_usd: cost, text: sent } = await post(`gap/ask?variant=${variant}`, { text });
  return element("div", "", top.length ? labels("The teacher says", top)
    : element("p", "notice", `The teacher gave no label: ${OUTCOMES[outcome] ?? outcome}.`),
    element("p", "quiet", `${usd(cost)}${sent === text ? "" : `; it read, redacted: ${sent}`}`));
}

const labels = (caption, top) => table(caption, ["Label", "Probability", "#"],
  top.map(({ label, score }) => [label, scale(1, { lower: 0, upper: score }), percent(score)]));
