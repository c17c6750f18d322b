// A page of facts: numbers at the top, then sections of charts and tables, all as plain data says.

const units = {
  count: (v) => significant(v, 4),
  length: (v) => tokens(Math.round(v)),
  wave: (v) => (v < 1000 ? significant(v, 3) : large(Math.round(v))),
  ratio: (v) => `×${significant(v, 3)}`,
  bytes: memory,
  seconds: (v) => duration(v),
};
const ticks = { length: lengthTicks };

function lineChart(spec) {
  const shown = spec.series.map((series, i) => ({
    ...series,
    colour: series.colour ?? i % COLOURS,
    on: true,
    points: series.points.map(([x, y]) => ({ x, y })),
  }));
  const host = h("div");
  const axis = ({ label, scale, unit }) => ({
    label,
    scale,
    format: units[unit],
    tick: units[unit],
    ticks: ticks[unit],
  });
  const redraw = chart(host, () => ({
    label: spec.label,
    x: axis(spec.x),
    y: axis(spec.y),
    marks: spec.marks,
    series: shown.filter((series) => series.on),
  }));
  return [
    h(
      "div",
      { class: "controls" },
      legend(shown, () => redraw()),
    ),
    host,
  ];
}

/** `stack`: on a narrow screen each row becomes a block of labelled values. `words`: its cells are text that wraps. */
const table = ({ title, columns, rows, stack, words }) =>
  scrolled(
    title,
    h(
      "table",
      stack ? { class: "stack", role: "table" } : { class: words && "words" },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          columns.map((text, i) => h("th", { scope: "col", class: i > 0 && !words && "num" }, text)),
        ),
      ),
      h(
        "tbody",
        {},
        rows.map((cells) =>
          h(
            "tr",
            { role: stack && "row" },
            cells.map((text, i) =>
              i
                ? h("td", { class: !words && "num", role: stack && "cell", "data-label": columns[i] }, text)
                : h("th", { scope: "row", role: stack && "rowheader" }, text),
            ),
          ),
        ),
      ),
    ),
  );

theme();
document.getElementById("kicker").textContent = data.kicker;
const sections = data.sections.map((part) =>
  section(
    part.id,
    part.title,
    part.lead,
    [],
    (part.charts ?? []).map((spec) => [spec.title && h("h3", { class: "c0" }, spec.title), lineChart(spec)]),
    (part.tables ?? []).map((spec) => [spec.heading && h("h3", { class: "c0" }, spec.heading), table(spec)]),
    part.code && codeBlock(part.code),
    (part.notes ?? []).map((text) => h("p", { class: "note" }, text)),
  ),
);
document.getElementById("top").append(
  h(
    "div",
    { class: "tiles" },
    data.tiles.map(([label, value, ...details]) => tile(label, value, ...details)),
  ),
  ...(data.notes.length
    ? [
        h(
          "ul",
          { class: "notice" },
          data.notes.map((text) => h("li", {}, text)),
        ),
      ]
    : []),
  ...sections,
);
document.getElementById("nav").append(...data.sections.map((part) => h("a", { href: `#${part.id}` }, part.nav)));
document
  .getElementById("footer")
  .append(
    h(
      "p",
      {},
      `Written by Skipwise ${data.skipwise} on ${data.written.slice(0, 10)}. This page is one file; it loads nothing from anywhere.`,
    ),
  );
