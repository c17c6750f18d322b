// The figures: what each one takes from the data, its switches, and the sentence above it.

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

// Perplexity by length

function perplexityFigure() {
  const rows = data.results.filter((row) => row.metric === "perplexity" && row.depth === null);
  if (!rows.length) return null;
  const protocols = unique(rows.map((row) => row.protocol));
  const state = { scale: "log", protocol: protocols[0] };
  const items = data.series.filter((series) => rows.some((row) => row.series === series.id))
    .map((series) => ({ id: series.id, name: series.name, colour: series.colour, marker: series.colour, on: true }));
  const host = h("div");
  const redraw = chart(host, () => ({
    label: "Perplexity by length", marks: windowMarks(),
    x: { scale: "log", format: tokens, reading: (x) => `${tokens(x)} tokens`, label: "tokens read (log)", ticks: lengthTicks },
    y: { scale: state.scale, format: perplexity, tick: (v) => significant(v), label: "perplexity (lower is better)", clip: state.scale === "log" ? 8 : 2.5 },
    series: items.filter((item) => item.on).map((item) => ({
      ...item,
      points: rows.filter((row) => row.series === item.id && row.protocol === state.protocol).sort((a, b) => a.length - b.length)
        .map((row) => ({ x: row.length, y: row.value, low: row.low, high: row.high, note: `${intervalText(row)}, ${countText(row)}` })),
    })),
  }));
  const set = (key) => (value) => { state[key] = value; redraw(); };
  const protocolNames = { prefix: "the first n tokens of each document", sliding: "windows of n tokens moved through each document" };
  return section("perplexity", "Perplexity by length", perplexityLead(), [
    legend(items, redraw),
    protocols.length > 1 && choice("Protocol", protocols.map((p) => [p, p ?? "other"]), state.protocol, set("protocol")),
    choice("Perplexity axis", [["log", "log"], ["linear", "linear"]], state.scale, set("scale")),
  ], host, h("p", { class: "note" },
    `Measured on ${protocols.map((p) => protocolNames[p] ?? "each document").join(", or ")}. Bands are ${list(unique(rows.map((row) => row.interval)))} ` +
    "intervals. A triangle at the top edge is a value above the axis."));
}

function perplexityLead() {
  if (!single) return "How well each model predicts text that it reads to the end of a longer and longer window.";
  const run = data.runs[0], parts = [];
  const find = (model, length) => data.results.findLast((row) =>
    row.metric === "perplexity" && row.depth === null && row.length === length && data.series[row.series].model === model);
  const inside = data.results.filter((row) => row.metric === "perplexity" && row.length <= run.original_length).map((row) => row.length);
  const long = run.at_target.perplexity;
  if (inside.length) {
    const at = Math.max(...inside), [before, after] = [find("original", at), find("extended", at)];
    const change = before && after ? 100 * (after.value / before.value - 1) : NaN;
    if (Number.isFinite(change))
      parts.push(`Inside the original window, at ${tokens(at)}: ${perplexity(before.value)} before and ${perplexity(after.value)} after (${change < 0 ? "−" : "+"}${Math.abs(change).toFixed(1)}%).`);
  }
  if (long && long[0] && long[1].length > run.original_length)
    parts.push(`Beyond it, at ${tokens(long[1].length)}: ${perplexity(long[0].value)} before and ${perplexity(long[1].value)} after.`);
  return parts.join(" ") || "How well the model predicts text that it reads to the end of a longer and longer window.";
}

// Retrieval by length and depth

const TASKS = {
  passkey: "A number is hidden at some depth of a long prompt, and the model has to repeat it.",
};

function retrievalFigure() {
  const rows = data.results.filter((row) => row.metric === "accuracy");
  if (!rows.length) return null;
  const names = unique(rows.map((row) => row.task));
  let task = names[0];
  const host = h("div", { class: "heat" }), lead = h("span");
  const redraw = onWidth(host, (width) => {
    const own = rows.filter((row) => row.task === task);
    lead.textContent = retrievalLead(task);
    const columns = width >= 760 && data.series.length > 1 ? 2 : 1;
    host.style.setProperty("grid-template-columns", `repeat(${columns}, minmax(0, 1fr))`);
    const panels = data.series.filter((series) => own.some((row) => row.series === series.id));
    host.replaceChildren(...panels.map((series) => heatMap(series, own, (width - 28 * (columns - 1)) / columns)));
  });
  const scale = h("div", { class: "heat-scale", "aria-hidden": "true" }, "0%", h("i"), "100% found");
  return section("retrieval", "Retrieval by length and depth", lead, [
    names.length > 1 && choice("Task", names.map((name) => [name, name]), task, (value) => { task = value; redraw(); }), scale,
  ], host, h("p", { class: "note" }, "Cells hold the share found, in percent. Point at a cell, tap it or move with the arrow keys to see trials and interval: " +
    "a few trials leave a wide one."));
}

