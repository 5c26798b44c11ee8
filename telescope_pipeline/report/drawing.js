// A description in Vega-Lite as a drawing of the page: its data read, fitted to the room there is, with a legend of buttons.

const AXES = { first: 72, shared: 16, own: 60 }, WIDEST = 1.6, SCROLLBAR = 20;
const CARD_HEIGHTS = [150, 92];
const darkScheme = matchMedia("(prefers-color-scheme: dark)");

const element = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
};
const layersOf = (view) => (view.layer || []).flatMap((layer) => (layer.layer ? layersOf(layer) : [layer]));

// Vega's own reader of CSV writes code, which the page's policy forbids.
function readSpec(text) {
  const spec = JSON.parse(text);
  for (const view of spec.concat || []) {
    const { name, format } = view.data || {};
    if (!format) continue;
    const [head, ...rows] = spec.datasets[name].trim().split("\n").map((row) => row.split(","));
    const read = (column, cell) => (format.parse[column] === "number" ? (cell ? Number(cell) : null) : cell);
    spec.datasets[name] = rows.map((row) => Object.fromEntries(head.map((c, n) => [c, read(c, row[n])])));
    delete view.data.format;
  }
  return spec;
}

// A title in two lines where one is too long.
function inLines(title, most) {
  const text = [].concat(title || []).join(" ");
  if (text.length <= most || !text.includes(" ")) return text || null;
  const gaps = [...text].flatMap((letter, n) => (letter === " " ? [n] : []));
  const at = gaps.reduce((a, b) => (Math.abs(b - text.length / 2) < Math.abs(a - text.length / 2) ? b : a));
  return [text.slice(0, at), text.slice(at + 1)];
}

// Some panels of a figure alone, for a card; axes that a neighbour spoke for speak for themselves.
function keyPanels(spec, numbers) {
  if (!spec.concat) return spec;
  const chosen = numbers.length ? numbers : spec.concat.map((_, n) => n).filter((n) => spec.concat[n].encoding);
  const concat = chosen.map((n) => structuredClone(spec.concat[n])).filter((view) => view && view.encoding);
  const columns = Math.min(spec.columns, concat.length), rows = Math.ceil(concat.length / columns);
  concat.forEach((view, n) => {
    const { x, y } = view.encoding, before = n % columns ? concat[n - 1].encoding.y : null;
    if (n + columns >= concat.length) Object.assign(x.axis, { labels: true, title: x.axis.title || inLines(x.title, view.width / 6) });
    if (!before || before.title !== y.title) Object.assign(y.axis, { labels: true, title: y.axis.title || y.title });
    view.height = CARD_HEIGHTS[Math.min(rows, 2) - 1];
    y.axis.title = inLines(y.axis.title, view.height / 6.4);
  });
  return { ...spec, concat, columns, params: spec.params.filter(({ select }) => !select) };
}

class Drawing {
  constructor(host, spec) {
    this.host = host;
    this.spec = spec;
    this.log = false;
    this.picked = [];
    this.tip = element("div", "tooltip");
    this.tip.hidden = true;
    this.fields = new Map();
    for (const { field, title } of panelsOf(spec).flatMap(({ lines }) => lines)) {
      this.fields.set(title, [...(this.fields.get(title) || []), field]);
    }
  }

  // The legend is the page's own; panels share the room.
  fitted(excess) {
    const spec = structuredClone(this.spec);
    const room = this.host.clientWidth - 14 - excess;
    if (!spec.concat) return { ...spec, width: room - AXES.first };
    const other = spec.concat.slice(1, spec.columns).every(({ encoding }) => !encoding || encoding.y.axis.labels === false);
    const share = (room - AXES.first - (spec.columns - 1) * (other ? AXES.shared : AXES.own)) / spec.columns;
    for (const view of spec.concat) {
      view.width = Math.max(80, Math.min(share, WIDEST * view.width));
      for (const { encoding } of layersOf(view)) {
        for (const channel of [encoding?.color, encoding?.strokeDash]) if (channel?.legend) channel.legend = null;
      }
    }
    if (this.log) switchScales(spec);
    return spec;
  }

  async draw() {
    this.width = this.host.clientWidth;
    const options = {
      ast: true, actions: false, defaultStyle: false, renderer: "canvas", logLevel: 1,
      tooltip: (handler, event, item, value) => this.tooltip(event, item, value),
    };
    const drawn = element("div");
    let { view } = await embedChart(drawn, this.fitted(0), options);
    // Labels may take more than was left for them, and lie otherwise in narrower panels.
    for (let tries = 0, excess = 0; tries < 3 && this.spec.concat; tries += 1) {
      const over = drawn.querySelector("canvas").width / devicePixelRatio - this.width;
      if (!(over > 0)) break;
      view.finalize();
      ({ view } = await embedChart(drawn, this.fitted(excess += over), options));
    }
    if (this.view) this.view.finalize();
    this.view = view;
    this.host.replaceChildren(drawn, this.tip);
    await this.recolour();
    if (this.picked.length) await this.pick(this.picked);
  }

  // Once the width has settled.
  redraw() {
    clearTimeout(this.settling);
    this.settling = setTimeout(() => {
      const change = Math.abs(this.host.clientWidth - this.width);
      if (this.view && this.host.clientWidth && change > SCROLLBAR) this.draw();
    }, 150);
  }

