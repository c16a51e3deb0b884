"use strict";
// The page: it follows /events and shows what comes.

const $ = (id) => document.getElementById(id);
const keep = 1800; // Points, as the server has them.

const count = (v) => v >= 10000 ? `${(v / 1000).toFixed(1)}k` : String(Math.round(v));
const rate = (v) => v >= 100 || v === 0 ? String(Math.round(v)) : v < 1 ? v.toFixed(2) : v.toFixed(1);
const seconds = (v) => v >= 1 ? `${v.toFixed(1)} s` : `${Math.round(v * 1000)} ms`;

// span is a length of time for people, of milliseconds.
function span(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min ${s % 60 ? `${s % 60} s` : ""}`.trim();
  return `${Math.floor(s / 3600)} h ${Math.floor(s % 3600 / 60)} min`;
}

const tier = (id, name) => ({
  id, title: `Replicas of ${name}`, format: count, least: 3, whole: true, bounds: (p) => p[id],
  series: [
    { name: "ready", color: "water", value: (p) => p[id].ready, stepped: true, fill: true },
    { name: "current", color: "teal", value: (p) => p[id].current, stepped: true, style: "thin" },
    { name: "desired", color: "ink", value: (p) => p[id].desired, stepped: true, style: "dashed" },
    { name: "min", color: "quiet", value: (p) => p[id].min, stepped: true, style: "dotted", bound: true },
    { name: "max", color: "quiet", value: (p) => p[id].max, stepped: true, style: "dotted", bound: true },
  ],
});

const plots = [
  new Story(),
  new Plot({
    id: "requests", title: "Requests", unit: "per second, and the target of the ready pods", format: rate, least: 5,
    series: [
      { name: "served", color: "water", value: (p) => p.traffic.served, fill: true },
      { name: "asked", color: "ink", value: (p) => p.traffic.asked, stepped: true, style: "dashed" },
      { name: "target", color: "amber", value: (p) => p.traffic.target, stepped: true, style: "thin" },
    ],
  }),
  new Plot({
    id: "latency", title: "Time to answer", unit: "half and 99 of 100 within", format: seconds, tick: seconds, least: 0.1,
    series: [
      { name: "p50", color: "teal", value: (p) => p.traffic.p50, fill: true },
      { name: "p99", color: "violet", value: (p) => p.traffic.p99 },
    ],
  }),
  new Plot({
    id: "errors", title: "Failed answers", unit: "per second", format: rate, least: 1,
    series: [
      { name: "502", color: "red", value: (p) => p.traffic.e502 },
      { name: "503", color: "orange", value: (p) => p.traffic.e503, style: "dashed" },
      { name: "504", color: "violet", value: (p) => p.traffic.e504 },
    ],
  }),
  new Plot(tier("web", "web")),
  new Plot({
    id: "queue", title: "Queue", unit: "messages, and the target of the ready workers", format: count, tick: count, least: 10, whole: true,
    series: [
      { name: "visible", color: "water", value: (p) => p.queue.visible, fill: true },
      { name: "in flight", color: "teal", value: (p) => p.queue.inFlight },
      { name: "target", color: "amber", value: (p) => p.queue.target, stepped: true, style: "thin" },
    ],
  }),
  new Plot(tier("worker", "worker")),
];
const errorPlot = plots.find((p) => p.spec.id === "errors");

let points = [];
let latest = null;
let length = 600; // Seconds of the time axis.
let at = null; // The time that is read, in milliseconds; null is now.

const newest = () => points.length ? points.at(-1).t : Date.now();

// begins is where the time axis does: it grows until it is as long as it may be.
const shortest = 60000; // Milliseconds.
const begins = (to) => Math.max(to - length * 1000, Math.min(points.length ? points[0].t : to, to - shortest));

// visible are the points of the time axis, and its ends.
function visible() {
  const to = newest(), from = begins(to);
  let first = points.findIndex((p) => p.t >= from);
  if (first < 0) first = points.length;
  return { from, to, shown: points.slice(first) };
}

// nearest is the point at a time, or null where there is a gap.
function nearest(t) {
  let best = null;
  for (const p of points) if (!best || Math.abs(p.t - t) < Math.abs(best.t - t)) best = p;
  return best && Math.abs(best.t - t) <= Math.max(gapAfter, length * 2) ? best : null;
}

function showPlots() {
  if (document.hidden) return;
  const { from, to, shown } = visible();
  for (const p of plots) p.draw(shown, from, to);
  showReading();
}

function showReading() {
  const to = newest(), from = begins(to);
  if (at !== null && at < from) at = null;
  const p = at === null ? points.at(-1) || null : nearest(at);
  for (const plot of plots) plot.read(p, at !== null);
  const text = at === null ? "values of now" : p ? `values of ${clock(p.t)}, ${span(to - p.t)} before now` : `nothing is known of ${clock(at)}`;
  $("reading").textContent = text;
  const slider = $("cursor");
  slider.max = Math.round((to - from) / 1000);
  slider.value = at === null ? slider.max : (at - from) / 1000;
  slider.setAttribute("aria-valuetext", text);
}

function readAt(t) {
  at = t;
  showReading();
}

for (const plot of plots) {
  $("grid").append(plot.figure);
  const move = (e) => {
    if (!plot.size) return;
    const box = plot.svg.getBoundingClientRect(), { from, to, right } = plot.size;
    const part = (e.clientX - box.left - margin.left) / (right - margin.left);
    readAt(part >= 1 ? null : from + Math.max(0, part) * (to - from));
  };
  plot.svg.addEventListener("pointermove", move);
  plot.svg.addEventListener("pointerdown", move);
  plot.svg.addEventListener("pointerleave", (e) => { if (e.pointerType === "mouse") readAt(null); });
}
$("cursor").addEventListener("input", (e) => {
  const v = Number(e.target.value);
  readAt(v >= Number(e.target.max) ? null : begins(newest()) + v * 1000);
});
$("cursor").addEventListener("keydown", (e) => { if (e.key === "Escape") readAt(null); });
$("spans").addEventListener("change", (e) => { length = Number(e.target.value); at = null; showPlots(); });
new ResizeObserver(showPlots).observe($("grid"));
document.addEventListener("visibilitychange", showPlots);

// What is not plotted. Times are told by the server's clock.

const time = (text) => text ? Date.parse(text) : null;
const since = (text) => text ? ` since ${clock(time(text))}` : "";
// broken lets a name be broken where a reader would, and not within its words.
const broken = (name) => name.split(/(?<=[_:/.-])/).flatMap((word, i) => i ? [el("wbr"), word] : [word]);

const absent = (text) => el("span", { class: "absent" }, text);

// set replaces what an element shows, unless it shows that already, so that a screen
// reader does not hear it again and a selection stays.
function set(node, ...children) {
  const fresh = el("div", {}, ...children);
  if (fresh.innerHTML !== node.innerHTML) node.replaceChildren(...fresh.childNodes);
}

// say writes into a live region only what is new.
function showPhase(s) {
  const phase = s.phase.title || "The story has not begun.";
  if ($("phase").dataset.said !== phase) {
    $("phase").dataset.said = phase;
    $("phase").replaceChildren(phase, el("small", { "aria-live": "off" }));
  }
  const began = time(s.phase.since);
  $("phase").lastElementChild.textContent = began ? `for ${span(time(s.time) - began)}` : "";
}

function showParts(s) {
  set($("parts-list"), ...s.parts.map((p) => {
    const known = p.state === "up" || p.state === "down";
    const text = p.state === "down" ? `down${since(p.since)}` : known ? "up" : "not known yet";
    return el("li", { "data-state": p.state || "unknown" }, el("b", {}, p.name), " ", el("span", {}, text));
  }));
}

let lost = null; // Since when nothing has come, by this machine's clock.

function showAlerts() {
  const down = latest ? latest.parts.filter((p) => p.state === "down") : [];
  const notes = down.map((p) => el("p", {}, el("b", {}, `${p.name} is down${since(p.since)}`), p.says ? `: ${p.says}` : "."));
  if (lost !== null) {
    notes.unshift(el("p", { class: "wait" }, el("b", {}, `The connection was lost at ${clock(lost)}.`), " What is shown is from before. The page tries again by itself."));
  }
  set($("alerts"), ...notes);
}

function targetOf(m) {
  const have = m.current, want = m.target;
  const per = m.per ? ` per ${m.per}` : "";
  const bar = [];
  if (have !== null && want) {
    const part = Math.min(have / want, 2) * 50; // The target is in the middle.
    bar.push(draw("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
      draw("rect", { class: "track", y: 2, width: 100, height: 6 }),
      draw("rect", { class: "level", y: 2, width: part, height: 6 }),
      draw("rect", { class: "want", x: 49.7, width: .6, height: 10 })));
  }
  return el("div", { class: "target" }, el("b", {}, ...broken(m.metric)),
    el("span", {}, have === null ? "not known" : el("b", {}, rate(have) + per), want === null ? "" : `, target ${rate(want)}`), ...bar);
}

function conditionOf(c) {
  // ScalingLimited is well when it is false, the others when they are true.
  const limited = c.type === "ScalingLimited";
  const [sign, kind] = c.status === "Unknown" ? ["?", "note"] : limited ? (c.status === "True" ? ["!", "note"] : ["✓", "good"]) : c.status === "True" ? ["✓", "good"] : ["✗", "bad"];
  return el("li", {}, el("span", { class: `sign ${kind}`, "aria-hidden": "true" }, sign),
    el("div", {}, el("b", {}, `${c.type} ${c.status}`), ` ${c.reason} `, el("span", {}, c.message)));
}

function showHPAs(s) {
  const cards = s.hpas.map((h) => el("article", { class: "hpa" },
    el("h3", {}, h.name), el("p", { class: "decision" }, h.decision || "It has decided nothing yet."),
    ...h.metrics.map(targetOf),
    h.conditions.length ? el("ul", {}, ...h.conditions.map(conditionOf)) : el("p", { class: "none" }, "It has no conditions yet."),
    ...(h.events.length ? [el("h4", {}, "Last events"), el("ul", {}, ...h.events.map((e) => el("li", {},
      el("span", { class: `sign ${e.warning ? "bad" : ""}`, "aria-hidden": "true" }, e.warning ? "!" : "·"),
      el("div", {}, el("span", {}, e.time ? clock(time(e.time)) : "", " "), el("b", {}, e.reason), ` ${e.message}`, e.count > 1 ? el("span", {}, ` (${e.count} times)`) : ""))))] : [])));
  set($("hpas-list"), ...(cards.length ? cards : [el("p", { class: "none" }, "No HPA is known yet.")]));
}

function metricRow(m, now) {
  const cell = (label, kind, ...children) => el("td", { role: "cell", class: kind, "data-label": label }, ...children);
  const ago = (text) => text ? `${span(now - time(text))} ago` : absent("–");
  const next = time(m.next);
  return el("tr", { role: "row" },
    el("th", { role: "rowheader", scope: "row" }, ...broken(m.name), el("small", {}, m.namespace || "all namespaces")),
    cell("value", "number", m.value || absent("no value")),
    cell("measured", "time", ago(m.measured)),
    cell("source", "wide", m.source || absent("–"), m.query ? el("small", {}, m.query) : null),
    cell("last asked", "time", ago(m.asked)),
    cell("next", "time", next === null ? absent("–") : next > now ? `in ${span(next - now)}` : "now"),
    cell("state", "wide", m.error ? el("span", { class: "failing" }, m.failingSince ? `failing${since(m.failingSince)}: ` : "", m.error) : el("span", { class: "ok" }, "answered")));
}

function showMetrics(s, now) {
  set($("metrics-rows"), ...s.metrics.map((m) => metricRow(m, now)));
  $("metrics-none").textContent = s.metricsErr ? `Nobody can say what the adapter knows: ${s.metricsErr}` : s.metrics.length ? "" : "It knows no metric yet.";
  $("metrics-rows").parentElement.hidden = s.metrics.length === 0;
}

function showTotals(s) {
  const total = Object.entries(s.traffic.total || {}).filter(([code, n]) => /^50[234]$/.test(code) && n !== null);
  errorPlot.note.textContent = total.length ? `per second; ${total.map(([code, n]) => `${count(n)} × ${code}`).join(", ")} so far` : "per second";
}

function showBounds(s) {
  for (const plot of plots) {
    if (!plot.spec.bounds) continue;
    const { min, max } = plot.spec.bounds(s);
    plot.note.textContent = min === null && max === null ? "" : `${min ?? "?"} to ${max ?? "?"} allowed`;
  }
}

function showStaff() {
  const { shown } = visible();
  let most = 1;
  for (const p of shown) most = Math.max(most, p.queue.visible ?? 0);
  const v = shown.length ? shown.at(-1).queue.visible ?? 0 : 0;
  $("staff-water").setAttribute("y", 44 - 40 * v / most);
}

function show() {
  showAlerts();
  if (!latest) return;
  const now = time(latest.time);
  showPhase(latest);
  showParts(latest);
  showHPAs(latest);
  showMetrics(latest, now);
  showTotals(latest);
  showBounds(latest);
  showStaff();
  showPlots();
}

function pointOf(s) {
  const down = s.parts.filter((p) => p.state === "down").map((p) => p.name);
  return { t: time(s.time), phase: s.phase.word, down, queue: s.queue, traffic: s.traffic, web: s.web, worker: s.worker };
}

function link(state, text) {
  const node = $("link");
  if (node.dataset.state === state) return;
  node.dataset.state = state;
  node.textContent = text;
}

// follow listens for events. An EventSource tries again by itself, but not after an answer
// that is an error, so that this does.
const silence = 6000; // Milliseconds after which a connection without events counts as lost.
let last = Date.now();
let stream = null;

function lose() {
  if (lost === null) lost = last;
  link("lost", "connection lost");
  showAlerts();
}

function heard() {
  last = Date.now();
  lost = null;
  link("live", "live");
}

function follow() {
  if (stream) stream.close();
  stream = new EventSource("/events");
  stream.addEventListener("history", (e) => { heard(); points = JSON.parse(e.data); });
  stream.addEventListener("latest", (e) => { latest = JSON.parse(e.data); show(); });
  stream.addEventListener("snapshot", (e) => {
    heard();
    latest = JSON.parse(e.data);
    points.push(pointOf(latest));
    if (points.length > keep) points.splice(0, points.length - keep);
    show();
  });
  stream.onerror = () => {
    lose();
    if (stream.readyState === EventSource.CLOSED) setTimeout(follow, 2000);
  };
}

setInterval(() => {
  if (stream.readyState === EventSource.OPEN && latest && Date.now() - last > silence) lose();
}, 1000);
follow();
