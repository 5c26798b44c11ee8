// One system of coordinates, drawn by uPlot.

const MARKED_BELOW = 26;
const POINTERS = { pub: (type) => type === "mousemove" || type === "mouseleave" };

class ChartPanel {
  constructor(figure, row, content, host) {
    Object.assign(this, { figure, row, host });
    this.title = content.title;
    this.curves = content.curves.map(([legend, values, errors]) => ({ legend, values, errors }));
    this.x = content.x;
    if (figure.xScale === "log") this.leaveOut((x) => x <= 0);
    this.marked = this.x.length < MARKED_BELOW;
    this.plot = null;
    this.window = null;
  }

  leaveOut(test) {
    const kept = this.x.map((x, n) => n).filter((n) => !test(this.x[n]));
    const pick = (list) => list && kept.map((n) => list[n]);
    this.x = pick(this.x);
    for (const curve of this.curves) Object.assign(curve, { values: pick(curve.values), errors: pick(curve.errors) });
  }

  // What the curve and its band reach to at a position; null where there is nothing to draw.
  reach(curve, n) {
    const value = curve.values[n];
    if (value === null || (this.row.log && value <= 0)) return null;
    const error = (curve.errors && curve.errors[n]) || 0;
    // The same relative error to either side, so that the band stays above zero.
    if (this.row.log) return [value * Math.exp(-error / value), value * Math.exp(error / value)];
    return [value - error, value + error];
  }

  data() {
    const shown = (value) => (value === null || (this.row.log && value <= 0) ? null : value);
    return [this.x, ...this.curves.map((curve) => curve.values.map(shown))];
  }

  draw() {
    if (this.plot) this.plot.destroy();
    const width = Math.max(this.host.clientWidth, 120);
    this.plot = new uPlot(this.options(width, this.host.clientHeight), this.data(), this.host);
    this.tooltip = document.createElement("div");
    this.tooltip.className = "tooltip";
    this.tooltip.hidden = true;
    this.plot.over.append(this.tooltip);
    this.plot.over.addEventListener("mouseenter", () => this.figure.activate(this));
    this.plot.over.addEventListener("mouseleave", () => this.figure.activate(null));
  }

  resize() {
    const width = this.host.clientWidth, height = this.host.clientHeight;
    if (this.plot && width > 0 && (width !== this.plot.width || height !== this.plot.height)) {
      this.plot.setSize({ width, height });
    }
  }

  options(width, height) {
    const { figure, row } = this;
    const colour = (name) => () => figure.colourOf(name);
    const font = "12px system-ui, sans-serif";
    const axis = {
      stroke: colour("--muted"), font, gap: 4,
      grid: { stroke: colour("--grid"), width: 1 }, ticks: { show: false },
      filter: (u, splits) => splits,
    };
    const yScale = row.log ? "log" : "linear";
    return {
      width, height, padding: [10, 18, 0, 0],
      legend: { show: false },
      cursor: {
        y: false, points: { size: 7 },
        drag: { x: true, y: false, setScale: false, dist: 5 },
        ...(figure.shared && { sync: { key: figure.id, scales: ["x", null], filters: POINTERS } }),
        bind: {
          dblclick: () => () => { figure.reset(); return null; },
          mousedown: (u, target, handler) => (event) =>
            event.shiftKey ? this.pan(event) : event.button === 0 ? handler(event) : null,
        },
      },
      scales: {
        x: { time: false, ...distribution(figure.xScale), range: () => figure.xRange(this) },
        y: { ...distribution(yScale), range: () => figure.yRange(row) },
      },
      axes: [
        { ...axis, size: 24, label: figure.xLabel, labelSize: 16, labelGap: 0, labelFont: font,
          splits: (u, n, min, max) => ticksOf(figure.xScale, min, max, u.width - 60, 46, this.marked && this.x),
          values: (u, splits) => splits.map(formatTick) },
        { ...axis,
          size: (u, values) => 14 + 6.6 * Math.max(2, ...(values || []).map((text) => text.length)),
          splits: (u, n, min, max) => ticksOf(yScale, min, max, u.height - 56, 32, null),
          values: (u, splits) => splits.map(formatTick) },
      ],
      series: [{}, ...this.curves.map((curve) => ({
        show: !figure.hidden.has(curve.legend), spanGaps: true, width: 1.75,
        stroke: () => figure.curveColour(curve.legend),
        points: { show: this.marked, size: 6, fill: () => figure.curveColour(curve.legend) },
      }))],
      hooks: {
        drawAxes: [(u) => this.drawBands(u)],
        setCursor: [() => this.point()],
        setSelect: [(u) => this.select(u)],
      },
    };
  }

