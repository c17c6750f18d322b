// Tasks: what each one is called, its values beside each other, its curve by length and its map by length and depth.

const shared = (values) => (new Set(values).size === 1 ? values[0] : null);
const unique = (values) => [...new Set(values)];
const single = data.runs.length === 1;

/** Lines for the original and the target window, where all runs have the same. */
function windowMarks() {
  const original = shared(data.runs.map((run) => run.original_length)), target = shared(data.runs.map((run) => run.target_length));
  const lines = [];
  if (original) lines.push({ x: original, label: `original window ${tokens(original)}` });
  if (target && target !== original) lines.push({ x: target, label: `target ${tokens(target)}` });
  return lines;
}

const TASKS = {
  perplexity: "How well text is predicted; lower is better.",
  perplexity_by_position: "How well the tokens between one length and the next are predicted; lower is better.",
  passkey: "A number is hidden at some depth of a long prompt, and the model has to repeat it.",
  k_max: "The longest distance up to which a passkey is found at least one time in five (Position Interpolation).",
  key_value: "One value out of a long list of random pairs is asked for by its key.",
  needle: "Sentences with numbers stand somewhere in long prose, and the model has to name them.",
  ruler: "RULER: retrieval, tracing, counting and questions in long prompts.",
  document_qa: "A question about the start of a long document, asked at its end.",
  summarize: "Summaries of long documents against written ones (ROUGE).",
  harness: "Standard short benchmarks: what the extension costs or keeps on short texts.",
};
const variant = (row) => [row.task, row.protocol].filter(Boolean).join(" ");
const variantName = (name) => name.replace(" ", ": ").replaceAll("_", " ");
const aboutTask = (name) => TASKS[name.split(" ")[0]] ?? `Task ${variantName(name)}.`;
/** Rows that stand for no length: an effective length, a benchmark of short prompts. */
const sizeless = (row) => inTokens(row) || !row.length;

// Summary: every task at one length, models side by side, with their change

function changeText(row) {
  const { change } = row;
  if (!change) return null;
  if (change.other) return "other prompts, not paired";
  if (change.verdict === undefined) return null;
  const sign = (value) => (value < 0 ? "−" : "+") + significant(Math.abs(value), Math.abs(value) < 10 ? 2 : 3);
  const ratio = (value) => (value > 10 || !Number.isFinite(value) ? `×${Number.isFinite(value) ? significant(value) : "∞"}` : `${sign(100 * (value - 1))}%`);
  const text = row.metric === "perplexity" ? ratio : (value) => sign(100 * value);
  return `${text(change.value)}${row.metric === "perplexity" ? "" : " points"} [${text(change.low)}, ${text(change.high)}]`;
}

function summaryCell(row) {
  if (!row) return h("td", { class: "num" }, "–");
  const verdict = row.change?.verdict, told = changeText(row);
  return h("td", { class: "num", title: `${row.interval ? `${row.interval} interval ${intervalText(row)}, ` : ""}${countText(row)}` },
    h("b", {}, valueText(row)), row.beyond_window && !sizeless(row) && "*", told && h("small", { class: `change ${verdict ?? ""}` }, told, verdict && ` ${verdict}`));
}

function summaryLead(rows) {
  const parts = data.series.filter((series) => series.base !== null).map((series) => {
    const told = rows.filter((row) => row.series === series.id && row.change?.verdict);
    const count = (verdict) => told.filter((row) => row.change.verdict === verdict).length;
    return told.length ? `${series.name} against ${data.series[series.base].name}: better in ${count("better")}, worse in ${count("worse")}, undecided in ${count("undecided")} of ${told.length}.` : "";
  }).filter(Boolean);
  return parts.join(" ") || "Every task, models side by side.";
}

function summaryFigure() {
  const rows = data.results.filter((row) => row.depth === null);
  if (!rows.length) return null;
  const lengths = unique(rows.filter((row) => !sizeless(row)).map((row) => row.length)).sort((a, b) => a - b);
  const shown = data.series.filter((series) => rows.some((row) => row.series === series.id));
  const lead = h("span"), body = h("tbody");
  function draw(length) {
    const chosen = rows.filter((row) => sizeless(row) || row.length === length);
    lead.textContent = summaryLead(chosen);
    body.replaceChildren(...unique(chosen.map((row) => `${variant(row)}|${row.metric}`)).map((key) => {
      const [name] = key.split("|"), own = chosen.filter((row) => `${variant(row)}|${row.metric}` === key);
      return h("tr", {}, h("th", { scope: "row", title: aboutTask(name) }, variantName(name), h("small", {}, sizeless(own[0]) && inTokens(own[0]) ? "tokens" : own[0].metric)),
        shown.map((series) => summaryCell(own.findLast((row) => row.series === series.id))));
    }));
  }
  const last = lengths.at(-1);
  draw(last);
  const paired = data.results.some((row) => row.change?.verdict);
  return section("summary", "All tasks", lead, [
    lengths.length > 1 && menu("Length", lengths.map((n) => [n, `${tokens(n)} tokens`]), last, (value) => draw(Number(value)))],
  scrolled("All tasks", h("table", { class: "summary" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Task"), shown.map((series) =>
    h("th", { scope: "col", class: "num" }, swatch({ colour: series.colour, marker: series.colour }), ` ${series.name}`)))), body)),
  h("p", { class: "note" }, paired ? "Changes have 95% intervals that are paired over the same prompts or texts, so they are surer than two intervals side by side. " +
    "Better and worse are said where the interval holds no zero; by chance alone one change in twenty is. " : "No two models were measured on the same prompts with scores to pair. ",
  rows.some((row) => row.beyond_window) && "* beyond the window that the model is configured for."));
}