  async recolour() {
    if (this.view && this.spec.params) await this.view.signal("dark", darkScheme.matches).runAsync();
  }

  async pick(keys) {
    this.picked = keys;
    if (this.view) await this.view.signal("picked", keys).runAsync();
  }

  // What hovering names: first the position, then the lines that have a value there.
  tooltip(event, item, value) {
    // Of the nearest point, Vega-Lite names texts without finding them: they are one datum deeper.
    const datum = (item && item.datum.datum) || {};
    const text = (name, found) => (found === "undefined" ? this.fields.get(name).map((field) => datum[field]).find(Boolean) : found);
    const lines = Object.entries(value || {}).map(([name, found]) => [name, text(name, found)]).filter(([, found]) => found);
    this.tip.hidden = !lines.length;
    if (!lines.length) return;
    this.tip.replaceChildren(...lines.map(([name, found]) => {
      const line = element("span", "", `${name} `);
      line.append(element("b", "", found));
      return line;
    }));
    const box = this.host.getBoundingClientRect();
    const left = event.clientX - box.left + 14, own = this.tip.offsetWidth;
    this.tip.style.left = `${left + own > box.width ? Math.max(0, left - own - 28) : left}px`;
    this.tip.style.top = `${event.clientY - box.top + 10}px`;
  }
}

// Panels as numbers; what hovering names is what their columns are.
function panelsOf(spec) {
  return (spec.concat || []).filter((view) => view.encoding).map((view) => {
    const hovering = layersOf(view).find((layer) => layer.encoding && layer.encoding.tooltip);
    const [x, ...lines] = hovering.encoding.tooltip;
    const at = new Map();
    for (const { line, x: position, y, e } of spec.datasets[view.data.name]) {
      if (!at.has(position)) at.set(position, {});
      if (y !== null) at.get(position)[line] = formatEstimate(y, e);
    }
    const title = [view.encoding.y.title, [].concat((view.title || {}).text || []).join(", ")];
    const positions = [...at.keys()].sort((a, b) => a - b);
    return { title: title.filter(Boolean).join(": "), x: x.title, lines, positions, at };
  });
}

// Linear axes of the values become logarithmic, logarithmic ones linear; panels that share their ends go on sharing them.
function switchScales(spec) {
  const views = spec.concat.filter((view) => view.encoding);
  const lowest = new Map();
  for (const view of views) {
    const ends = String(view.encoding.y.scale.domain);
    const found = spec.datasets[view.data.name].map(({ y }) => y).filter((y) => y > 0);
    lowest.set(ends, found.reduce((a, b) => Math.min(a, b), lowest.get(ends) ?? Infinity));
  }
  for (const view of views) {
    const { y } = view.encoding;
    const low = lowest.get(String(y.scale.domain)), high = y.scale.domain[1];
    delete y.axis.values;
    y.axis.labelOverlap = true;
    y.axis.tickCount = 4;
    if (y.scale.type === "log") y.scale = { type: "linear", domain: [0, high], nice: false };
    else if (low < high) {
      y.scale = { type: "log", domain: [low / 1.2, high * 1.1], nice: false };
      view.transform = [{ filter: "datum.y > 0" }];
      view.layer = view.layer.filter((layer) => !layer.layer || !(layer.layer[0].encoding.y.datum <= 0));
      for (const layer of layersOf(view)) {
        if (layer.name) layer.transform.push({ calculate: `max(datum.low, ${low / 2})`, as: "low" });
        if (layer.transform?.[1]?.fold) layer.transform.push({ filter: "datum.single > 0" });
      }
    }
  }
}

// Buttons that make their line stand out, with the colour and the dashes of the line; null if there is no legend.
function legendOf(drawing) {
  const { spec } = drawing;
  const layers = (spec.concat || []).flatMap(layersOf);
  const color = layers.map((layer) => layer.encoding?.color).find((channel) => channel?.legend);
  if (!color || !color.legend.labelExpr) return null;
  const dash = layers.map((layer) => layer.encoding?.strokeDash).find(Boolean);
  const labels = JSON.parse(color.legend.labelExpr.replace(/\[datum\.value\]$/, ""));
  const drawn = new Set(spec.concat.filter((v) => v.encoding).flatMap((v) => spec.datasets[v.data.name].map(({ line }) => line)));
  const host = element("div", "legend");
  host.setAttribute("role", "group");
  host.setAttribute("aria-label", "Lines");
  if (color.legend.title) host.append(element("span", "muted", color.legend.title));
  // Lines with one label and other looks belong together, such as one for each shade.
  for (const [key, label] of Object.entries(labels).filter(([key]) => drawn.has(key))) {
    const at = color.scale.domain.indexOf(key);
    const [dark, light] = color.scale.range[at].expr.match(/#[0-9A-Fa-f]{6}/g);
    const button = element("button"), swatch = element("i");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    swatch.style.setProperty("--light", light);
    swatch.style.setProperty("--dark", dark);
    if (dash && dash.scale.range[at][1]) swatch.className = "dashed";
    button.append(swatch, label);
    button.addEventListener("click", () => {
      const keys = drawing.picked.includes(key) ? drawing.picked.filter((other) => other !== key) : [...drawing.picked, key];
      button.setAttribute("aria-pressed", String(keys.includes(key)));
      drawing.pick(keys);
    });
    host.append(button);
  }
  return host.querySelector("button") ? host : null;
}
