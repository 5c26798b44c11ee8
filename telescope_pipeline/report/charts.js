// Figures and cards: a drawing each, when it comes into view; of figures also their picture, their numbers and the keyboard.

class Chart {
  constructor(node, spec) {
    this.node = node;
    this.host = node.querySelector(".chart");
    this.said = node.querySelector("[aria-live]");
    this.drawing = new Drawing(this.host, spec);
    this.panels = panelsOf(spec);
    this.position = -1;
    this.panel = 0;
    this.host.addEventListener("keydown", (event) => this.key(event));
    const legend = legendOf(this.drawing);
    if (legend) this.host.before(legend);
    const views = node.querySelector(".views");
    for (const [view, text] of [["chart", "Chart"], ["picture", "Picture"], ["table", "Numbers"]]) {
      const choice = element("button", "", text);
      choice.type = "button";
      choice.dataset.shows = view;
      choice.addEventListener("click", () => this.show(view));
      views.append(choice);
    }
    const scales = this.panels.length ? spec.concat.filter((v) => v.encoding).map((v) => v.encoding.y.scale.type) : [];
    if (scales.length) this.addSwitch(views, scales.every((type) => type === "log") ? "Linear axis" : "Log axis");
    this.show("chart");
  }

  addSwitch(views, text) {
    const button = element("button", "switch", text);
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => {
      this.drawing.log = !this.drawing.log;
      button.setAttribute("aria-pressed", String(this.drawing.log));
      this.show("chart");
      this.drawing.draw();
    });
    views.after(button);
  }

  show(view) {
    this.node.dataset.view = view;
    for (const choice of this.node.querySelectorAll(".views button")) {
      choice.setAttribute("aria-pressed", String(choice.dataset.shows === view));
    }
    const table = this.node.querySelector(".chart-table"), picture = this.node.querySelector(".picture");
    if (view === "table" && !table.childElementCount) table.append(...this.panels.map(tableOf));
    // The picture of the first figure is on the card.
    const card = document.querySelector(`.key[data-figure="${CSS.escape(this.node.id)}"] img`);
    if (view === "picture" && card && !picture.querySelector("img")) picture.replaceChildren(card.cloneNode());
  }

  async draw() {
    await this.drawing.draw();
    this.node.dataset.drawn = "yes";
  }

  // Left and right read the values at one position after the other, up and down choose the panel.
  key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key], turn = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!(step || turn) || !this.drawing.view || !this.panels.length) return;
    event.preventDefault();
    const kept = this.panels[this.panel].positions[this.position];
    if (turn) this.panel = Math.min(Math.max(this.panel + turn, 0), this.panels.length - 1);
    const { positions, x, title, at, lines } = this.panels[this.panel];
    if (turn && kept !== undefined) {
      const near = positions.findIndex((position) => position >= kept);
      this.position = near < 0 ? positions.length - 1 : near;
    }
    this.position = Math.min(Math.max(this.position + (step || 0), 0), positions.length - 1);
    const here = positions[this.position];
    this.drawing.view.signal("at", here).runAsync();
    const found = at.get(here) || {};
    const values = lines.filter(({ field }) => found[field]).map((line) => `${line.title} ${found[line.field]}`);
    const where = turn || this.panels.length === 1 ? "" : ` (${title})`;
    this.said.textContent = `${turn ? `${title}. ` : ""}${x} ${formatNumber(here)}${where}: ${values.join("; ")}`;
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

// Once for a figure and its card.
const specs = new Map();
const specOf = (figure) => {
  if (!specs.has(figure)) specs.set(figure, readSpec(figure.querySelector(".chart-data").textContent));
  return specs.get(figure);
};

function startFigure(node) {
  const chart = new Chart(node, specOf(node));
  chart.draw().catch((error) => {
    chart.show("picture");
    console.error(error);
  });
  return chart.drawing;
}

function startCard(node) {
  const figure = document.getElementById(node.dataset.figure);
  const spec = keyPanels(specOf(figure), node.dataset.key.split(",").filter(Boolean).map(Number));
  const host = element("div", "card-chart");
  node.prepend(host);
  const drawing = new Drawing(host, spec);
  const legend = legendOf(drawing);
  if (legend) node.prepend(legend);
  node.dataset.state = "drawn";
  drawing.draw().catch((error) => {
    node.dataset.state = "picture";
    console.error(error);
  });
  return drawing;
}

const drawings = new Map();
const whenResized = new ResizeObserver((entries) => entries.forEach(({ target }) => drawings.get(target).redraw()));
const whenSeen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    whenSeen.unobserve(target);
    const drawing = target.matches("figure") ? startFigure(target) : startCard(target);
    drawings.set(drawing.host, drawing);
    whenResized.observe(drawing.host);
  }
}, { rootMargin: "300px" });

for (const node of document.querySelectorAll("figure[data-view], .key[data-figure]")) whenSeen.observe(node);
darkScheme.addEventListener("change", () => drawings.forEach((drawing) => drawing.recolour()));
