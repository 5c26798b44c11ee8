// A figure: its panels, and what they share: the legend, the x axis, the views.

const KEYS = "Left and right read values, up and down change the panel, plus and minus zoom, shift and arrows pan, escape resets.";

const element = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
};

const button = (text, label, action) => {
  const node = element("button", "", text);
  node.type = "button";
  if (label) node.setAttribute("aria-label", label);
  node.addEventListener("click", action);
  return node;
};

class ChartFigure {
  constructor(node) {
    const content = JSON.parse(node.querySelector(".chart-data").textContent);
    this.node = node;
    this.id = node.id;
    this.content = content;
    this.xLabel = content.x.label;
    this.xScale = content.x.scale;
    this.hidden = new Set();
    this.active = null;
    this.colours = new Map();
    this.rows = content.rows.map((row) => ({ label: row.label, log: row.log, panels: [] }));
    this.build(node.querySelector(".chart"));
    this.offerViews(node.querySelector(".views"));
  }

  build(host) {
    this.legend = this.buildLegend();
    this.tools = this.buildTools();
    const head = element("div", "chart-head");
    head.append(this.legend, this.tools);
    const grids = this.buildPanels();
    const foot = element("p", "chart-foot muted", "Drag to zoom, shift and drag to pan, double-click to reset.");
    this.said = element("p", "hidden");
    this.said.setAttribute("aria-live", "polite");
    host.append(head, ...grids, foot, this.said);
  }

  buildLegend() {
    const list = element("div", "legend");
    list.setAttribute("role", "group");
    list.setAttribute("aria-label", "Show or hide lines");
    if (this.content.legendTitle) list.append(element("span", "legend-title", this.content.legendTitle));
    this.keys = this.content.legend.map(([text], n) => {
      const key = button("", "", () => this.toggle(n));
      key.append(this.swatch(n), text);
      key.setAttribute("aria-pressed", "true");
      key.addEventListener("dblclick", () => this.isolate(n));
      key.title = "Click: show or hide. Double-click: only this one.";
      return key;
    });
    list.append(...this.keys);
    return list;
  }

  buildTools() {
    const tools = element("div", "tools");
    this.resetButton = button("Reset", "Reset zoom", () => this.reset());
    this.resetButton.disabled = true;
    tools.append(
      button("−", "Zoom out", () => this.magnify(2)),
      button("+", "Zoom in", () => this.magnify(0.5)),
      this.resetButton,
    );
    if (this.rows.some((row, n) => this.mayBeLog(n))) {
      this.logButton = button("log y", "Logarithmic vertical axis", () => this.switchLog());
      this.logButton.setAttribute("aria-pressed", String(this.rows.some((row) => row.log)));
      tools.append(this.logButton);
    }
    return tools;
  }

  mayBeLog(n) {
    return this.content.rows[n].panels.some((p) => p.curves.some((c) => c[1].some((v) => v > 0)));
  }

  buildPanels() {
    const stacked = !this.content.legendTitle && this.content.rows.some((row) => row.panels.length > 1);
    const grids = [];
    let grid = null;
    this.content.rows.forEach((row, n) => {
      if (stacked) grids.push(element("p", "measure", row.label));
      if (stacked || !grid) {
        grid = element("div", "panels");
        grids.push(grid);
      }
      for (const panel of row.panels) {
        const whole = [row.label, panel.title].filter(Boolean).join(", ");
        const box = element("div", "panel-box");
        const host = element("div", "plot");
        // One stop for the tab key per figure; the arrows go on from there.
        host.tabIndex = this.panels.length ? -1 : 0;
        host.setAttribute("role", "application");
        host.setAttribute("aria-roledescription", "chart");
        host.setAttribute("aria-label", `${whole}, by ${this.xLabel}. ${KEYS}`);
        box.append(element("p", stacked ? "panel-title" : "panel-title measured", stacked ? panel.title || row.label : whole), host);
        grid.append(box);
        const made = new ChartPanel(this, this.rows[n], panel, host);
        host.addEventListener("keydown", (event) => this.key(made, event));
        host.addEventListener("blur", () => this.leave(made));
        this.rows[n].panels.push(made);
      }
    });
    const most = Math.max(...grids.map((g) => g.childElementCount));
    const columns = most <= 5 ? most : [5, 4, 3].find((n) => most % n === 0) || 4;
    for (const g of grids) {
      g.classList.add(stacked || most > 2 ? "many" : "few");
      g.style.setProperty("--columns", columns);
    }
    const ends = this.panels.map(({ x }) => [Math.min(...x), Math.max(...x)]);
    // Panels that have nothing of the axis in common have an axis each.
    this.shared = Math.max(...ends.map(([low]) => low)) < Math.min(...ends.map(([, high]) => high));
    return grids;
  }

