// The figures: what each one takes from the data, its switches, and the sentence above it.

// Perplexity by length

function perplexityFigure() {
  const rows = data.results.filter((row) => row.metric === "perplexity" && row.depth === null);
  if (!rows.length) return null;
  const views = unique(rows.map(variant));
  const state = { scale: "log", view: views[0] };
  const items = data.series.filter((series) => rows.some((row) => row.series === series.id))
    .map((series) => ({ id: series.id, name: series.name, colour: series.colour, marker: series.colour, on: true }));
  const host = h("div");
  const redraw = chart(host, () => ({
    label: "Perplexity by length", marks: windowMarks(),
    x: { scale: "log", format: tokens, reading: (x) => `${tokens(x)} tokens`, label: "tokens read (log)", ticks: lengthTicks },
    y: { scale: state.scale, format: perplexity, tick: (v) => significant(v), label: "perplexity (lower is better)", clip: state.scale === "log" ? 8 : 2.5 },
    series: items.filter((item) => item.on).map((item) => ({
      ...item,
      points: rows.filter((row) => row.series === item.id && variant(row) === state.view).sort((a, b) => a.length - b.length)
        .map((row) => ({ x: row.length, y: row.value, low: row.low, high: row.high, note: `${intervalText(row)}, ${countText(row)}` })),
    })),
  }));
  const set = (key) => (value) => { state[key] = value; redraw(); };
  const names = { "perplexity prefix": "first n tokens", "perplexity sliding": "sliding windows", "perplexity_by_position prefix": "between lengths" };
  const about = { "perplexity prefix": "the first n tokens of each document", "perplexity sliding": "windows of n tokens moved through each document",
    "perplexity_by_position prefix": "the tokens of each document from one length to the next" };
  return section("perplexity", "Perplexity by length", perplexityLead(), [
    legend(items, redraw),
    views.length > 1 && choice("Text", views.map((view) => [view, names[view] ?? view]), state.view, set("view")),
    choice("Perplexity axis", [["log", "log"], ["linear", "linear"]], state.scale, set("scale")),
  ], host, h("p", { class: "note" },
    `Measured on ${views.map((view) => about[view] ?? "each document").join(", or ")}. Bands are ${list(unique(rows.map((row) => row.interval)))} ` +
    "intervals. A triangle at the top edge is a value above the axis."));
}

function perplexityLead() {
  if (!single) return "How well each model predicts text that it reads to the end of a longer and longer window.";
  const run = data.runs[0], parts = [];
  const find = (model, length) => data.results.findLast((row) =>
    row.task === "perplexity" && row.depth === null && row.length === length && data.series[row.series].model === model);
  const inside = data.results.filter((row) => row.task === "perplexity" && row.length <= run.original_length).map((row) => row.length);
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
