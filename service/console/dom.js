// Elements, tables and numbers. Every string is set as text, so nothing that was classified can become markup.

export const byId = id => document.getElementById(id);

export const show = (id, ...content) => byId(id).replaceChildren(...content.flat(9).filter(part => part != null));

export function element(tag, className, ...content) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...content.flat(9).filter(part => part != null));
  return made;
}

// The windows in words.
export const NAMES = {
  "1h": "in the last hour", "6h": "in the last 6 hours", "1d": "in the last day", "7d": "in the last 7 days",
  since: "since deployment",
};

// Call `draw` with what is new, and only then: text that a person selects or hears is not replaced by the same text.
export function onChange(draw) {
  let before;
  return (...given) => {
    const now = JSON.stringify(given);
    if (now !== before) draw(...given);
    before = now;
  };
}

// `columns` are names, with a `#` in front where the column holds numbers; the first cell of a row is its heading.
export function table(caption, columns, rows) {
  const numeric = columns.map(name => name.startsWith("#"));
  const head = columns.map((name, at) => {
    const cell = element("th", numeric[at] ? "number" : "", name.replace(/^#/, ""));
    cell.scope = "col";
    return cell;
  });
  const body = rows.map(cells => element("tr", "", cells.map((content, at) => {
    const cell = element(at ? "td" : "th", numeric[at] ? "number" : "", content ?? "–");
    if (!at) cell.scope = "row";
    return cell;
  })));
  return element("table", "", element("caption", "", caption),
    element("thead", "", element("tr", "", head)), element("tbody", "", body));
}

// A list of names and values.
export const facts = pairs => element("dl", "facts", pairs.filter(pair => pair && pair[1] != null).map(
  ([name, ...value]) => element("div", "", element("dt", "", name), element("dd", "", value))));

const shown = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
export const count = value => value == null ? "–" : shown.format(value);

export function percent(ratio, digits = 1) {
  if (ratio == null) return "–";
  const small = ratio > 0 && ratio < 0.5 * 10 ** (-digits - 2);
  return `${small ? "< " : ""}${(100 * (small ? 10 ** (-digits - 2) : ratio)).toFixed(digits)}\u00a0%`;
}

export const interval = ({ lower, upper }) => lower == null ? "–" : `${(100 * lower).toFixed(1)} to ${percent(upper)}`;

export const usd = value => value == null ? "–" : `${new Intl.NumberFormat("en", {
  minimumFractionDigits: 2, maximumFractionDigits: value && value < 0.1 ? 5 : 2 }).format(value)} USD`;

const UNITS = [["d", 86400], ["h", 3600], ["min", 60]];
export function age(seconds) {
  if (seconds == null) return "never";
  const unit = UNITS.find(([, size]) => seconds >= 2 * size);
  return unit ? `${Math.floor(seconds / unit[1])} ${unit[0]} ago` : `${Math.floor(Math.max(seconds, 0))} s ago`;
}

// A time in Unix seconds, with its day unless that is today.
export function clock(time) {
  const at = new Date(1000 * time), today = at.toDateString() === new Date().toDateString();
  const hour = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  return at.toLocaleString("en-GB", today ? hour : { day: "numeric", month: "short", ...hour });
}

// An interval and its middle on a scale from 0 to `most`, with marks. What it shows is in the text beside it.
export function scale(most, { lower, upper, ratio }, marks = []) {
  const made = element("div", "scale");
  made.setAttribute("aria-hidden", "true");
  const place = (className, from, to) => {
    const bar = element("i", className);
    bar.style.left = `${Math.min(100 * from / most, 100)}%`;
    if (to != null) bar.style.width = `${Math.min(100 * (to - from) / most, 100)}%`;
    made.append(bar);
  };
  if (upper != null) place("range", lower, upper);
  if (ratio != null) place("middle", ratio);
  for (const mark of marks) if (mark != null) place("mark", mark);
  return made;
}
