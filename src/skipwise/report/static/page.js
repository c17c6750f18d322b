// The page around the figures: numbers at the top, what was done, what to type, tables, downloads, theme.

// Numbers at the top

function change(pair, text) {
  const [before, after] = pair;
  return h("p", { class: "value" }, before && [h("span", { class: "before" }, text(before)), h("span", { class: "arrow" }, "→")],
    h("span", { class: "after" }, text(after)));
}

const costParts = (cost) => [
  `${number(cost.steps)} step${cost.steps === 1 ? "" : "s"}`, cost.tokens && `${large(cost.tokens)} tokens`,
  cost.peak_memory_bytes && `${memory(cost.peak_memory_bytes)} peak memory`,
].filter(Boolean);

function tiles(run) {
  const { perplexity: ppl, passkey } = run.at_target, factor = run.original_length && run.target_length / run.original_length;
  const window = h("p", { class: "value" }, run.original_length && [h("span", { class: "before" }, tokens(run.original_length)), h("span", { class: "arrow" }, "→")],
    h("span", { class: "after" }, tokens(run.target_length)));
  const evaluated = (label, pair) => (pair
    ? tile(`${label} at ${tokens(pair[1].length)}`, change(pair, valueText), `95% interval ${intervalText(pair[1])}`, countText(pair[1]))
    : tile(label, "–", "not measured"));
  return h("div", { class: "tiles" },
    tile("Window", window, factor && `${significant(factor)} times longer`, `${number(run.target_length)} tokens`),
    evaluated("Perplexity", ppl), evaluated("Passkey found", passkey),
    run.cost.planned_steps
      ? tile("Training", run.cost.seconds === null ? "–" : duration(run.cost.seconds), costParts(run.cost).slice(0, 2).join(", "), costParts(run.cost)[2])
      : tile("Training", "none", "RoPE was scaled only"));
}

function comparison() {
  const pair = (run, task) => {
    const rows = run.at_target[task];
    if (!rows) return "–";
    return `${rows[0] ? `${valueText(rows[0])} → ` : ""}${valueText(rows[1])} (${tokens(rows[1].length)})`;
  };
  const columns = ["Run", "Window", "Perplexity", "Passkey", "Steps", "Tokens", "Time", "Memory"];
  return scrolled("Runs", h("table", {}, h("thead", {}, h("tr", {}, columns.map((text, i) => h("th", { scope: "col", class: i > 3 && "num" }, text)))),
    h("tbody", {}, data.runs.map((run, i) => h("tr", {},
      h("th", { scope: "row" }, swatch({ colour: runColour(i), marker: runColour(i) }), run.name),
      h("td", {}, `${tokens(run.original_length)} → ${tokens(run.target_length)}`), h("td", {}, pair(run, "perplexity")), h("td", {}, pair(run, "passkey")),
      [number(run.cost.steps), run.cost.tokens === null ? "–" : large(run.cost.tokens), run.cost.seconds === null ? "–" : duration(run.cost.seconds),
        run.cost.peak_memory_bytes === null ? "–" : memory(run.cost.peak_memory_bytes)].map((text) => h("td", { class: "num" }, text)))))));
}

function notices() {
  const notes = data.files.filter((file) => file.outdated).map((file) => `${file.name}: ${number(file.outdated)} earlier results, of other texts or settings, are in the file alone.`);
  notes.unshift(...data.runs.flatMap((run) => run.missing.map((text) => (single ? text : `${run.name}: ${text}`))));
  return notes.length ? h("ul", { class: "notice" }, notes.map((text) => h("li", {}, text))) : null;
}

// What was done