  get panels() {
    return this.rows.flatMap((row) => row.panels);
  }

  // Called when the figure comes into view, and again when it becomes visible in another way.
  draw() {
    if (this.node.dataset.view !== "chart") return;
    if (this.drawn) return;
    this.drawn = true;
    for (const panel of this.panels) panel.draw();
    new ResizeObserver(() => this.panels.forEach((panel) => panel.resize())).observe(this.node);
    this.node.dataset.drawn = "";
  }

  offerViews(host) {
    const views = [["chart", "Chart"], ["picture", "Picture"], ["table", "Numbers"]];
    this.viewButtons = views.map(([view, text]) => {
      const choice = button(text, "", () => this.show(view));
      choice.setAttribute("aria-pressed", String(view === "chart"));
      return choice;
    });
    host.append(...this.viewButtons);
    this.show = (view) => {
      this.node.dataset.view = view;
      views.forEach(([name], n) => this.viewButtons[n].setAttribute("aria-pressed", String(name === view)));
      if (view === "table") fillTable(this);
      this.draw();
      this.panels.forEach((panel) => panel.resize());
    };
  }

  swatch(n) {
    const mark = element("span", "swatch");
    const colour = this.content.legend[n][1];
    const last = this.content.legend.length - 1;
    const place = last ? n / last : 1;
    const [from, to, part] = place < 0.5 ? ["a", "b", place * 2] : ["b", "c", place * 2 - 1];
    const between = `color-mix(in oklab, var(--value-${to}) ${(100 * part).toFixed(1)}%, var(--value-${from}))`;
    mark.style.color = colour ? `var(--${colour})` : between;
    return mark;
  }

  curveColour(n) {
    return this.remember(`curve ${n}`, () => getComputedStyle(this.keys[n].querySelector(".swatch")).color);
  }

  colourOf(name) {
    return this.remember(name, () => getComputedStyle(this.node).getPropertyValue(name).trim());
  }

  remember(name, find) {
    if (!this.colours.has(name)) this.colours.set(name, find());
    return this.colours.get(name);
  }

  recolour() {
    this.colours.clear();
    for (const panel of this.panels) if (panel.plot) panel.plot.redraw(false);
  }

  legendText(n) {
    const [text] = this.content.legend[n];
    return this.content.legendTitle ? `${this.content.legendTitle} ${text}` : text;
  }

  xRange(of) {
    if (of.window) return of.window;
    const all = (this.shared ? this.panels : [of]).flatMap((panel) => panel.x);
    const marked = this.panels.some((panel) => panel.marked);
    return padded(this.xScale, Math.min(...all), Math.max(...all), marked ? 0.04 : 0);
  }

  yRange(row) {
    let low = Infinity, high = -Infinity;
    for (const panel of row.panels) {
      const [from, to] = this.xRange(panel);
      for (const curve of panel.curves) {
        if (this.hidden.has(curve.legend)) continue;
        panel.x.forEach((x, n) => {
          const reach = x >= from && x <= to && panel.reach(curve, n);
          if (!reach) return;
          low = Math.min(low, reach[0]);
          high = Math.max(high, reach[1]);
        });
      }
    }
    if (low > high) return row.log ? [0.1, 1] : [0, 1];
    // Zero belongs to the axis unless it would flatten what there is to see.
    if (!row.log && low >= 0 && low < 0.5 * high) return [0, high * 1.06];
    return padded(row.log ? "log" : "linear", low, high, 0.06);
  }

