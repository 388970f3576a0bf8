"use strict";
// Charts of a transformerlm report. Data: the JSON in #data, written by charts.py.
(() => {
  const DATA = JSON.parse(document.getElementById("data").textContent);
  const RUNS = DATA.runs, CORPORA = DATA.corpora, SEVERAL = RUNS.length > 1, COLOURS = 8;
  const view = { axis: "step", unit: "bits", range: null, hidden: new Set() };
  const NOT_FINITE = { NaN: NaN, Infinity: Infinity, "-Infinity": -Infinity };

  // --- numbers and their texts ---
  const number = (v) => (typeof v === "number" ? v : v === null || v === undefined ? NaN : NOT_FINITE[v]);
  const group = (v) => v.toLocaleString("en-US", { maximumFractionDigits: 6 });
  function short(v) {
    const size = Math.abs(v);
    for (const [scale, unit] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
      if (size >= scale) return `${+(v / scale).toPrecision(4)}${unit}`;
    return size && size < 1e-3 ? v.toExponential().replace("e", "e") : `${+v.toPrecision(4)}`;
  }
  function exact(v) { // six significant digits, as the console has them
    if (!isFinite(v)) return Number.isNaN(v) ? "NaN" : v > 0 ? "Infinity" : "-Infinity";
    const rounded = +v.toPrecision(6);
    return Math.abs(rounded) >= 1e5 ? group(rounded) : `${rounded}`;
  }
  function duration(s) {
    if (!isFinite(s)) return "–";
    if (s < 10) return `${+s.toFixed(1)} s`;
    const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
    const index = Math.max(0, units.findIndex(([, size]) => Math.round(s) >= size));
    const [unit, size] = units[index], whole = Math.floor(Math.round(s) / size);
    const rest = index < 3 ? Math.floor((Math.round(s) % size) / units[index + 1][1]) : 0;
    return rest ? `${whole} ${unit} ${rest} ${units[index + 1][0]}` : `${whole} ${unit}`;
  }
  const AXES = {
    step: { text: (v) => `step ${group(v)}`, tick: short },
    tokens: { text: (v) => `${short(v)} tokens`, tick: short },
    seconds: { text: duration, tick: duration },
  };

  // --- elements ---
  function svg(tag, attributes = {}, parent = null, text = null) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== null) node.textContent = text;
    if (parent) parent.append(node);
    return node;
  }
  function html(tag, className, parent, text = null) {
    const node = document.createElement(tag);
    node.className = className;
    if (text !== null) node.textContent = text;
    if (parent) parent.append(node);
    return node;
  }
  const look = (index) => `c${index % COLOURS} d${Math.floor(index / COLOURS) % 3}`;
  function swatch(parent, classes, drawing) {
    const icon = svg("svg", { viewBox: "0 0 24 10", "aria-hidden": "true" }, parent);
    const line = svg("g", { class: `line ${classes}` }, icon);
    if (drawing === "dot") svg("circle", { class: "dot", cx: 12, cy: 5, r: 4 }, line);
    else svg("path", { class: drawing === "raw" ? "raw faint" : "", d: "M0 5H24" }, line);
  }

  // --- what a chart shows ---
  function lineOf(run, index, key, label, colour, options = {}) {
    const series = RUNS[index].series[key];
    if (!series) return null;
    const factor = options.factor || 1, x = series[view.axis].map(number);
    return {
      run: index, key, label, colour, x, step: series.step, recorded: series.value.map((v) => v !== null),
      y: series.value.map((v) => number(v) * factor), dots: options.dots,
      mean: series.mean && series.mean.map((v) => number(v) * factor),
    };
  }
  function linesOf(chart) {
    const lines = [];
    RUNS.forEach((run, index) => {
      if (view.hidden.has(index)) return;
      const add = (key, label, colour, options) => {
        const line = lineOf(run, index, key, SEVERAL ? `${run.name}${label && `, ${label}`}` : label, look(colour), options);
        if (line && line.x.some((v, i) => line.recorded[i] && isFinite(v))) lines.push(line);
      };
      if (chart.startsWith("corpus_")) return CORPORA.forEach(({ name }, i) => add(`${chart}.${name}`, name, i, { dots: chart === "corpus_bits" }));
      if (chart !== "quality") return add(chart, "", index);
      const bits = view.unit === "bits";
      if (bits && run.series.bits) add("bits", "training", index);
      else if (!bits || run.bits_per_nat) add("loss", "training", index, { factor: bits ? run.bits_per_nat : 1 });
      add(bits ? "val_bits" : "val_loss", "validation", SEVERAL ? index : 1, { dots: true });
    });
    return lines;
  }
  function referencesOf(chart) {
    const { xz, expected, bits_per_nat } = DATA.references, bits = view.unit === "bits";
    if (chart === "corpus_drawn") return { xz: CORPORA.map(({ share }) => ({ y: 100 * share, label: "" })), expected: [] };
    if (chart !== "quality" || (!bits && !bits_per_nat)) return { xz: [], expected: [] };
    const scale = bits ? 1 : 1 / bits_per_nat;
    const names = ["xz -9e", "xz after the training text"];
    return {
      xz: xz.map((v, i) => ({ y: v * scale, label: `${names[i]}  ${(v * scale).toFixed(3)}` })),
      expected: expected.map((v) => v * scale),
    };
  }

  // --- scales ---
  const extent = (values) => values.reduce(([low, high], v) => [Math.min(low, v), Math.max(high, v)], [Infinity, -Infinity]);
  function xRange(lines) {
    if (view.range) return view.range;
    const [, high] = extent(lines.flatMap((line) => extent(line.x.filter(isFinite))));
    return [0, high > 0 && isFinite(high) ? high : 1];
  }
  // The first losses are several times the later ones: they may leave the picture at the top.
  function yRange(lines, references, [low, high]) {
    const begin = view.range ? low : low + (high - low) * 0.04, values = [];
    const collect = (from) => lines.forEach((line) => line.y.forEach((v, i) => {
      if (isFinite(v) && line.x[i] >= from && line.x[i] <= high) values.push(v);
    }));
    collect(begin);
    if (values.length < 3) { values.length = 0; collect(low); }
    if (!view.range) values.push(...references.xz.map((r) => r.y), ...references.expected.slice(1));
    let [bottom, top] = extent(values);
    if (!values.length) return { bottom: 0, top: 1, isLog: false };
    const sorted = values.slice().sort((a, b) => a - b), median = sorted[sorted.length >> 1];
    if (bottom > 0 && top > 20 * median) return { bottom: bottom / 1.1, top: top * 1.1, isLog: true };
    if (bottom === top) { const margin = Math.abs(top) * 0.1 || 1; return { bottom: bottom - margin, top: top + margin, isLog: false }; }
    const margin = (top - bottom) * 0.06;
    return { bottom: bottom >= 0 ? Math.max(0, bottom - margin) : bottom - margin, top: top + margin, isLog: false };
  }
  function ticks(low, high, wanted, steps = null) {
    const rough = (high - low) / wanted, power = 10 ** Math.floor(Math.log10(rough));
    let step = steps && steps.find((s) => s >= rough);
    step = step || [1, 2, 5, 10].map((s) => s * power).find((s) => s >= rough * 0.999);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(+(i * step).toPrecision(12));
    return found;
  }
  function logTicks(low, high) {
    const found = [], wide = Math.log10(high / low) > 2.5;
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
      for (const digit of wide ? [1] : [1, 2, 5])
        if (digit * 10 ** power >= low && digit * 10 ** power <= high) found.push(+(digit * 10 ** power).toPrecision(6));
    return found;
  }
  const TIMES = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400];

  // --- drawing ---
  function path(line, values, px, py) {
    let d = "", pen = false;
    values.forEach((v, i) => {
      if (!isFinite(v) || !isFinite(line.x[i])) { pen = false; return; }
      d += `${pen ? "L" : "M"}${px(line.x[i]).toFixed(1)} ${py(v).toFixed(1)}`;
      if (!pen && !isFinite(values[i + 1] ?? NaN)) d += "h0"; // a single point between gaps: its round ends
      pen = true;
    });
    return d;
  }
  class Chart {
    constructor(figure) {
      this.figure = figure;
      this.key = figure.dataset.chart;
      this.plot = figure.querySelector(".plot");
      this.tip = figure.querySelector(".tip");
      this.plot.addEventListener("pointermove", (event) => this.move(event));
      this.plot.addEventListener("pointerdown", (event) => this.press(event));
      this.plot.addEventListener("pointerleave", () => { if (!this.from) showAt(null); });
      this.plot.addEventListener("blur", () => showAt(null));
      this.plot.addEventListener("keydown", (event) => this.onKey(event));
      this.plot.addEventListener("dblclick", () => zoom(null));
    }
    draw() {
      this.lines = linesOf(this.key);
      this.references = referencesOf(this.key);
      this.figure.hidden = !this.lines.length && this.key !== "quality";
      const isMain = this.key === "quality", width = Math.max(240, this.plot.clientWidth || 640);
      const height = isMain ? Math.round(Math.min(400, Math.max(260, width * 0.42))) : 190;
      this.box = { left: 46, right: width - 10, top: 10, bottom: height - 24, width, height };
      this.scale();
      const image = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height });
      this.image = image;
      this.drawGrid();
      const clip = `clip-${this.key}`, { left, right, top, bottom } = this.box;
      svg("rect", { x: left - 4, y: top - 4, width: right - left + 8, height: bottom - top + 8 }, svg("clipPath", { id: clip }, image));
      const area = svg("g", { "clip-path": `url(#${clip})` }, image);
      this.drawMarks(area);
      this.lines.forEach((line) => this.drawLine(area, line));
      this.drawReferences();
      this.over = svg("g", {}, image);
      this.plot.replaceChildren(image);
      this.describe();
      if (isMain) this.drawLegend();
      if (this.key.startsWith("corpus_")) this.nameLines();
    }
    scale() {
      const { left, right, top, bottom } = this.box;
      this.range = xRange(this.lines);
      const [low, high] = this.range, y = yRange(this.lines, this.references, this.range);
      this.y = y;
      this.px = (v) => left + ((v - low) / (high - low)) * (right - left);
      this.xAt = (p) => low + ((p - left) / (right - left)) * (high - low);
      const place = y.isLog ? (v) => Math.log(Math.max(v, 1e-300) / y.bottom) / Math.log(y.top / y.bottom) : (v) => (v - y.bottom) / (y.top - y.bottom);
      // Values far outside are drawn at a border that clips them.
      this.py = (v) => bottom - Math.min(5, Math.max(-5, place(v))) * (bottom - top);
    }
    drawGrid() {
      const { left, right, top, bottom, width, height } = this.box, grid = svg("g", { class: "grid" }, this.image);
      const rows = this.y.isLog ? logTicks(this.y.bottom, this.y.top) : ticks(this.y.bottom, this.y.top, height / 60);
      for (const v of rows) {
        svg("line", { x1: left, x2: right, y1: this.py(v), y2: this.py(v) }, grid);
        svg("text", { x: left - 8, y: this.py(v) + 4, "text-anchor": "end" }, this.image, short(v));
      }
      const steps = view.axis === "seconds" ? TIMES : null, wanted = Math.max(2, width / 110);
      for (const v of ticks(...this.range, wanted, steps)) {
        const x = this.px(v);
        svg("line", { class: "axis", x1: x, x2: x, y1: bottom, y2: bottom + 4 }, this.image);
        const anchor = x > right - 20 ? "end" : "middle";
        svg("text", { x: anchor === "end" ? Math.min(x + 10, right + 8) : x, y: bottom + 18, "text-anchor": anchor }, this.image, AXES[view.axis].tick(v));
      }
      svg("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }, this.image);
      if (this.y.isLog) svg("text", { x: left + 4, y: top + 8 }, this.image, "log scale");
    }
    drawLine(area, line) {
      const group = svg("g", { class: `line ${line.colour}`, "data-run": line.run }, area);
      const isSingle = line.y.filter(isFinite).length < 2;
      const kind = isSingle ? "single" : line.mean ? "raw faint" : "";
      svg("path", { class: kind, d: path(line, line.y, this.px, this.py) }, group);
      if (line.mean) svg("path", { d: path(line, line.mean.map((v, i) => (isFinite(line.y[i]) ? v : NaN)), this.px, this.py) }, group);
      if (line.dots && line.x.length <= 120)
        line.y.forEach((v, i) => { if (isFinite(v)) svg("circle", { class: "dot", cx: this.px(line.x[i]), cy: this.py(v), r: 3.2 }, group); });
    }
    drawMarks(area) {
      const { top, bottom } = this.box;
      RUNS.forEach((run, index) => {
        if (view.hidden.has(index)) return;
        for (const mark of run.marks) {
          const x = this.px(number(mark[view.axis])), kind = mark.kind.replaceAll(" ", "-");
          if (!isFinite(x)) continue;
          const node = svg("g", { class: `mark ${kind}` }, area);
          if (["restart", "roll-back", "error"].includes(kind)) svg("line", { x1: x, x2: x, y1: top, y2: bottom }, node);
          svg("path", { d: `M${x - 4} ${bottom}l4 -8l4 8z` }, node);
        }
      });
    }
    drawReferences() {
      const { left, right } = this.box, [best, low, high] = this.references.expected;
      const isInside = (v) => v >= this.y.bottom && v <= this.y.top;
      const group = svg("g", { class: "reference" }, this.image);
      for (const { y, label } of this.references.xz) {
        if (!isInside(y)) continue;
        svg("line", { x1: left, x2: right, y1: this.py(y), y2: this.py(y) }, group);
        svg("text", this.roomFor(label, this.py(y)), group, label);
      }
      if (best === undefined || view.range) return;
      const bar = svg("g", { class: "reference expected" }, this.image), x = right - 3;
      svg("title", {}, bar, `expected: ${exact(best)} (${exact(low)} to ${exact(high)})`);
      svg("line", { x1: x, x2: x, y1: this.py(low), y2: this.py(high) }, bar);
      svg("line", { x1: x - 5, x2: x + 3, y1: this.py(best), y2: this.py(best) }, bar);
    }
    roomFor(label, y) { // beside a line at height y, where fewest points of the curves are
      const { left, right } = this.box, width = label.length * 6.5;
      const places = [[right - 14, -5], [right - 14, 14], [left + 8 + width, -5], [left + 8 + width, 14]];
      const taken = ([end, shift]) => this.lines.flatMap((line) => (line.mean || line.y).filter((v, i) => {
        const px = this.px(line.x[i]), py = this.py(v) - y - shift + 4;
        return px > end - width && px < end + 4 && Math.abs(py) < 9;
      })).length;
      const [end, shift] = places.reduce((a, b) => (taken(b) < taken(a) ? b : a));
      return { x: end, y: y + shift, "text-anchor": "end" };
    }
    nameLines() {
      const legend = this.figure.querySelector(".legend");
      legend.replaceChildren();
      for (const { colour, dots, label } of this.lines) {
        swatch(html("span", "", legend), colour, dots ? "dot" : "line");
        const share = 100 * CORPORA.find(({ name }) => name === label).share;
        legend.lastChild.append(dots ? label : `${label}: ${+share.toPrecision(3)} %`);
      }
    }
    drawLegend() {
      const legend = this.figure.querySelector(".legend");
      legend.replaceChildren();
      const add = (classes, drawing, text) => swatch(html("span", "", legend), classes, drawing) || legend.lastChild.append(text);
      const keys = new Set(this.lines.map((line) => line.key)), smooth = this.lines.some((line) => line.mean);
      if (keys.has("loss") || keys.has("bits")) add("c0", smooth ? "raw" : "line", smooth ? "training" : "training batch");
      if (smooth) add("c0", "line", "its running mean");
      if (keys.has("val_bits") || keys.has("val_loss")) add(SEVERAL ? "c0" : "c1", "dot", "validation");
      if (this.references.expected.length && !view.range) add("c0", "line", "expected at the end (bar at the right)");
      for (const kind of new Set(RUNS.flatMap((run) => run.marks.map((mark) => mark.kind)))) {
        const item = html("span", "", legend), icon = svg("svg", { viewBox: "0 0 10 10" }, item);
        icon.classList.add("small");
        svg("path", { d: "M1 9l4 -8l4 8z" }, svg("g", { class: `mark ${kind.replaceAll(" ", "-")}` }, icon));
        item.append(kind);
      }
    }
    describe() {
      const title = this.figure.querySelector("h3").textContent;
      const parts = this.lines.slice(0, 8).map((line) => {
        const finite = line.y.filter(isFinite);
        return finite.length ? `${line.label || "values"}: first ${exact(finite[0])}, last ${exact(finite.at(-1))}` : "";
      });
      this.plot.setAttribute("aria-label", `${title}. ${parts.filter(Boolean).join("; ")}. Arrow keys move along the values.`);
      if (this.key === "quality") this.figure.querySelector(".unit").textContent = view.unit === "bits" ? "bits per byte" : "loss, nats per token";
    }

    // --- reading values ---
    nearest(line, x) {
      let low = 0, high = line.x.length - 1;
      const at = (i) => { while (i < high && !isFinite(line.x[i])) i++; return line.x[i]; };
      while (high - low > 1) { const middle = (low + high) >> 1; if (at(middle) <= x) low = middle; else high = middle; }
      const order = [low, high, low - 1, high + 1].filter((i) => line.recorded[i] && isFinite(line.x[i]));
      return order.sort((a, b) => Math.abs(line.x[a] - x) - Math.abs(line.x[b] - x))[0];
    }
    show(x, pointerY = null) {
      this.over.replaceChildren();
      this.tip.hidden = true;
      if (x === null || !this.lines.length || x < this.range[0] || x > this.range[1]) return;
      const found = this.lines.map((line) => ({ line, index: this.nearest(line, x) })).filter(({ index }) => index !== undefined);
      if (!found.length) return;
      // The cursor stands at a record; the others tell their own step if it is another one.
      const first = found.reduce((a, b) => (Math.abs(b.line.x[b.index] - x) < Math.abs(a.line.x[a.index] - x) ? b : a));
      const at = first.line.x[first.index], { top, bottom } = this.box;
      svg("line", { class: "cursor", x1: this.px(at), x2: this.px(at), y1: top, y2: bottom }, this.over);
      for (const { line, index } of found) {
        const y = this.py(line.y[index]);
        if (isFinite(y) && y >= top - 4 && y <= bottom + 4) svg("circle", { class: `point ${line.colour}`, cx: this.px(line.x[index]), cy: y, r: 3.5 }, this.over);
      }
      if (pointerY !== null) this.showTip(found, first, at, pointerY);
    }
    showTip(found, first, at, pointerY) {
      const tip = this.tip, distance = ({ line, index }) => { const d = Math.abs(this.py(line.y[index]) - pointerY); return isFinite(d) ? d : 1e9; };
      const shown = found.length > 8 ? found.slice().sort((a, b) => distance(a) - distance(b)).slice(0, 8) : found;
      tip.replaceChildren();
      const step = first.line.step[first.index];
      html("p", "", tip, view.axis === "step" ? AXES.step.text(step) : `${AXES[view.axis].text(at)}, step ${group(step)}`);
      const body = html("tbody", "", html("table", "", tip));
      for (const { line, index } of shown) {
        const row = html("tr", "", body), name = html("td", "name", row);
        swatch(name, line.colour, line.dots ? "dot" : "line");
        name.append(line.label || this.figure.querySelector("h3").textContent.toLowerCase());
        const value = html("td", "value", row, exact(line.y[index]) + (line.step[index] === step ? "" : ` at ${group(line.step[index])}`));
        Object.assign(value.dataset, { run: line.run, series: line.key, step: line.step[index], value: line.y[index] });
      }
      if (found.length > shown.length) html("p", "", tip, `and ${found.length - shown.length} more`);
      const px = this.px(at), near = RUNS.flatMap((run, i) => (view.hidden.has(i) ? [] : run.marks)).filter((mark) => Math.abs(this.px(number(mark[view.axis])) - px) < 5);
      for (const mark of near.slice(0, 3)) html("p", "", tip, mark.kind === "not finite" ? mark.text : `${mark.kind}: ${mark.text}`);
      tip.hidden = false;
      const width = this.plot.clientWidth, ratio = width / this.box.width, beside = px * ratio;
      const right = beside + 14 + tip.offsetWidth <= width;
      tip.style.left = `${Math.max(0, right ? beside + 14 : beside - 14 - tip.offsetWidth)}px`;
      tip.style.top = `${this.plot.offsetTop + 8}px`;
    }
    at(event) {
      const frame = this.plot.getBoundingClientRect(), ratio = this.box.width / frame.width;
      return { x: this.xAt((event.clientX - frame.left) * ratio), y: (event.clientY - frame.top) * ratio };
    }
    move(event) {
      const { x, y } = this.at(event);
      if (this.from !== undefined && this.from !== null) return this.select(x);
      const [low, high] = this.range;
      showAt(Math.min(high, Math.max(low, x)), this, y);
    }
    press(event) {
      if (event.pointerType !== "mouse" || event.button !== 0) return this.move(event);
      this.from = this.at(event).x;
      this.plot.setPointerCapture(event.pointerId);
      const end = (up) => {
        const range = [this.from, this.at(up).x].sort((a, b) => a - b).map((v) => Math.min(this.range[1], Math.max(this.range[0], v)));
        this.from = null;
        this.plot.removeEventListener("pointerup", end);
        this.plot.removeEventListener("pointercancel", end);
        if (this.px(range[1]) - this.px(range[0]) > 6) zoom(range); else showAt(null);
      };
      this.plot.addEventListener("pointerup", end);
      this.plot.addEventListener("pointercancel", end);
      return undefined;
    }
    select(x) {
      const { top, bottom } = this.box, [a, b] = [this.px(this.from), this.px(x)].sort((c, d) => c - d);
      this.tip.hidden = true;
      this.over.replaceChildren(svg("rect", { class: "selection", x: a, width: b - a, y: top, height: bottom - top }));
    }
    onKey(event) {
      const line = this.lines[0], moves = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
      if (event.key === "Escape") return zoom(null);
      if (!line || !(event.key in moves)) return undefined;
      event.preventDefault();
      const places = line.x.map((_, i) => i).filter((i) => line.recorded[i] && isFinite(line.x[i]) && line.x[i] >= this.range[0] && line.x[i] <= this.range[1]);
      this.place = Math.min(places.length - 1, Math.max(0, (this.place ?? -1) + moves[event.key]));
      return showAt(line.x[places[this.place]], this, this.box.top);
    }
  }

  // --- the page ---
  const charts = [...document.querySelectorAll(".chart")].map((figure) => new Chart(figure));
  const draw = () => charts.forEach((chart) => chart.draw());
  const showAt = (x, own = null, y = null) => charts.forEach((chart) => { if (!chart.figure.hidden) chart.show(x, chart === own ? y : null); });
  function zoom(range) {
    view.range = range;
    document.getElementById("reset").hidden = !range;
    draw();
  }
  document.getElementById("reset").addEventListener("click", () => zoom(null));
  document.querySelectorAll("input[name=axis], input[name=unit]").forEach((input) => input.addEventListener("change", () => {
    view[input.name] = input.value;
    zoom(input.name === "axis" ? null : view.range);
  }));
  function choose(name, isKnown) { // switch off what this data does not have
    const inputs = [...document.querySelectorAll(`input[name=${name}]`)];
    inputs.forEach((input) => { input.disabled = !isKnown(input.value); });
    const chosen = inputs.find((input) => input.checked && !input.disabled) || inputs.find((input) => !input.disabled) || inputs[0];
    chosen.checked = true;
    view[name] = chosen.value;
  }
  const all = () => RUNS.flatMap((run) => Object.values(run.series));
  choose("axis", (axis) => axis === "step" || all().some((series) => series[axis].some((v) => typeof v === "number")));
  choose("unit", (unit) => unit === "nats" || RUNS.some((run) => run.bits_per_nat || run.series.bits || run.series.val_bits));
  document.getElementById("all")?.addEventListener("change", (event) => {
    document.querySelectorAll("tr[data-run] input").forEach((input) => { input.checked = event.target.checked; });
    view.hidden = new Set(event.target.checked ? [] : RUNS.keys());
    draw();
  });
  document.querySelectorAll("tr[data-run]").forEach((row) => {
    const index = Number(row.dataset.run), lines = () => document.querySelectorAll(`.plot [data-run="${index}"]`);
    swatch(row.querySelector(".swatch"), look(index), "line");
    row.querySelector("input").addEventListener("change", (event) => {
      if (event.target.checked) view.hidden.delete(index); else view.hidden.add(index);
      draw();
    });
    const lift = (isOn) => () => {
      document.body.classList.toggle("dimmed", isOn);
      lines().forEach((line) => line.classList.toggle("lit", isOn));
    };
    row.addEventListener("pointerenter", lift(true));
    row.addEventListener("pointerleave", lift(false));
  });
  // --- a run that is going on ---
  const MAX_POINTS = 8000; // of a series; then the page is loaded again, with fewer
  function append(key, news) {
    const series = (RUNS[0].series[key] ??= { step: [], tokens: [], seconds: [], value: [] });
    for (const [column, values] of Object.entries(news)) series[column].push(...values);
    while (series.mean && series.mean.length < series.value.length) {
      const end = series.mean.length + 1, last = series.value.slice(Math.max(0, end - 20), end).map(number).filter(isFinite);
      series.mean.push(last.length ? last.reduce((a, b) => a + b) / last.length : null);
    }
    return series.step.length;
  }
  async function renew() { // numbers and texts, after a validation or samples
    const page = new DOMParser().parseFromString(await (await fetch("/")).text(), "text/html");
    for (const place of [".subtitle", ".hero", ".figures", ".timeline"]) {
      const [old, now] = [document, page].map((from) => from.querySelector(place));
      if (old && now) old.replaceWith(now);
    }
  }
  async function follow(position) {
    let offset = position.offset;
    try {
      const answer = await (await fetch(`/records?offset=${offset}&generation=${position.generation}`)).json();
      if (answer.reload) return location.reload();
      const news = Object.entries(answer.series), sizes = news.map(([key, columns]) => append(key, columns));
      if (Math.max(0, ...sizes) > MAX_POINTS) return location.reload();
      if (news.length) draw();
      if (answer.series.val_loss) await renew();
      offset = answer.offset;
    } catch { // the server is gone, or busy: ask again
    }
    return setTimeout(() => follow({ ...position, offset }), 2000);
  }
  if (DATA.live) setTimeout(() => follow(DATA.live), 2000);

  let width = 0;
  new ResizeObserver(() => {
    if (document.body.clientWidth === width) return;
    width = document.body.clientWidth;
    draw();
  }).observe(document.body);
  draw();
})();