function retrievalLead(task) {
  const about = TASKS[task] ?? `Task ${task}.`, pair = single && data.runs[0].at_target[task];
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

// Training curve

function smooth(points) {
  const reach = Math.max(1, Math.round(points.length / 20));
  return points.map((p, i) => {
    const near = points.slice(Math.max(0, i - reach), i + reach + 1).filter((q) => Number.isFinite(q.y));
    return { ...p, y: near.reduce((sum, q) => sum + q.y, 0) / near.length };
  });
}

function trainingFigure() {
  if (!data.runs.some((run) => run.train.length || run.validation.length)) return null;
  const last = Math.max(...data.runs.map((run) => run.cost.seconds ?? 0));
  const [unit, size] = last > 7200 ? ["hours", 3600] : last > 180 ? ["minutes", 60] : ["seconds", 1];
  const state = { axis: "step", key: "loss" };
  const x = {
    step: { of: (row) => row.step, label: "steps", format: number, reading: (v) => `step ${number(v)}` },
    tokens: { of: (row) => row.tokens, label: "tokens trained", format: large, reading: (v) => `${large(Math.round(v))} tokens` },
    seconds: { of: (row) => row.seconds / size, label: unit, format: (v) => significant(v), reading: (v) => `${significant(v)} ${unit}` },
  };
  const kinds = [
    { name: "training, each entry", kind: "train", key: "loss", faint: true },
    { name: "training, smoothed", kind: "train", key: "loss", smoothed: true },
    { name: "validation, skipped positions", kind: "validation", key: "loss_skipped", marker: 0, dash: "6 3" },
    { name: "validation, plain positions", kind: "validation", key: "loss_plain", marker: 1, dash: "2 3" },
  ];
  // One run: the legend holds the kinds of loss. Several: it holds the runs, and a switch chooses the kind.
  const items = single ? kinds.filter((kind) => data.runs[0][kind.kind].length).map((kind) => ({ ...kind, colour: runColour(0), on: true }))
    : data.runs.map((run, i) => ({ name: run.name, colour: runColour(i), on: true, run }));
  const chosen = () => (single ? items.filter((item) => item.on).map((item) => ({ ...item, run: data.runs[0] }))
    : items.filter((item) => item.on).flatMap((item) => kinds.filter((kind) => kind.key === state.key)
      .map((kind) => ({ ...kind, ...item, name: kind.faint ? `${item.name}, each entry` : item.name, dash: null }))));
  const pointsOf = (item) => {
    const points = item.run[item.kind].filter((row) => x[state.axis].of(row) !== null).map((row) => ({ x: x[state.axis].of(row), y: row[item.key] }));
    return item.smoothed ? smooth(points) : points;
  };
  const host = h("div");
  const redraw = chart(host, () => ({
    label: "Loss during training", x: { scale: "linear", ...x[state.axis] },
    y: { scale: "linear", format: (v) => number(v, 3), tick: (v) => significant(v, 4), label: "loss (nats per token)" },
    series: chosen().map((item) => ({ ...item, points: pointsOf(item) })),
  }));
  const set = (key) => (value) => { state[key] = value; redraw(); };
  const losses = [["loss", "training"], ["loss_skipped", "validation, skipped"], ["loss_plain", "validation, plain"]];
  return section("training", "Training", trainingLead(), [
    legend(items, redraw),
    !single && choice("Loss", losses, state.key, set("key")),
    choice("Horizontal axis", [["step", "steps"], ["tokens", "tokens"], ["seconds", "time"]], state.axis, set("axis")),
  ], host);
}

function trainingLead() {
  if (!single) return "Loss during training: on the training text, or on held-out text with skipped and with plain positions.";
  const rows = data.runs[0].validation;
  if (!rows.length) return "Loss during training.";
  const [first, final] = [rows[0], rows.at(-1)];
  const change = (key) => (first === final ? number(final[key], 2) : `${number(first[key], 2)} at step ${number(first.step)}, ${number(final[key], 2)} at step ${number(final.step)}`);
  return `Held-out loss with skipped positions: ${change("loss_skipped")}. With plain positions, which shows what short texts lose: ${change("loss_plain")}.`;
}

// Positions: how examples skip, and how often each relative distance was trained

function pictureFigure(run, colour) {
  const target = run.target_length, host = h("div", { class: "chart" });
  onWidth(host, (width) => {
    const rows = run.positions.chunks, left = width < 560 ? 0 : 96, high = 15, top = 24;
    const x = (position) => left + 1 + (position / target) * (width - left - 2), bottom = top + (rows.length + 1) * high + 4;
    const ticks = lengthTicks(0, target, "linear", Math.max(3, Math.floor((width - left) / 110)));
    const place = placer(1, 6);
    const bar = (y, [start, stop, share], kind) => s("rect", {
      class: kind, x: x(start), y, width: Math.max(1.5, x(stop) - x(start)), height: 8, rx: share < 1 ? 0 : 1.5,
      "fill-opacity": share < 1 ? 0.1 + 0.5 * share / most : 1,
    });
    const most = Math.max(...rows.flat().map((chunk) => chunk[2])); // below 1 where positions are too scattered for bars
    const label = `original window ${tokens(run.original_length)}`;
    host.replaceChildren(s("svg", { viewBox: `0 0 ${width} ${bottom + 40}`, width, height: bottom + 40, role: "img", class: `picture c${colour}`,
      "aria-label": `Positions of ${rows.length} examples in a window of ${tokens(target)} tokens` },
    run.original_length && s("g", { class: "marks" }, s("path", { d: `M${x(run.original_length)},${top - 6}V${bottom}`, "stroke-dasharray": "3 4" }),
      s("text", { x: Math.max(left + textWidth(label) / 2, Math.min(x(run.original_length), width - textWidth(label) / 2)), y: top - 11, "text-anchor": "middle" }, label)),
    left && s("g", { class: "axes" }, s("text", { x: left - 10, y: top + 8, "text-anchor": "end" }, "plain"),
      s("text", { x: left - 10, y: top + 4 + high + 8, "text-anchor": "end" }, "this run")),
    s("path", { class: "grid", d: `M${x(0)},${top + 4}H${x(target)}` }), bar(top, [0, Math.min(run.train_length, target), 1], "plain-bar"),
    rows.map((chunks, i) => {
      const y = top + 4 + (i + 1) * high;
      return [s("path", { class: "grid", d: `M${x(0)},${y + 4}H${x(target)}` }), chunks.map((chunk) => bar(y, chunk, "bar-run"))];
    }),
    s("g", { class: "axes" }, s("path", { class: "base", d: `M${x(0)},${bottom}H${x(target)}` }), ticks.map((t) => {
      const half = textWidth(tokens(t)) / 2, at = Math.max(left + half, Math.min(x(t), width - half));
      return [s("path", { class: "base", d: `M${x(t)},${bottom}v5` }),
        place(at - half, at + half) !== null && s("text", { x: at, y: bottom + 18, "text-anchor": "middle" }, t ? tokens(t) : "0")];
    }), s("text", { class: "title", x: width, y: bottom + 36, "text-anchor": "end" }, "position in the target window"))));
  });
  return host;
}

function distanceFigure() {
  const runs = data.runs.map((run, i) => ({ run, colour: runColour(i) })).filter(({ run }) => run.positions);
  if (!runs.length) return null;
  const target = Math.max(...runs.map(({ run }) => run.target_length));
  const state = { scale: "log" };
  const points = (positions, key) => positions[key].map((pairs, i) => {
    const [start, stop] = [positions.edges[i], positions.edges[i + 1]];
    return { x: (start + stop - 1) / 2, y: pairs, note: key === "pairs" ? `${percent(positions.seen[i])} of these distances seen` : "" };
  });
  const items = runs.map(({ run, colour }) => ({ name: single ? "skip-wise training" : run.name, colour, on: true, area: single, points: points(run.positions, "pairs") }));
  for (const plainLength of unique(runs.map(({ run }) => run.train_length))) {
    const { run } = runs.find((r) => r.run.train_length === plainLength);
    items.push({ name: `plain training at ${tokens(plainLength)}`, colour: 0, on: true, dash: "6 3", points: points(run.positions, "plain_pairs") });
  }
  const width = (target / 200) | 0, host = h("div");
  const redraw = chart(host, () => ({
    label: "Query-key pairs by relative distance", marks: windowMarks(),
    x: { scale: "linear", range: [0, target], format: (v) => (v ? tokens(v) : "0"), ticks: lengthTicks, label: "relative distance (tokens)",
      reading: (v) => `distance about ${number(v)}` },
    y: { scale: state.scale, zero: true, format: (v) => significant(v), tick: (v) => significant(v), label: "pairs per example" },
    series: items.filter((item) => item.on),
  }));
  const { positions, train_length: plain } = runs[0].run;
  const lead = single ? `${percent(positions.share)} of the ${number(target)} relative distances were seen in ${number(positions.counted)} examples of ` +
    `${number(positions.example_length)} tokens. Plain training at ${number(plain)} tokens sees ${percent(positions.plain_share)} of them.`
    : list(runs.map(({ run }) => `${run.name} saw ${percent(run.positions.share)}`)) + " of the relative distances.";
  const capped = runs.filter(({ run }) => run.positions.counted < run.positions.examples);
  const planned = runs.filter(({ run }) => !run.positions.examples);
  return section("distances", "Relative distances trained", lead, [
    legend(items, redraw), choice("Pairs axis", [["log", "log"], ["linear", "linear"]], "log", (value) => { state.scale = value; redraw(); }),
  ], host, h("p", { class: "note" }, [
    width > 1 && `Means over ${number(width)} neighbouring distances.`,
    capped.length && `Counted over the first ${number(capped[0].run.positions.counted)} of ${number(capped[0].run.positions.examples)} examples.`,
    planned.length && "Nothing was trained yet: these are the planned examples.",
    "A line on the floor is a distance that never occurs.",
  ].filter(Boolean).join(" ")));
}
