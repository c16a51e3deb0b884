"use strict";
// Plots of points over one time axis, as SVG.

const SVG = "http://www.w3.org/2000/svg";

// draw makes an SVG element with attributes and children.
function draw(name, attributes = {}, ...children) {
  const e = document.createElementNS(SVG, name);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  e.append(...children);
  return e;
}

// el makes an HTML element with properties and children; what is no node becomes text.
function el(name, properties = {}, ...children) {
  const e = document.createElement(name);
  for (const [k, v] of Object.entries(properties)) {
    if (k === "class") e.className = v;
    else if (k.startsWith("data-") || k === "role" || k.startsWith("aria-") || k === "scope") e.setAttribute(k, v);
    else e[k] = v;
  }
  e.append(...children.filter((c) => c !== null && c !== undefined));
  return e;
}

const margin = { left: 52, right: 10, top: 10, bottom: 18 };
const gapAfter = 2500; // Milliseconds between two points from which on there is a gap.

// niceTop is a round number not below the highest value, and the step of its ticks.
function niceTop(highest, least, whole) {
  const top = Math.max(highest * 1.05, least);
  const power = 10 ** Math.floor(Math.log10(top / 4));
  let step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => top / s <= 4);
  if (whole) step = Math.max(1, Math.ceil(step));
  return { top: Math.ceil(top / step - 1e-9) * step, step };
}

// timeStep is the distance of the ticks of the time axis, in milliseconds.
function timeStep(span, width) {
  const most = Math.max(2, width / 90);
  return [15, 30, 60, 120, 300, 600, 900].map((s) => s * 1000).find((s) => span / s <= most) || 1800000;
}

const clock = (t) => new Date(t).toLocaleTimeString("en-GB", { hour12: false });

// runs are the pieces of a series between gaps, as lists of [time, value].
function runs(points, value) {
  const all = [];
  let run = null, last = 0;
  for (const p of points) {
    const v = value(p);
    if (v === null || v === undefined) { run = null; continue; }
    if (!run || p.t - last > gapAfter) all.push(run = []);
    run.push([p.t, v]);
    last = p.t;
  }
  return all;
}

// thin leaves of a run no more than a column of pixels can show: the first, the least, the
// greatest and the last of each.
function thin(run, x) {
  if (run.length < 800) return run;
  const out = [];
  for (let i = 0; i < run.length;) {
    const column = Math.floor(x(run[i][0]));
    let least = i, most = i, end = i;
    while (end + 1 < run.length && Math.floor(x(run[end + 1][0])) === column) {
      end++;
      if (run[end][1] < run[least][1]) least = end;
      if (run[end][1] > run[most][1]) most = end;
    }
    for (const k of [...new Set([i, least, most, end])].sort((a, b) => a - b)) out.push(run[k]);
    i = end + 1;
  }
  return out;
}

function pathOf(run, x, y, stepped) {
  let d = `M${x(run[0][0]).toFixed(1)} ${y(run[0][1]).toFixed(1)}`;
  if (run.length === 1) return d + "h.01"; // A dot.
  for (let i = 1; i < run.length; i++) {
    d += stepped ? `H${x(run[i][0]).toFixed(1)}V${y(run[i][1]).toFixed(1)}` : `L${x(run[i][0]).toFixed(1)} ${y(run[i][1]).toFixed(1)}`;
  }
  return d;
}

// outages are the times in which a part was down, as [from, to, names].
function outages(points) {
  const all = [];
  let names = null;
  for (const p of points) {
    const now = (p.down || []).join(", ");
    if (now && now === names) all.at(-1)[1] = p.t;
    else if (now) all.push([p.t, p.t, now]);
    names = now;
  }
  return all;
}

// A key is the sample of a line beside its name.
function key(s) {
  return draw("svg", { class: `key c-${s.color}`, viewBox: "0 0 14 8", "aria-hidden": "true" },
    ...(s.fill ? [draw("rect", { class: "fill", y: 4, width: 14, height: 4 })] : []),
    draw("path", { class: `series ${s.style || ""}`, d: "M0 4H14" }));
}