// Scores by length

function lengthFigure() {
  // k_max has one length and its prompts in cells by distance: its curve goes over those.
  const rows = data.results.filter((row) => (row.depth === null) === (row.task !== "k_max") && row.metric !== "perplexity" && !sizeless(row));
  if (!rows.length) return null;
  const names = unique(rows.map(variant)), at = (row) => (row.task === "k_max" ? row.depth_index : row.length), host = h("div"), lead = h("span");
  let name = names[0];
  const items = data.series.filter((series) => rows.some((row) => row.series === series.id))
    .map((series) => ({ id: series.id, name: series.name, colour: series.colour, marker: series.colour, on: true }));
  const redraw = chart(host, () => {
    const own = rows.filter((row) => variant(row) === name), reach = name === "k_max" ? "tokens between key and question (log)" : "tokens read (log)";
    lead.textContent = aboutTask(name);
    return {
      label: `${variantName(name)} by length`, marks: windowMarks(),
      x: { scale: "log", format: tokens, reading: (x) => `${tokens(x)} tokens`, label: reach, ticks: lengthTicks },
      y: { scale: "linear", range: [0, 1.02], format: percent, tick: percent, label: own[0].metric === "accuracy" ? "found" : own[0].metric },
      series: items.filter((item) => item.on).map((item) => ({
        ...item,
        points: own.filter((row) => row.series === item.id).sort((a, b) => at(a) - at(b))
          .map((row) => ({ x: at(row), y: row.value, low: row.low ?? undefined, high: row.high ?? undefined, note: `${intervalText(row)}, ${countText(row)}` })),
      })),
    };
  });
  return section("tasks", "Scores by length", lead, [
    legend(items, () => redraw()),
    names.length > 1 && menu("Scores of", names.map((key) => [key, variantName(key)]), name, (value) => { name = value; redraw(); })],
  host, h("p", { class: "note" }, "Over all depths. Bands are 95% intervals of each model alone; for changes see the table of all tasks."));
}

// Scores by length and depth

function retrievalFigure() {
  const deep = new Set(data.results.filter((row) => row.depth !== null && row.task !== "k_max").map(variant));
  const rows = data.results.filter((row) => deep.has(variant(row)) && !sizeless(row));
  if (!rows.length) return null;
  const names = unique(rows.map(variant));
  let task = names[0];
  const host = h("div", { class: "heat" }), lead = h("span");
  const redraw = onWidth(host, (width) => {
    const own = rows.filter((row) => variant(row) === task);
    lead.textContent = retrievalLead(task);
    const columns = width >= 760 && data.series.length > 1 ? 2 : 1;
    host.style.setProperty("grid-template-columns", `repeat(${columns}, minmax(0, 1fr))`);
    const panels = data.series.filter((series) => own.some((row) => row.series === series.id));
    host.replaceChildren(...panels.map((series) => heatMap(series, own, (width - 28 * (columns - 1)) / columns)));
  });
  const scale = h("div", { class: "heat-scale", "aria-hidden": "true" }, "0%", h("i"), "100%");
  return section("retrieval", "Retrieval by length and depth", lead, [
    names.length > 1 && menu("Task", names.map((name) => [name, variantName(name)]), task, (value) => { task = value; redraw(); }), scale,
  ], host, h("p", { class: "note" }, "Cells hold the share found, or the mean score, in percent. Point at a cell, tap it or move with the arrow keys to see trials and interval: " +
    "a few trials leave a wide one."));
}

function retrievalLead(task) {
  const about = aboutTask(task), pair = single && data.runs[0].at_target[task];
  if (!pair) return about;
  const found = (row) => `${number(row.value * row.n)} of ${number(row.n)}`;
  const [before, after] = pair;
  return `${about} At ${tokens(after.length)} tokens it finds ${found(after)}${before ? `; before, ${found(before)}` : ""}.`;
}