function settingsSection() {
  if (!data.runs.length) return null;
  const groups = data.runs[0].settings;
  const body = single
    ? h("div", { class: "groups" }, groups.map((group) => h("div", {}, h("h3", {}, group.title),
      h("dl", {}, group.rows.map(([label, value]) => [h("dt", {}, label), h("dd", {}, value)])))))
    : scrolled("Settings", h("table", { class: "settings" }, h("thead", {}, h("tr", {}, h("th", {}), data.runs.map((run) => h("th", { scope: "col" }, run.name)))),
      h("tbody", {}, groups.flatMap((group, g) => group.rows.map(([label], r) => {
        const values = data.runs.map((run) => run.settings[g].rows[r][1]);
        return h("tr", { class: shared(values) === null && "differs" }, h("th", { scope: "row" }, label), values.map((value) => h("td", {}, value)));
      })))));
  const pictures = data.runs.map((run, i) => run.positions && [
    !single && h("h3", { class: `c${runColour(i)}` }, run.name), pictureFigure(run, runColour(i))]);
  const first = data.runs.find((run) => run.positions);
  return section("setup", "What was done", !single && "Settings in which the runs differ are marked.", [], body,
    first && h("p", { class: "lead" }, single
      ? `Each row is one training example of ${number(first.positions.example_length)} tokens. Bars are runs of consecutive positions, the gaps between them are skipped: short examples reach across the whole window. The grey bar is plain training.`
      : "Each row is one training example; bars are runs of consecutive positions, gaps are skipped. Grey bars are plain training."), pictures);
}

// What to type

function useSection() {
  if (!data.runs.length) return null;
  const run = data.runs[0];
  const panels = run.commands.map(({ title, text }) => [title, h("div", { class: "code" }, h("pre", { tabindex: 0 }, h("code", {}, text)), copyButton(text))]);
  const lead = `${run.finished ? "The result is" : "Once training has finished, the result is"} an ordinary Hugging Face checkpoint; ` +
    `nothing of Skipwise is needed to run it.${single ? "" : ` Shown for ${run.name}.`}`;
  return section("use", "Use the model", lead, [],
    tabs("Tool", panels));
}

function copyButton(text) {
  return h("button", {
    type: "button", class: "copy", onclick: async (event) => {
      const button = event.currentTarget, code = button.parentElement.querySelector("code");
      let done = true;
      try { await navigator.clipboard.writeText(text); } catch {
        getSelection().selectAllChildren(code);
        done = document.execCommand("copy");
      }
      button.textContent = done ? "Copied" : "Selected: press Ctrl+C";
      say(button.textContent);
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    },
  }, "Copy");
}

// Tables: columns are [title, value of a row, text of that value]; without a text the value is shown as it is

const plain = (value) => (value === null || value === undefined ? "–" : String(value));
const hidden = null; // in the CSV, not on the page
const whole = (value) => (value === null || value === undefined ? "–" : number(value));

function tables() {
  const named = (row) => data.series[row.series].name;
  const metric = (key) => [(row) => row[key], (value, row) => valueText(row, value)];
  const runColumn = single ? [] : [["run", (row) => row.run]];
  return [
    { title: "Evaluation", rows: data.results, columns: [
      ["model", named], ["task", (row) => row.task], ["length", (row) => row.length, whole],
      ["depth", (row) => row.depth, (value) => (value === null ? "all" : percent(value))], ["metric", (row) => row.metric, hidden],
      ["value", ...metric("value")], ["low", ...metric("low")], ["high", ...metric("high")],
      ["n", (row) => row.n, whole], ["interval", (row) => row.interval], ["protocol", (row) => row.protocol], ["tokens", (row) => row.tokens, whole], ["seed", (row) => row.seed, hidden],
      ...(data.results.some((row) => row.change?.verdict) ? ["value", "low", "high", "verdict", "interval"].map((key) => [
        key === "verdict" ? key : `change ${key}`, (row) => row.change?.[key] ?? null, (value) => (typeof value === "number" ? significant(value) : plain(value))]) : [])] },
    { title: "Training log", rows: data.runs.flatMap((run) => ["train", "validation"].flatMap((kind) => run[kind].map((row) => ({ run: run.name, kind, ...row })))), columns: [
      ...runColumn, ["kind", (row) => row.kind], ["step", (row) => row.step, whole],
      ...["loss", "loss_skipped", "loss_plain"].map((key) => [key.replace("_", " "), (row) => row[key] ?? null, (value) => (value === null ? "–" : number(value, 4))]),
      ["learning rate", (row) => row.learning_rate ?? null, (value) => (value === null ? "–" : String(+value.toPrecision(3)))], ["tokens", (row) => row.tokens, whole], ["seconds", (row) => row.seconds, (value) => (value === null ? "–" : number(value, 1))]] },
    { title: "Relative distances", rows: data.runs.flatMap((run) => (run.positions?.pairs ?? []).map((pairs, i) => ({
      run: run.name, from: run.positions.edges[i], to: run.positions.edges[i + 1] - 1, pairs, plain: run.positions.plain_pairs[i], seen: run.positions.seen[i] }))), columns: [
      ...runColumn, ["from", (row) => row.from, whole], ["to", (row) => row.to, whole], ["pairs per example", (row) => row.pairs, (value) => significant(value)],
      ["plain training", (row) => row.plain, (value) => significant(value)], ["distances seen", (row) => row.seen, percent]] },
  ].filter((table) => table.rows.length);
}