// Plot is one figure. Its series are {name, color, value(point), style, stepped, fill}.
class Plot {
  constructor(spec) {
    this.spec = spec;
    this.svg = draw("svg", { class: "draw", role: "img", "data-plot": spec.id });
    this.values = spec.series.map(() => el("dd", { class: "absent" }, "–"));
    this.title = el("h3", { id: `plot-${spec.id}` }, spec.title + " ", el("small", {}, spec.unit || ""));
    this.note = this.title.querySelector("small");
    const legend = spec.series.map((s, i) => s.bound ? null : el("div", {}, el("dt", {}, key(s), s.name), this.values[i]));
    this.figure = el("figure", { class: "plot", "aria-labelledby": `plot-${spec.id}` },
      el("figcaption", {}, this.title, el("dl", {}, ...legend.filter(Boolean))), this.svg);
  }

  // frame says where times and values are. It is false while the plot has no size.
  frame(from, to) {
    const { width, height } = this.svg.getBoundingClientRect();
    if (width < 80) return false;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.size = { width, height, from, to, right: width - margin.right, bottom: height - margin.bottom };
    this.x = (t) => margin.left + (t - from) / (to - from) * (this.size.right - margin.left);
    return true;
  }

  timeAxis() {
    const { from, to, width, height, bottom } = this.size;
    const step = timeStep(to - from, width), nodes = [];
    for (let t = Math.ceil(from / step) * step; t <= to; t += step) {
      const x = this.x(t);
      nodes.push(draw("line", { class: "gridline", x1: x, x2: x, y1: margin.top, y2: bottom }));
      if (x > margin.left + 12 && x < width - 22) nodes.push(draw("text", { x, y: height - 4, "text-anchor": "middle" }, clock(t).slice(0, step % 60000 ? 8 : 5)));
    }
    return nodes;
  }

  // staff is the axis of values, in blocks like those of a tide staff.
  staff(top, step) {
    const nodes = [draw("rect", { class: "staff", x: margin.left - 7, y: margin.top, width: 6, height: this.size.bottom - margin.top })];
    const label = this.spec.tick || ((v) => String(Number(v.toPrecision(3))));
    for (let v = 0, n = 0; v <= top + 1e-9; v += step, n++) {
      const y = this.y(v);
      nodes.push(draw("line", { class: "gridline", x1: margin.left, x2: this.size.right, y1: y, y2: y }),
        draw("text", { x: margin.left - 12, y: y + 4, "text-anchor": "end" }, label(v)));
      if (v > 1e-9) {
        const half = (this.y(v - step) - y) / 2;
        nodes.push(draw("rect", { class: "axis", x: margin.left - 7, y, width: 3, height: half }),
          draw("rect", { class: "axis", x: margin.left - 4, y: y + half, width: 3, height: half }));
      }
    }
    return nodes;
  }

  draw(points, from, to) {
    if (!this.frame(from, to)) return;
    const { series, least, whole } = this.spec;
    const all = series.map((s) => runs(points, s.value));
    // Bounds that lie far above everything else would make it flat.
    let highest = 0;
    series.forEach((s, i) => { if (!s.bound) for (const run of all[i]) for (const [, v] of run) highest = Math.max(highest, v); });
    const { top, step } = niceTop(highest, least, whole);
    const base = this.size.bottom;
    this.y = (v) => base - v / top * (base - margin.top);
    const nodes = [...this.timeAxis(), ...this.staff(top, step)];
    for (const [a, b] of outages(points)) {
      nodes.push(draw("rect", { class: "outage", x: this.x(a), y: margin.top, width: Math.max(1, this.x(b) - this.x(a)), height: base - margin.top }));
    }
    series.forEach((s, i) => {
      const g = draw("g", { class: `c-${s.color}`, "data-series": s.name });
      for (const whole of all[i]) {
        const run = thin(whole, this.x);
        if (s.bound && run.every(([, v]) => v > top)) continue;
        const d = pathOf(run, this.x, this.y, s.stepped);
        if (s.fill) g.append(draw("path", { class: "fill", d: `${d}V${base}H${this.x(run[0][0]).toFixed(1)}Z` }));
        g.append(draw("path", { class: `series ${s.style || ""}`, d }));
      }
      nodes.push(g);
    });
    this.cursor = draw("g", {});
    this.svg.replaceChildren(...nodes, this.cursor);
  }

