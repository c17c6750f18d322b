// Tasks: what each one is called, its values beside each other, and its curve by length.

const shared = (values) => (new Set(values).size === 1 ? values[0] : null);
const unique = (values) => [...new Set(values)];
const single = data.runs.length === 1;

/** Lines for the original and the target window, where all runs have the same. */
function windowMarks() {
  const original = shared(data.runs.map((run) => run.original_length)),
    target = shared(data.runs.map((run) => run.target_length));
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
  babilong: "Questions about facts that are scattered over a long text (BABILong).",
  mrcr: "The k-th of several answers to the same request in a long conversation; 1 is the right text, word for word.",
  non_literal: "Needles that share no word with their question, and twins that do.",
  placed: "Short multiple-choice questions at several places of long filler, and without filler.",
  longppl: "How well the tokens that need the long context are predicted; lower is better.",
  harness: "Standard short benchmarks: what the extension costs or keeps on short texts.",
};
const variant = (row) => [row.task, row.variant].filter(Boolean).join(" ");
const variantName = (name) => name.replace(" ", ": ").replaceAll("_", " ");
const aboutTask = (name) => TASKS[name.split(" ")[0]] ?? `Task ${variantName(name)}.`;
/** Rows that stand for no length: an effective length, a benchmark of short prompts. */
const sizeless = (row) => inTokens(row) || !row.length;

// Summary: every task at one length, models side by side, with their change

/** Writes an end of a change: a ratio of perplexities as percent, a difference of scores as points. */
function changeValue(row) {
  const sign = (value) => (value < 0 ? "−" : "+") + significant(Math.abs(value), Math.abs(value) < 10 ? 2 : 3);
  const ratio = (value) =>
    value > 10 || !Number.isFinite(value)
      ? `×${Number.isFinite(value) ? significant(value) : "∞"}`
      : `${sign(100 * (value - 1))}%`;
  return row.metric === "perplexity" ? ratio : (value) => sign(100 * value);
}

/** What an undecided change would have had to be to show, and a perplexity's interval for the texts read. */
function changeNotes(row) {
  const { few, detectable, same_texts: same, verdict, seeds } = row.change ?? {},
    text = changeValue(row),
    shown =
      row.metric === "perplexity" ? `${text(1 / detectable)} or ${text(detectable)}` : `${text(detectable)} points`;
  return [
    few && `${few} decides nothing`,
    seeds && `over ${seeds} seeds${row.metric === "perplexity" ? ", of these texts alone" : ""}`,
    verdict === "undecided" &&
      !few &&
      !seeds &&
      (Number.isFinite(detectable) ? `${shown} would show` : "too few to show any change"),
    same && `these texts [${text(same.low)}, ${text(same.high)}] ${same.verdict}`,
  ].filter(Boolean);
}

function changeText(row) {
  const { change } = row;
  if (!change) return null;
  if (change.other) return "other prompts, not paired";
  if (change.verdict === undefined) return null;
  const text = changeValue(row);
  return `${text(change.value)}${row.metric === "perplexity" ? "" : " points"} [${text(change.low)}, ${text(change.high)}]`;
}

function summaryCell(row) {
  if (!row) return h("td", { class: "num" }, "–");
  const { repeated, verdict } = row.change ?? {},
    text = changeText(row);
  return h(
    "td",
    {
      class: "num",
      title: `${row.interval ? `${row.interval} interval ${intervalText(row)}, ` : ""}${countText(row)}`,
    },
    h("b", {}, valueText(row)),
    row.beyond_window && !sizeless(row) && "*",
    text && h("small", { class: `change ${repeated ? "" : (verdict ?? "")}` }, text, verdict && ` ${verdict}`),
    changeNotes(row).map((note) => h("small", {}, note)),
    repeated && h("small", {}, "counted in another row"),
  );
}

/** Verdicts at all lengths, inside and beyond the old window; a measurement that two rows show counts once. */
function summaryLead(rows) {
  const parts = data.series
    .filter((series) => series.base !== null)
    .map((series) => {
      const base = data.series[series.base],
        old = data.runs[series.run]?.original_length ?? (series.served ? base.original_length : base.window);
      const judged = rows.filter((row) => row.series === series.id && row.change?.verdict && !row.change.repeated);
      const counts = (part) => {
        const shown = ["better", "worse", "undecided"].map(
          (verdict) => `${verdict} in ${part.filter((row) => row.change.verdict === verdict).length}`,
        );
        return part.length ? `${shown.join(", ")} of ${part.length}` : "nothing paired";
      };
      const within = judged.filter((row) => !row.length || row.length <= old),
        beyond = judged.filter((row) => row.length > old);
      return judged.length
        ? `${series.name} against ${base.name}: at and below ${tokens(old)} tokens ${counts(within)}; beyond ${counts(beyond)}.`
        : "";
    })
    .filter(Boolean);
  if (!parts.length) return "Every task, models side by side.";
  return parts.map((text, i) => [i > 0 && h("br"), text]);
}