function heatMap(series, allRows, width) {
  const own = allRows.filter((row) => row.series === series.id);
  const lengths = unique(allRows.map((row) => row.length)).sort((a, b) => a - b);
  const depths = unique(allRows.map((row) => row.depth)).filter((depth) => depth !== null).sort((a, b) => a - b);
  const total = allRows.some((row) => row.depth === null);
  const rowsShown = [...depths, ...(total ? [null] : [])];
  const border = shared(data.runs.map((run) => run.original_length)) ?? own[0].original_length;
  const inside = lengths.filter((n) => n <= border).length, gap = inside && inside < lengths.length ? 8 : 0;
  const left = 44, top = 36, size = (width - left - gap - 2) / lengths.length, high = Math.min(46, Math.max(32, size));
  const y = (depth, i) => top + i * high + (depth === null && depths.length ? 8 : 0);
  const tip = h("div", { class: "tip", hidden: true });
  const columnAt = (column) => left + column * size + (column >= inside ? gap : 0);
  const cells = [];
  const hide = () => { tip.hidden = true; };
  const cell = (depth, i, column) => {
    const row = own.findLast((r) => r.depth === depth && r.length === lengths[column]);
    const where = `${tokens(lengths[column])} tokens, ${depth === null ? "all depths" : `depth ${percent(depth)}`}`;
    const text = row ? `${percent(row.value)} of ${countText(row)}, ${row.interval} interval ${intervalText(row)}` : "not measured";
    const x = columnAt(column), share = row ? row.value : NaN;
    const show = () => {
      tip.replaceChildren(h("strong", {}, where), h("div", {}, h("b", {}, row ? percent(row.value) : "not measured"),
        row && h("small", {}, `${countText(row)}, interval ${intervalText(row)}`)));
      tip.hidden = false;
      tip.style.left = `${Math.max(0, Math.min(x + size / 2 - tip.offsetWidth / 2, width - tip.offsetWidth))}px`;
      tip.style.top = `${y(depth, i) - tip.offsetHeight + 26}px`;
    };
    const group = s("g", {
      class: `cell${Number.isNaN(share) ? " none" : share > 0.5 ? " full" : ""}`, tabindex: cells.length ? -1 : 0, role: "img",
      "aria-label": `${where}: ${text}`, onpointerenter: show, onpointerdown: show, onfocus: show, onblur: hide, onpointerleave: (event) => event.pointerType === "mouse" && hide(),
      onkeydown: (event) => move(event, i, column),
    },
    s("rect", { x: x + 1, y: y(depth, i) + 1, width: size - 2, height: high - 2, rx: 3, style: row ? { "--share": `${100 * share}%` } : {} }),
    s("text", { x: x + size / 2, y: y(depth, i) + high / 2 + 4.5, "text-anchor": "middle" },
      row ? (size < 28 ? "" : significant(100 * share, 2)) : "–"));
    cells.push(group);
    return group;
  };
  function move(event, i, column) {
    const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (event.key === "Escape") hide();
    if (!step) return;
    event.preventDefault();
    const [r, c] = [i + step[0], column + step[1]];
    if (r >= 0 && r < rowsShown.length && c >= 0 && c < lengths.length) cells[r * lengths.length + c].focus();
  }
  const at = left + inside * size + gap / 2;
  const bottom = y(rowsShown.at(-1), rowsShown.length - 1) + high;
  const label = `original window ${tokens(border)}`, anchor = Math.max(left + textWidth(label) / 2, Math.min(at, width - textWidth(label) / 2));
  const place = placer(1, 2);
  const svg = s("svg", { viewBox: `0 0 ${width} ${bottom + 22}`, width, height: bottom + 22, role: "group", "aria-label": `Retrieval, ${series.name}` },
    rowsShown.map((depth, i) => s("text", { x: left - 8, y: y(depth, i) + high / 2 + 4.5, "text-anchor": "end" }, depth === null ? "all" : percent(depth))),
    s("text", { class: "title", x: 0, y: top - 9 }, "depth"),
    rowsShown.map((depth, i) => lengths.map((_, column) => cell(depth, i, column))),
    lengths.map((length, column) => {
      const x = columnAt(column) + size / 2, half = textWidth(tokens(length)) / 2;
      return place(x - half, x + half) !== null && s("text", { x, y: bottom + 17, "text-anchor": "middle" }, tokens(length));
    }),
    border && s("g", { class: "marks" }, s("path", { d: `M${at},${top - 3}V${bottom}`, "stroke-dasharray": "3 4" }),
      s("text", { x: anchor, y: top - 9, "text-anchor": "middle" }, label)));
  return h("div", { class: "panel" }, h("h3", { class: `c${series.colour}` }, swatch({ ...series, marker: series.colour }), series.name), svg, tip);
}
