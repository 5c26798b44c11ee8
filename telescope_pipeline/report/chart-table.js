// The numbers of a chart as tables, for those who would rather read than look.

function fillTable(figure) {
  const host = figure.node.querySelector(".chart-table");
  if (host.childElementCount) return;
  for (const row of figure.content.rows) {
    for (const panel of row.panels) host.append(tableOf(figure, row, panel));
  }
}

function tableOf(figure, row, panel) {
  const table = element("table", "numbers");
  table.append(element("caption", "", [row.label, panel.title].filter(Boolean).join(", ")));
  const head = table.createTHead().insertRow();
  for (const text of [figure.xLabel, ...panel.curves.map(([legend]) => figure.legendText(legend))]) {
    const cell = element("th", "", text);
    cell.scope = "col";
    head.append(cell);
  }
  const body = table.createTBody();
  panel.x.forEach((x, n) => {
    const line = body.insertRow();
    const name = element("th", "", formatNumber(x, 6));
    name.scope = "row";
    line.append(name);
    for (const [, values, errors] of panel.curves) {
      line.insertCell().textContent = values[n] === null ? "" : formatEstimate(values[n], errors && errors[n]);
    }
  });
  return table;
}
