// Perplexity by length

function perplexityFigure() {
  const rows = data.results.filter((row) => row.metric === "perplexity" && row.depth === null);
  if (!rows.length) return null;
  const views = unique(rows.map(variant));
  const state = { scale: "log", view: views[0] };
  const items = data.series
    .filter((series) => rows.some((row) => row.series === series.id))
    .map((series) => ({ id: series.id, name: series.name, colour: series.colour, marker: series.colour, on: true }));
  const host = h("div");
  const redraw = chart(host, () => ({
    label: "Perplexity by length",
    marks: windowMarks(),
    x: {
      scale: "log",
      format: tokens,
      reading: (x) => `${tokens(x)} tokens`,
      label: "tokens read (log)",
      ticks: lengthTicks,
    },
    y: {
      scale: state.scale,
      format: perplexity,
      tick: (v) => significant(v),
      label: "perplexity (lower is better)",
      clip: state.scale === "log" ? 8 : 2.5,
    },
    series: items
      .filter((item) => item.on)
      .map((item) => ({
        ...item,
        points: rows
          .filter((row) => row.series === item.id && variant(row) === state.view)
          .sort((a, b) => a.length - b.length)
          .map((row) => ({
            x: row.length,
            y: row.value,
            low: row.low,
            high: row.high,
            note: `${intervalText(row)}, ${countText(row)}`,
          })),
      })),
  }));
  const set = (key) => (value) => {
    state[key] = value;
    redraw();
  };
  const names = {
    "perplexity prefix": "first n tokens",
    "perplexity sliding": "sliding windows",
    "perplexity_by_position prefix": "between lengths",
    "longppl key": "key tokens",
    "longppl all": "all tokens",
  };
  const about = {
    "perplexity prefix": "the first n tokens of each document",
    "perplexity sliding": "windows of n tokens moved through each document",
    "perplexity_by_position prefix": "the tokens of each document from one length to the next",
    "longppl key": "the tokens that need the long context",
    "longppl all": "all tokens of the same texts",
  };
  return section(
    "perplexity",
    "Perplexity by length",
    perplexityLead(),
    [
      legend(items, redraw),
      views.length > 1 &&
        choice(
          "Text",
          views.map((view) => [view, names[view] ?? view]),
          state.view,
          set("view"),
        ),
      choice(
        "Perplexity axis",
        [
          ["log", "log"],
          ["linear", "linear"],
        ],
        state.scale,
        set("scale"),
      ),
    ],
    host,
    h(
      "p",
      { class: "note" },
      `Measured on ${views.map((view) => about[view] ?? "each document").join(", or ")}. Bands are ${list(unique(rows.map((row) => row.interval)))} ` +
        "intervals. A triangle at the top edge is a value above the axis.",
    ),
  );
}

function perplexityLead() {
  if (!single) return "How well each model predicts text that it reads to the end of a longer and longer window.";
  const run = data.runs[0],
    parts = [];
  const find = (model, length) =>
    data.results.findLast(
      (row) =>
        row.task === "perplexity" &&
        row.depth === null &&
        row.length === length &&
        data.series[row.series].model === model,
    );
  const inside = data.results
    .filter((row) => row.task === "perplexity" && row.length <= run.original_length)
    .map((row) => row.length);
  const long = run.at_target.perplexity;
  if (inside.length) {
    const at = Math.max(...inside),
      [before, after] = [find("original", at), find("extended", at)];
    const change = before && after ? 100 * (after.value / before.value - 1) : NaN;
    if (Number.isFinite(change))
      parts.push(
        `Inside the original window, at ${tokens(at)}: ${perplexity(before.value)} before and ${perplexity(after.value)} after (${change < 0 ? "−" : "+"}${Math.abs(change).toFixed(1)}%).`,
      );
  }
  if (long?.[0] && long[1].length > run.original_length)
    parts.push(
      `Beyond it, at ${tokens(long[1].length)}: ${perplexity(long[0].value)} before and ${perplexity(long[1].value)} after.`,
    );
  return parts.join(" ") || "How well the model predicts text that it reads to the end of a longer and longer window.";
}
