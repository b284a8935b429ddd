// The page: what is asked for when, and what is drawn with it. Window and bundle stand in the address, for a link.

import { ask, Failure, useKey } from "./api.js";
import { showCauses } from "./causes.js";
import { showHistory } from "./chart.js";
import { showComparison } from "./comparison.js";
import { showDisagreements } from "./disagreements.js";
import { byId, show } from "./dom.js";
import { showHarm } from "./harm.js";
import { choices, showModel, showVariants } from "./model.js";
import { offerStudent, offerTeacher, startPlayground } from "./playground.js";
import { showBands, showCost, showLosses } from "./sampling.js";
import { showVerdict } from "./verdict.js";

const REFRESH_MS = 5000;
const SLOWLY_MS = 30000;  // for what changes slowly, or costs the service more
const DISAGREEMENTS = 50;
const WINDOWS = ["1h", "6h", "1d", "7d", "since"];

const address = new URLSearchParams(location.search);
const chosen = {
  window: WINDOWS.includes(address.get("window")) ? address.get("window") : "1d",
  variant: address.get("variant") === "candidate" ? "candidate" : "stable",
};
let round = 0, timer = null, slowly = 0;
let latest = null, at = null, model = null, other = null;  // what the service said last, and when (ms) it said `latest`

function choose(name, value) {
  chosen[name] = value;
  history.replaceState(null, "", `?${new URLSearchParams(chosen)}`);
  slowly = 0;
  drawChoices();
  refresh();
}

function drawChoices() {
  const before = document.activeElement?.parentElement?.id;  // a button that is replaced keeps the focus
  const verdicts = { [chosen.variant]: latest?.verdict, [other?.variant]: other?.verdict };
  show("windows", choices(WINDOWS, chosen.window, value => choose("window", value)));
  showVariants(Object.keys(model?.variants ?? {}), chosen.variant, value => choose("variant", value), verdicts);
  if (["windows", "variants"].includes(before)) document.querySelector(`#${before} [aria-pressed=true]`)?.focus();
}

async function refresh() {
  clearTimeout(timer);
  const mine = ++round;  // an answer to what was chosen before is not shown
  try {
    const gap = await ask("gap", { query: chosen });
    if (mine !== round) return;
    [latest, at] = [gap, Date.now()];
    byId("entry").hidden = true;
    draw(gap);
    if (at - slowly >= SLOWLY_MS) {
      slowly = at;
      await refreshSlowly(mine);
    }
  } catch (error) {
    if (mine !== round) return;
    fail(error);
  }
  if (mine === round) timer = setTimeout(refresh, REFRESH_MS);
}

const bundle = () => other == null ? null : `${chosen.variant} ${latest.model_version}`;

function draw(gap) {
  showVerdict(gap, at, bundle());
  showComparison(gap);
  showCauses(gap);
  showHarm(gap);
  showBands(gap.bands);
  showLosses(gap);
  showCost(gap);
}

async function refreshSlowly(mine) {
  const { variant } = chosen;
  const [served, points, { rows }] = await Promise.all([
    ask("model", { query: { variant } }),
    ask("gap/history", { query: chosen }),
    ask("gap/disagreements", { query: { limit: DISAGREEMENTS, variant } }),
  ]);
  const name = Object.keys(served.variants).find(one => one !== variant);
  const beside = name == null ? null
    : { variant: name, ...await ask("gap", { query: { window: chosen.window, variant: name } }) };
  if (mine !== round) return;
  [model, other] = [served, beside];
  drawChoices();
  showVerdict(latest, at, bundle());
  showModel(model, other, latest.teacher);
  const { keys, network } = model.access, each = latest.cost.usd_per_1000_comparisons;
  const { classifies = true, asks = latest.enabled } = model.process ?? {};  // a replica of another version may lack it
  offerStudent(classifies);
  offerTeacher(asks && (keys || !network), each == null ? null : each / 1000);
  showHistory(points, chosen.window);
  showDisagreements(rows);
}

function fail(error) {
  if (!(error instanceof Failure)) throw error;
  slowly = 0;
  byId("entry").hidden = error.kind !== "key";
  if (error.status === 422 && chosen.variant !== "stable") choose("variant", "stable");  // there is no candidate any more
  else showVerdict(latest, at, latest && bundle(), error.message);
}

byId("entry").addEventListener("submit", event => {
  event.preventDefault();
  useKey(byId("key").value);
  refresh();
});
document.addEventListener("visibilitychange", () => document.hidden ? clearTimeout(timer) : refresh());
drawChoices();
startPlayground(() => chosen.variant);
refresh();