function summaryFigure() {
  const rows = data.results.filter((row) => row.depth === null);
  if (!rows.length) return null;
  const lengths = unique(rows.filter((row) => !sizeless(row)).map((row) => row.length)).sort((a, b) => a - b);
  const shown = data.series.filter((series) => rows.some((row) => row.series === series.id));
  const body = h("tbody");
  function draw(length) {
    const chosen = rows.filter((row) => sizeless(row) || row.length === length);
    body.replaceChildren(
      ...unique(chosen.map((row) => `${variant(row)}|${row.metric}`)).map((key) => {
        const [name] = key.split("|"),
          shownRows = chosen.filter((row) => `${variant(row)}|${row.metric}` === key);
        return h(
          "tr",
          {},
          h(
            "th",
            { scope: "row", title: aboutTask(name) },
            variantName(name),
            h("small", {}, sizeless(shownRows[0]) && inTokens(shownRows[0]) ? "tokens" : shownRows[0].metric),
          ),
          shown.map((series) => summaryCell(shownRows.findLast((row) => row.series === series.id))),
        );
      }),
    );
  }
  const last = lengths.at(-1);
  draw(last);
  const paired = data.results.some((row) => row.change?.verdict);
  return section(
    "summary",
    "All tasks",
    summaryLead(rows),
    [
      lengths.length > 1 &&
        menu(
          "Length",
          lengths.map((n) => [n, `${tokens(n)} tokens`]),
          last,
          (value) => draw(Number(value)),
        ),
    ],
    scrolled(
      "All tasks",
      h(
        "table",
        { class: "summary" },
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("th", { scope: "col" }, "Task"),
            shown.map((series) =>
              h(
                "th",
                { scope: "col", class: "num" },
                swatch({ colour: series.colour, marker: series.colour }),
                ` ${series.name}`,
              ),
            ),
          ),
        ),
        body,
      ),
    ),
    h(
      "p",
      { class: "note" },
      paired
        ? "Changes have 95% intervals that are paired over the same prompts or texts, so they are surer than two intervals side by side. " +
            "Better and worse are said where the interval holds no zero; by chance alone one change in twenty is. "
        : "No two models were measured on the same prompts with scores to pair. ",
      rows.some((row) => row.beyond_window) && "* beyond the window that the model is configured for.",
    ),
  );
}

// Scores by length

function lengthFigure() {
  // k_max has one length and its prompts in cells by distance: its curve goes over those.
  const rows = data.results.filter(
    (row) =>
      (row.depth === null) === (row.task !== "k_max") &&
      !["perplexity", "difference"].includes(row.metric) &&
      !sizeless(row),
  );
  if (!rows.length) return null;
  const names = unique(rows.map(variant)),
    at = (row) => (row.task === "k_max" ? row.distance : row.length),
    host = h("div"),
    lead = h("span");
  let name = names[0];
  const items = data.series
    .filter((series) => rows.some((row) => row.series === series.id))
    .map((series) => ({ id: series.id, name: series.name, colour: series.colour, marker: series.colour, on: true }));
  const redraw = chart(host, () => {
    const shownRows = rows.filter((row) => variant(row) === name),
      reach = name === "k_max" ? "tokens between key and question (log)" : "tokens read (log)";
    lead.textContent = aboutTask(name);
    return {
      label: `${variantName(name)} by length`,
      marks: windowMarks(),
      x: { scale: "log", format: tokens, reading: (x) => `${tokens(x)} tokens`, label: reach, ticks: lengthTicks },
      y: {
        scale: "linear",
        range: [0, 1.02],
        format: percent,
        tick: percent,
        label: shownRows[0].metric === "accuracy" ? "found" : shownRows[0].metric,
      },
      series: items
        .filter((item) => item.on)
        .map((item) => ({
          ...item,
          points: shownRows
            .filter((row) => row.series === item.id)
            .sort((a, b) => at(a) - at(b))
            .map((row) => ({
              x: at(row),
              y: row.value,
              low: row.low ?? undefined,
              high: row.high ?? undefined,
              note: `${intervalText(row)}, ${countText(row)}`,
            })),
        })),
    };
  });
  return section(
    "tasks",
    "Scores by length",
    lead,
    [
      legend(items, () => redraw()),
      names.length > 1 &&
        menu(
          "Scores of",
          names.map((key) => [key, variantName(key)]),
          name,
          (value) => {
            name = value;
            redraw();
          },
        ),
    ],
    host,
    h(
      "p",
      { class: "note" },
      "Over all depths. Bands are 95% intervals of each model alone; for changes see the table of all tasks.",
    ),
  );
}
