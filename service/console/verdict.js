// The verdict: whether the student may stay, why, how old that is, and what is wrong when the service does not answer.

import { age, byId, clock, element, interval, NAMES, onChange, percent, show } from "./dom.js";

const ICONS = {  // outlines that differ in shape, for who does not see the colours
  stay: "M12 2a10 10 0 1 0 0 20 10 10 0 0 0 0-20zM6.8 12.3l3.6 3.6 6.8-7.3",
  watch: "M12 3 1.8 21h20.4zM12 10v5M12 17.6v.6",
  leave: "M8 2h8l6 6v8l-6 6H8l-6-6V8zM8 8l8 8M16 8l-8 8",
  blind: "M2 12s4-7 10-7 10 7 10 7-4 7-10 7-10-7-10-7zM12 9a3 3 0 1 0 0 6 3 3 0 0 0 0-6zM3 21 21 3",
  unknown: "M12 2a10 10 0 1 0 0 20 10 10 0 0 0 0-20zM9 9.2a3 3 0 1 1 4.2 2.8c-.9.5-1.2 1-1.2 2M12 17.6v.6",
};
const MEANINGS = {
  stay: "the student may stay",
  watch: "the student may stay for now; something changed",
  uncertified: "the student may stay for now; it is not certified yet",
  leave: "take the student out of service",
  blind: "how far the student is off is not known",
};
const CAUSES = { input: "the inputs changed", student: "the student", teacher: "the teacher changed" };

// Show the body of /gap that came at `at` (ms), and why there is no newer one, if there should be. `bundle` is whose
// verdict it is, where several are served.
export function showVerdict(gap, at, bundle, failure) {
  const meaning = gap?.verdict === "watch" && gap.cause == null ? "uncertified" : gap?.verdict;
  say(gap?.verdict, MEANINGS[meaning], failure, failure && at);
  explain(gap?.message ?? "", gap?.blind ?? []);
  byId("numbers").hidden = gap == null;
  byId("numbers").classList.toggle("old", failure != null);
  if (gap != null) showFacts(gap, at, bundle);
}

// The live region: it changes with the verdict or a failure alone, or a screen reader would speak every few seconds.
const say = onChange((verdict, meaning, failure, at) => {
  const time = at && new Date(at).toLocaleTimeString("en-GB");
  const { dataset, classList } = byId("verdict");
  dataset.verdict = verdict ?? "";
  classList.toggle("old", failure != null);
  byId("icon").setAttribute("d", ICONS[failure != null ? "unknown" : verdict] ?? "");
  byId("notice").hidden = failure == null;
  show("notice", failure ?? "", time ? ` All that is shown is old, of ${time}.` : "");
  show("word", verdict == null ? "No verdict" : [element("strong", "", verdict),
    time ? ` – as it was at ${time}; what holds now is not known` : ` – ${meaning}`]);
  document.title = `${failure != null ? "No answer" : verdict} · Reflux`;
});

const explain = onChange((message, reasons) => {
  show("sentence", message);
  show("reasons", reasons.filter(reason => reason !== message).map(reason => element("li", "", reason)));
});

function showFacts({ verdict_since: since, gap, slo, window, cause, last_comparison_age_seconds: seconds }, at, bundle) {
  const pairs = [
    [`Gap ${NAMES[window]}`, percent(gap.ratio), gap.ratio == null ? null : element("small", "", ` ${interval(gap)}`)],
    ["Accepted (SLO)", percent(slo.ratio), element("small", "", slo.source === "setting" ? " set by you" : " by validation")],
    ["Last comparison", age(seconds == null ? null : seconds + (Date.now() - at) / 1000)],
    since == null ? null : ["Verdict since", clock(since)],
    cause == null ? null : ["Cause", CAUSES[cause] ?? cause],
    bundle == null ? null : ["Verdict on the", bundle],
  ];
  show("facts", pairs.filter(Boolean).map(([name, ...value]) =>
    element("div", "", element("dt", "", name), element("dd", "", value))));
}