  // read shows the values of a point, which may be none, and marks it if it is not the newest.
  read(p, marked) {
    const said = [];
    this.spec.series.forEach((s, i) => {
      const v = p ? s.value(p) : null, absent = v === null || v === undefined;
      const text = absent ? "–" : this.spec.format(v);
      if (this.values[i].textContent !== text) this.values[i].textContent = text;
      this.values[i].className = absent ? "absent" : "";
      said.push(`${s.name} ${absent ? "not known" : text}`);
    });
    this.svg.setAttribute("aria-label", `${this.spec.title}: ${said.join(", ")}`);
    if (!this.cursor) return;
    const nodes = [];
    if (p && marked) {
      const x = this.x(p.t);
      nodes.push(draw("line", { class: "mark", x1: x, x2: x, y1: margin.top, y2: this.size.bottom }));
      for (const s of this.spec.series) {
        const v = s.value(p);
        if (v !== null && v !== undefined && this.y && this.y(v) >= margin.top - 1) nodes.push(draw("circle", { class: `dot c-${s.color}`, cx: x, cy: this.y(v), r: 3.5 }));
      }
    }
    this.cursor.replaceChildren(...nodes);
  }
}

// Story is the lane above the plots: the phases, and what was down when.
class Story extends Plot {
  constructor() {
    super({ id: "story", title: "Story", series: [] });
    this.figure.classList.add("story");
  }

  draw(points, from, to) {
    if (!this.frame(from, to)) return;
    const nodes = this.timeAxis(), boxes = [];
    for (const p of points) {
      if (boxes.length && boxes.at(-1)[2] === p.phase && p.t - boxes.at(-1)[1] < 4 * gapAfter) boxes.at(-1)[1] = p.t;
      else boxes.push([p.t, p.t, p.phase]);
    }
    boxes.forEach(([a, b, word], i) => {
      const end = boxes[i + 1] && boxes[i + 1][0] - b < 4 * gapAfter ? boxes[i + 1][0] : b;
      const x = this.x(a), width = Math.max(1, this.x(end) - x);
      nodes.push(draw("rect", { class: `phase-box ${i % 2 ? "odd" : ""}`, x, y: 4, width, height: 20, rx: 3 }));
      if (width > 8 * word.length + 8) nodes.push(draw("text", { class: "phase-word", x: x + 7, y: 18 }, word));
    });
    let free = -Infinity;
    for (const [a, b, names] of outages(points)) {
      const x = this.x(a);
      nodes.push(draw("rect", { class: "down-box", x, y: 27, width: Math.max(2, this.x(b) - x), height: 4, rx: 2 }));
      const width = 6.5 * (names.length + 5), late = x + width > this.size.right;
      if (x > free && width < this.size.right - margin.left) nodes.push(draw("text", { class: "down-word", x: late ? this.size.right : x, y: 44, "text-anchor": late ? "end" : "start" }, `${names} down`));
      free = x + width + 8;
    }
    this.cursor = draw("g", {});
    this.svg.replaceChildren(...nodes, this.cursor);
  }

  read(p, marked) {
    const down = p && p.down && p.down.length ? `, down: ${p.down.join(", ")}` : "";
    this.note.textContent = p ? `${p.phase}${down}` : "";
    this.spec.series = [];
    super.read(p, marked);
    this.svg.setAttribute("aria-label", p ? `Story: ${p.phase}${down}` : "Story: nothing known");
  }
}
