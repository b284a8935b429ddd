// The gap over time with its interval, what confidence predicts and the SLO, as a picture and as a table.

import { byId, clock, count, element, interval, NAMES, percent, show, table } from "./dom.js";

const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

let plot = null, drawn = null;

export function showHistory(history, name) {
  drawn = [history, name];
  const { points, slo } = history;
  const measured = points.filter(({ ratio }) => ratio != null);
  byId("chart").setAttribute("aria-label", summary(measured, slo, name));
  show("legend", key("measured", "measured, with its interval"), key("expected", "expected from confidence"),
    slo == null ? null : key("slo", `SLO ${percent(slo)}`));
  show("points", table(`Gap ${NAMES[name]}`,
    ["Time", "#Gap", "#95 % interval", "#Expected", "#Requests", "#Compared"],
    points.toReversed().map(point => [clock(point.time), percent(point.ratio), interval(point),
      percent(point.expected), count(point.requests), count(point.compared)])));
  draw(points, slo, measured.length);
}

// From 0 to twice the SLO, or further where the interval goes further: so the interval can be read.
export const scaleEnd = (points, slo) =>
  Math.max(2 * (slo ?? 0), ...points.flatMap(({ upper, expected }) => [upper ?? 0, expected ?? 0])) || 0.01;

const key = (name, text) => element("span", `key ${name}`, text);

function summary(measured, slo, name) {
  if (!measured.length) return `No comparison ${NAMES[name]}.`;
  const ratios = measured.map(({ ratio }) => ratio), last = measured.at(-1);
  return `Gap ${NAMES[name]}: ${measured.length} points between ${percent(Math.min(...ratios))} and ${
    percent(Math.max(...ratios))}; the latest is ${percent(last.ratio)} (${interval(last)}), the SLO ${percent(slo)}.`;
}

function draw(points, slo, measured) {
  plot?.destroy();
  plot = null;
  if (!measured) {
    show("chart", element("p", "empty", "No comparison in this window."));
    return;
  }
  show("chart");
  const column = name => points.map(point => point[name]);
  const most = scaleEnd(points, slo);
  const line = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
  const font = "13px system-ui, sans-serif";
  const lone = points.length > 100 ? { show: (u, at, i) => alone(points, i) } : { show: true, size: 6 };
  plot = new uPlot({
    ...size(),
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false } },
    scales: { y: { range: [0, most] } },
    axes: [
      { ...line, font, size: 32, values: (u, times) => times.map(tick(points)) },
      { ...line, font, size: 58, values: (u, ratios) => ratios.map(ratio => percent(ratio, digits(ratios))) },
    ],
    series: [
      {},
      { stroke: "transparent", points: { show: false } },
      { stroke: "transparent", points: { show: false } },
      { stroke: colour("--expected"), width: 2, dash: [4, 4], points: { show: false }, spanGaps: true },
      { stroke: colour("--slo"), width: 2, dash: [12, 5], points: { show: false }, spanGaps: true },
      { stroke: colour("--measured"), width: 2, points: { ...lone, fill: colour("--measured") } },
    ],
    bands: [{ series: [1, 2], fill: colour("--interval") }],
    hooks: { setCursor: [u => read(points[u.cursor.idx])] },
  }, [column("time"), column("upper"), column("lower"), column("expected"), points.map(() => slo), column("ratio")],
  byId("chart"));
}

// Whole percents, unless the lines lie closer.
const digits = ([first, second]) => Math.abs(100 * (second - first) - Math.round(100 * (second - first))) < 1e-6 ? 0 : 1;

const size = () => ({ width: byId("chart").clientWidth, height: byId("chart").clientHeight });
const alone = (points, i) => points[i - 1]?.ratio == null && points[i + 1]?.ratio == null;

function tick(points) {
  const long = points.at(-1).time - points[0].time > 2 * 86400;
  const format = long ? { day: "numeric", month: "short" } : { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  return time => new Date(1000 * time).toLocaleString("en-GB", format);
}

function read(point) {
  show("reading", point == null ? "\u00a0" : `${clock(point.time)}: ${percent(point.ratio)} (${interval(point)}), expected ${
    percent(point.expected)}, ${count(point.compared)} of ${count(point.requests)} compared`);
}

// Colours and width are read when it is drawn.
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn && showHistory(...drawn));
new ResizeObserver(() => plot?.setSize(size())).observe(byId("chart"));