  // Shows a range of the axis, in all panels or in the one that has it to itself.
  zoom(of, range) {
    for (const panel of this.shared ? this.panels : [of]) panel.window = range;
    this.rescale();
  }

  magnify(factor) {
    const ranges = this.panels.map((panel) => stretched(this.xScale, this.xRange(panel), factor));
    this.panels.forEach((panel, n) => { panel.window = ranges[n]; });
    this.rescale();
  }

  reset() {
    for (const panel of this.panels) panel.window = null;
    this.rescale();
  }

  rescale() {
    for (const panel of this.panels) {
      if (!panel.plot) continue;
      const [min, max] = this.xRange(panel);
      panel.plot.setScale("x", { min, max });
    }
    const zoomed = this.panels.some((panel) => panel.window);
    this.resetButton.disabled = !zoomed;
    this.node.dataset.zoomed = zoomed ? "yes" : "no";
  }

  switchLog() {
    const on = !this.rows.some((row) => row.log);
    this.rows.forEach((row, n) => { row.log = on && this.mayBeLog(n); });
    this.logButton.setAttribute("aria-pressed", String(on));
    for (const panel of this.panels) if (panel.plot) panel.draw();
  }

  toggle(n) {
    if (this.hidden.has(n)) this.hidden.delete(n);
    else this.hidden.add(n);
    this.applyHidden();
  }

  isolate(n) {
    const alone = this.keys.length - this.hidden.size === 1 && !this.hidden.has(n);
    this.hidden = new Set(alone ? [] : this.keys.map((_, m) => m).filter((m) => m !== n));
    this.applyHidden();
  }

  applyHidden() {
    this.keys.forEach((key, n) => key.setAttribute("aria-pressed", String(!this.hidden.has(n))));
    for (const panel of this.panels) {
      if (!panel.plot) continue;
      panel.curves.forEach((curve, n) => panel.plot.setSeries(n + 1, { show: !this.hidden.has(curve.legend) }));
    }
    this.rescale();
  }

  activate(panel) {
    const before = this.active;
    this.active = panel;
    if (before && before !== panel) before.point();
  }

  leave(panel) {
    if (this.active !== panel) return;
    this.activate(null);
    panel.plot.setCursor({ left: -10, top: -10 }, true, true);
  }

  key(panel, event) {
    const { key, shiftKey } = event;
    const side = { ArrowLeft: -1, ArrowRight: 1 }[key];
    if (key === "+" || key === "=") this.magnify(0.5);
    else if (key === "-") this.magnify(2);
    else if (key === "Escape" || key === "0") this.reset();
    else if (side && shiftKey) this.zoom(panel, moved(this.xScale, this.xRange(panel), side * 0.2));
    else if (key === "ArrowDown" || key === "ArrowUp") this.step(panel, key === "ArrowDown" ? 1 : -1);
    else if (side || key === "Home" || key === "End") this.read(panel, key, side);
    else return;
    event.preventDefault();
  }

  // Moves the focus to the panel before or after, if there is one.
  step(panel, by) {
    const next = this.panels[this.panels.indexOf(panel) + by];
    if (!next) return;
    panel.host.tabIndex = -1;
    next.host.tabIndex = 0;
    next.host.focus();
  }

  read(panel, key, side) {
    this.activate(panel);
    const now = panel.plot.cursor.idx;
    const next = side ? (now ?? (side > 0 ? -1 : panel.x.length)) + side : key === "Home" ? 0 : panel.x.length - 1;
    const place = panel.moveTo(next);
    const values = panel.readings(place).map(({ legend, text }) => `${this.legendText(legend)} ${text}`);
    this.said.textContent = `${panel.heading(place)}: ${values.join("; ")}`;
  }
}

const charts = [];
const whenSeen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    whenSeen.unobserve(target);
    charts.find((chart) => chart.node === target).draw();
  }
}, { rootMargin: "300px" });

for (const node of document.querySelectorAll("figure[data-view]")) {
  try {
    charts.push(new ChartFigure(node));
    whenSeen.observe(node);
  } catch (error) {
    node.dataset.view = "picture";
    console.error(error);
  }
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach((chart) => chart.recolour()));