  drawBands(u) {
    const { ctx, bbox } = u;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.globalAlpha = 0.2;
    for (const curve of this.curves) {
      if (!curve.errors || this.figure.hidden.has(curve.legend)) continue;
      const upper = [], lower = [];
      this.x.forEach((x, n) => {
        const reach = this.reach(curve, n);
        if (!reach) return;
        const left = u.valToPos(x, "x", true);
        lower.push([left, u.valToPos(reach[0], "y", true)]);
        upper.push([left, u.valToPos(reach[1], "y", true)]);
      });
      ctx.fillStyle = this.figure.curveColour(curve.legend);
      ctx.beginPath();
      [...upper, ...lower.reverse()].forEach(([left, top], n) => (n ? ctx.lineTo(left, top) : ctx.moveTo(left, top)));
      ctx.fill();
    }
    ctx.restore();
  }

  select(u) {
    const { left, width } = u.select;
    if (width < 5) return;
    u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    this.figure.zoom(this, [u.posToVal(left, "x"), u.posToVal(left + width, "x")]);
  }

  pan(event) {
    event.preventDefault();
    const start = this.figure.xRange(this), from = event.clientX, width = this.plot.over.clientWidth;
    const move = (e) => this.figure.zoom(this, moved(this.figure.xScale, start, (from - e.clientX) / width));
    const stop = () => {
      document.removeEventListener("mousemove", move);
      document.removeEventListener("mouseup", stop);
    };
    document.addEventListener("mousemove", move);
    document.addEventListener("mouseup", stop);
    return null;
  }

  // Lines of the tooltip: one per visible curve that has a value here.
  readings(n) {
    return this.curves
      .filter((curve) => !this.figure.hidden.has(curve.legend) && curve.values[n] !== null)
      .map((curve) => ({
        legend: curve.legend,
        text: formatEstimate(curve.values[n], curve.errors && curve.errors[n]),
      }));
  }

  heading(n) {
    return `${this.figure.xLabel} ${formatNumber(this.x[n])}`;
  }

  point() {
    const n = this.plot.cursor.idx;
    const seen = this.figure.active === this && n !== null && n !== undefined && this.plot.cursor.left >= 0;
    if (!this.tooltip) return;
    this.tooltip.hidden = !seen;
    if (!seen) return;
    const heading = document.createElement("strong");
    heading.textContent = this.heading(n);
    const lines = this.readings(n).map(({ legend, text }) => {
      const line = document.createElement("span");
      line.append(this.figure.swatch(legend), `${this.figure.legendText(legend)} `);
      const value = document.createElement("b");
      value.textContent = text;
      line.append(value);
      return line;
    });
    this.tooltip.replaceChildren(heading, ...lines);
    const left = this.plot.valToPos(this.x[n], "x"), room = this.plot.over.clientWidth;
    const own = this.tooltip.offsetWidth;
    const beside = left + 12 + own <= room ? left + 12 : left - 12 - own;
    this.tooltip.style.left = `${Math.min(Math.max(beside, 0 - 30), Math.max(room - own, -30))}px`;
  }

  moveTo(n) {
    const last = this.x.length - 1, place = Math.min(Math.max(n, 0), last);
    this.plot.setCursor({ left: this.plot.valToPos(this.x[place], "x"), top: 4 }, true, true);
    return place;
  }
}

const distribution = (scale) =>
  ({ linear: { distr: 1 }, log: { distr: 3, log: 10 }, symlog: { distr: 4, asinh: SYMLOG_LINEAR_PART } })[scale];

// Another window on the axis as it is drawn: moved by a part of its width, or so many times as wide.
function moved(scale, [min, max], part) {
  return stretched(scale, [min, max], 1, part);
}

function stretched(scale, [min, max], factor, shift = 0) {
  const forth = { linear: (v) => v, log: Math.log, symlog: Math.asinh }[scale];
  const back = { linear: (v) => v, log: Math.exp, symlog: Math.sinh }[scale];
  const [low, high] = [forth(min), forth(max)];
  const middle = (low + high) / 2 + shift * (high - low), half = ((high - low) / 2) * factor;
  return [back(middle - half), back(middle + half)];
}
