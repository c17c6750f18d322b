// Tables: columns are [title, value of a row, text of that value]; without a text the value is shown as it is

const plain = (value) => (value === null || value === undefined ? "–" : String(value));
const hidden = null; // in the CSV, not on the page
const whole = (value) => (value === null || value === undefined ? "–" : number(value));

function tables() {
  const named = (row) => data.series[row.series].name;
  const metric = (key) => [(row) => row[key], (value, row) => valueText(row, value)];
  const runColumn = single ? [] : [["run", (row) => row.run]];
  return [
    {
      title: "Evaluation",
      rows: data.results,
      columns: [
        ["model", named],
        ["task", (row) => row.task],
        ["length", (row) => row.length, (value) => (value === null ? "–" : tokens(value))],
        ["depth", (row) => row.depth, (value) => (value === null ? "all" : percent(value))],
        ["metric", (row) => row.metric, hidden],
        ["value", ...metric("value")],
        ["low", ...metric("low")],
        ["high", ...metric("high")],
        ["n", (row) => row.n, whole],
        ["interval", (row) => row.interval],
        ["variant", (row) => row.variant],
        ["distance", (row) => row.distance, hidden],
        ["tokens", (row) => row.tokens, whole],
        ["seed", (row) => row.seed, hidden],
        ...(data.results.some((row) => row.change?.verdict)
          ? ["value", "low", "high", "verdict", "interval"].map((key) => [
              key === "verdict" ? key : `change ${key}`,
              (row) => row.change?.[key] ?? null,
              (value) => (typeof value === "number" ? significant(value) : plain(value)),
            ])
          : []),
      ],
    },
    {
      title: "Training log",
      rows: data.runs.flatMap((run) =>
        ["train", "validation"].flatMap((kind) => run[kind].map((row) => ({ run: run.name, kind, ...row }))),
      ),
      columns: [
        ...runColumn,
        ["kind", (row) => row.kind],
        ["step", (row) => row.step, whole],
        ...["loss", "loss_skipped", "loss_plain"].map((key) => [
          key.replace("_", " "),
          (row) => row[key] ?? null,
          (value) => (value === null ? "–" : number(value, 4)),
        ]),
        [
          "learning rate",
          (row) => row.learning_rate ?? null,
          (value) => (value === null ? "–" : String(+value.toPrecision(3))),
        ],
        ["tokens", (row) => row.tokens, whole],
        ["seconds", (row) => row.seconds, (value) => (value === null ? "–" : number(value, 1))],
      ],
    },
    {
      title: "Relative distances",
      rows: data.runs.flatMap((run) =>
        (run.positions?.pairs ?? []).map((pairs, i) => ({
          run: run.name,
          from: run.positions.edges[i],
          to: run.positions.edges[i + 1] - 1,
          pairs,
          plain: run.positions.plain_pairs[i],
          seen: run.positions.seen[i],
        })),
      ),
      columns: [
        ...runColumn,
        ["from", (row) => row.from, whole],
        ["to", (row) => row.to, whole],
        ["pairs per example", (row) => row.pairs, (value) => significant(value)],
        ["plain training", (row) => row.plain, (value) => significant(value)],
        ["distances seen", (row) => row.seen, percent],
      ],
    },
  ].filter((table) => table.rows.length);
}

function sortable(table) {
  const { rows } = table,
    columns = table.columns.filter(([, , text]) => text !== hidden);
  const numeric = columns.map(([, value]) => rows.some((row) => typeof value(row) === "number"));
  const body = h("tbody");
  let sorted = { column: -1, down: false };
  const order = (a, b) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return typeof a === "number" ? a - b : String(a).localeCompare(String(b));
  };
  const heads = columns.map(([title], i) =>
    h(
      "th",
      { scope: "col", class: numeric[i] && "num" },
      h("button", { type: "button", onclick: () => sort(i) }, title),
    ),
  );
  function sort(column) {
    sorted = { column, down: sorted.column === column && !sorted.down };
    for (const [i, head] of heads.entries()) {
      if (i === column) head.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
    const value = columns[column][1];
    draw([...rows].sort((a, b) => order(value(a) ?? null, value(b) ?? null) * (sorted.down ? -1 : 1)));
  }
  const draw = (shown) =>
    body.replaceChildren(
      ...shown.map((row) =>
        h(
          "tr",
          {},
          columns.map(([, value, text], i) =>
            h("td", { class: numeric[i] && "num" }, (text ?? plain)(value(row), row)),
          ),
        ),
      ),
    );
  draw(rows);
  return scrolled(table.title, h("table", {}, h("thead", {}, h("tr", {}, heads)), body));
}

function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

/** RFC 4180; a text that a spreadsheet would run as a formula gets an apostrophe. */
function csv({ columns, rows }) {
  const field = (value) => {
    const text =
      value === null || value === undefined
        ? ""
        : typeof value === "string" && /^[=+\-@\t]/.test(value)
          ? `'${value}`
          : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const lines = [columns.map(([title]) => title), ...rows.map((row) => columns.map(([, value]) => value(row)))];
  return lines.map((row) => `${row.map(field).join(",")}\r\n`).join("");
}

function numbersSection() {
  const all = tables();
  if (!all.length) return null;
  let chosen = 0;
  const save = (title, run) => h("button", { type: "button", class: "plain", onclick: run }, title);
  return section(
    "numbers",
    "All numbers",
    "Everything drawn above, with its n and its 95% interval. A column's title sorts by it.",
    [],
    tabs(
      "Table",
      all.map((table) => [table.title, sortable(table)]),
      (i) => {
        chosen = i;
      },
    ),
    h(
      "div",
      { class: "downloads" },
      save("Download table as CSV", () =>
        download(`skipwise-${all[chosen].title.toLowerCase().replaceAll(" ", "-")}.csv`, "text/csv", csv(all[chosen])),
      ),
      save("Download everything as JSON", () =>
        download("skipwise-report.json", "application/json", document.getElementById("data").textContent),
      ),
    ),
  );
}
