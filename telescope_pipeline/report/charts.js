// The charts: each figure's description in Vega-Lite, fitted to the page, and its numbers.

const AXES = 74, WIDEST = 1.5, NARROWEST = 160, LEGEND_ENTRY = 170, SCROLLBAR = 20;
const darkScheme = matchMedia("(prefers-color-scheme: dark)");

const element = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
};

class Chart {
  constructor(node) {
    this.node = node;
    this.host = node.querySelector(".chart");
    this.said = node.querySelector("[aria-live]");
    this.spec = JSON.parse(node.querySelector(".chart-data").textContent);
    this.readData();
    this.position = -1;
    this.fields = new Map();
    for (const { field, title } of this.panels().flatMap(({ lines }) => lines)) {
      this.fields.set(title, [...(this.fields.get(title) || []), field]);
    }
    this.host.addEventListener("keydown", (event) => this.key(event));
    for (const [view, text] of [["chart", "Chart"], ["picture", "Picture"], ["table", "Numbers"]]) {
      const choice = element("button", "", text);
      choice.type = "button";
      choice.dataset.shows = view;
      choice.addEventListener("click", () => this.show(view));
      node.querySelector(".views").append(choice);
    }
    this.show("chart");
  }

  // Vega's own reader of CSV writes code, which the page's policy forbids.
  readData() {
    for (const view of this.spec.concat || []) {
      const { name, format } = view.data || {};
      if (!format) continue;
      const [head, ...rows] = this.spec.datasets[name].trim().split("\n").map((row) => row.split(","));
      const read = (column, cell) => (format.parse[column] === "number" ? (cell ? Number(cell) : null) : cell);
      this.spec.datasets[name] = rows.map((row) => Object.fromEntries(head.map((c, n) => [c, read(c, row[n])])));
      delete view.data.format;
    }
  }

  show(view) {
    this.node.dataset.view = view;
    for (const choice of this.node.querySelectorAll(".views button")) {
      choice.setAttribute("aria-pressed", String(choice.dataset.shows === view));
    }
    const host = this.node.querySelector(".chart-table");
    if (view === "table" && !host.childElementCount) host.append(...this.panels().map(tableOf));
  }

  // As many panels side by side as the page has room for.
  fitted() {
    const spec = structuredClone(this.spec);
    const room = this.host.clientWidth - 20;
    if (!spec.concat) return { ...spec, width: room - AXES };
    const least = Math.min(NARROWEST, spec.concat[0].width);
    const columns = Math.min(spec.columns, Math.max(1, Math.floor(room / (least + AXES))));
    const beside = spec.concat.length > 1 && this.spec.columns > 1;
    const share = (room - this.legendBeside()) / columns - AXES;
    for (const view of spec.concat) {
      view.width = Math.max(80, Math.min(share, (beside ? WIDEST : 2) * view.width));
      for (const { encoding } of view.layer || []) this.fitLegend(encoding, room);
      if (columns === spec.columns || !view.encoding) continue;
      // In other rows and columns, every panel needs what its neighbours said for it.
      for (const channel of ["x", "y"]) {
        Object.assign(view.encoding[channel].axis, { labels: true, title: view.encoding[channel].title });
      }
    }
    if (columns < spec.columns) spec.concat = spec.concat.filter((view) => view.encoding);
    spec.columns = columns;
    return spec;
  }

  // The room of a legend to the right of the panels.
  legendBeside() {
    const layers = this.spec.concat.flatMap((view) => view.layer || []);
    const found = layers.find(({ encoding }) => encoding && encoding.color && encoding.color.legend);
    return found && found.encoding.color.legend.orient === "right" ? 70 : 0;
  }

  fitLegend(encoding, room) {
    for (const { legend } of [encoding?.color, encoding?.strokeDash].filter(Boolean)) {
      if (legend) legend.columns = Math.min(legend.columns, Math.max(1, Math.floor(room / LEGEND_ENTRY) - 1));
    }
  }

  async draw() {
    this.width = this.host.clientWidth;
    const options = {
      ast: true, actions: false, defaultStyle: false, renderer: "canvas", logLevel: 1,
      tooltip: (handler, event, item, value) => this.tooltip(event, item, value),
    };
    const drawn = element("div");
    const { view } = await embedChart(drawn, this.fitted(), options);
    if (this.view) this.view.finalize();
    this.view = view;
    this.tip = element("div", "tooltip");
    this.tip.hidden = true;
    this.host.replaceChildren(drawn, this.tip);
    await this.recolour();
    this.node.dataset.drawn = "yes";
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

  // Panels as numbers; what hovering names is what their columns are.
  panels() {
    return (this.spec.concat || []).filter((view) => view.encoding).map((view) => {
      const hovering = view.layer.find((layer) => layer.encoding && layer.encoding.tooltip);
      const [x, ...lines] = hovering.encoding.tooltip;
      const at = new Map();
      for (const { line, x: position, y, e } of this.spec.datasets[view.data.name]) {
        if (!at.has(position)) at.set(position, {});
        if (y !== null) at.get(position)[line] = formatEstimate(y, e);
      }
      const title = [view.encoding.y.title, [].concat((view.title || {}).text || []).join(", ")];
      const positions = [...at.keys()].sort((a, b) => a - b);
      return { title: title.filter(Boolean).join(": "), x: x.title, lines, positions, at };
    });
  }

  // Left and right read the values of all panels at one position after the other.
  key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || !this.view) return;
    event.preventDefault();
    const panels = this.panels();
    const { positions, x } = panels[0];
    this.position = Math.min(Math.max(this.position + step, 0), positions.length - 1);
    const here = positions[this.position];
    this.view.signal("at", here).runAsync();
    const values = panels.flatMap(({ at, lines }) => {
      const found = at.get(here) || {};
      return lines.filter(({ field }) => found[field]).map(({ field, title }) => `${title} ${found[field]}`);
    });
    this.said.textContent = `${x} ${formatNumber(here)}: ${values.join("; ")}`;
  }
}

function tableOf({ title, x, lines, positions, at }) {
  const table = element("table", "numbers");
  table.append(element("caption", "", title));
  const head = table.createTHead().insertRow();
  for (const text of [x, ...lines.map((line) => line.title)]) {
    const cell = element("th", "", text);
    cell.scope = "col";
    head.append(cell);
  }
  const body = table.createTBody();
  for (const position of positions) {
    const row = body.insertRow();
    const name = element("th", "", formatNumber(position, 6));
    name.scope = "row";
    row.append(name);
    const values = at.get(position) || {};
    for (const { field } of lines) row.insertCell().textContent = values[field] || "";
  }
  return table;
}

const charts = new Map();
const whenSeen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    whenSeen.unobserve(target);
    const chart = charts.get(target);
    chart.draw().catch((error) => {
      chart.show("picture");
      console.error(error);
    });
  }
}, { rootMargin: "300px" });
const whenResized = new ResizeObserver((entries) => entries.forEach(({ target }) => charts.get(target.parentNode).redraw()));

for (const node of document.querySelectorAll("figure[data-view]")) {
  charts.set(node, new Chart(node));
  whenSeen.observe(node);
  whenResized.observe(node.querySelector(".chart"));
}
darkScheme.addEventListener("change", () => charts.forEach((chart) => chart.recolour()));