function sortable(table) {
  const { rows } = table, columns = table.columns.filter(([, , text]) => text !== hidden);
  const numeric = columns.map(([, value]) => rows.some((row) => typeof value(row) === "number"));
  const body = h("tbody");
  let sorted = { column: -1, down: false };
  const order = (a, b) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return typeof a === "number" ? a - b : String(a).localeCompare(String(b));
  };
  const heads = columns.map(([title], i) => h("th", { scope: "col", class: numeric[i] && "num" }, h("button", { type: "button", onclick: () => sort(i) }, title)));
  function sort(column) {
    sorted = { column, down: sorted.column === column && !sorted.down };
    heads.forEach((head, i) => (i === column ? head.setAttribute("aria-sort", sorted.down ? "descending" : "ascending") : head.removeAttribute("aria-sort")));
    const value = columns[column][1];
    draw([...rows].sort((a, b) => order(value(a) ?? null, value(b) ?? null) * (sorted.down ? -1 : 1)));
  }
  const draw = (shown) => body.replaceChildren(...shown.map((row) => h("tr", {}, columns.map(([, value, text], i) =>
    h("td", { class: numeric[i] && "num" }, (text ?? plain)(value(row), row))))));
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
    const text = value === null || value === undefined ? "" : typeof value === "string" && /^[=+\-@\t]/.test(value) ? `'${value}` : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [columns.map(([title]) => title), ...rows.map((row) => columns.map(([, value]) => value(row)))].map((row) => row.map(field).join(",")).join("\r\n") + "\r\n";
}

function numbersSection() {
  const all = tables();
  if (!all.length) return null;
  let chosen = 0;
  const save = (title, run) => h("button", { type: "button", class: "plain", onclick: run }, title);
  return section("numbers", "All numbers", "Everything drawn above, with its n and its 95% interval. A column's title sorts by it.", [],
    tabs("Table", all.map((table) => [table.title, sortable(table)]), (i) => { chosen = i; }),
    h("div", { class: "downloads" },
      save("Download table as CSV", () => download(`skipwise-${all[chosen].title.toLowerCase().replaceAll(" ", "-")}.csv`, "text/csv", csv(all[chosen]))),
      save("Download everything as JSON", () => download("skipwise-report.json", "application/json", document.getElementById("data").textContent))));
}

theme();
document.getElementById("kicker").textContent = list(
  [...(data.runs.length > 1 ? [`${data.runs.length} runs`] : data.runs.map((run) => run.name)), ...data.files.map((file) => file.name)]);
const sections = [summaryFigure(), settingsSection(), perplexityFigure(), lengthFigure(), retrievalFigure(), trainingFigure(), distanceFigure(), useSection(), numbersSection()].filter(Boolean);
document.getElementById("top").append(...[single ? tiles(data.runs[0]) : data.runs.length ? comparison() : null, notices(), ...sections].filter(Boolean));
document.getElementById("nav").append(...sections.map((element) => h("a", { href: `#${element.id}` },
  { setup: "Setup", summary: "Tasks", perplexity: "Perplexity", tasks: "Scores", retrieval: "Depth", training: "Training", distances: "Distances", use: "Use", numbers: "Numbers" }[element.id])));
document.getElementById("footer").append(h("p", {}, `Written by Skipwise ${data.skipwise} on ${data.written.slice(0, 10)} from ${list([...data.runs, ...data.files].map((source) => source.name))}. This page is one file; it loads nothing from anywhere.`));
