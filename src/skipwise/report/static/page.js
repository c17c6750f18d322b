// The page around the figures: numbers at the top, what was done, what to type, and the order of the sections.

// Numbers at the top

function change(pair, text) {
  const [before, after] = pair;
  return h(
    "p",
    { class: "value" },
    before && [h("span", { class: "before" }, text(before)), h("span", { class: "arrow" }, "→")],
    h("span", { class: "after" }, text(after)),
  );
}

const costParts = (cost) =>
  [
    `${number(cost.steps)} step${cost.steps === 1 ? "" : "s"}`,
    cost.tokens && `${large(cost.tokens)} tokens`,
    cost.peak_memory_bytes && `${memory(cost.peak_memory_bytes)} peak memory`,
  ].filter(Boolean);

function tiles(run) {
  const { perplexity: ppl, passkey } = run.at_target,
    factor = run.original_length && run.target_length / run.original_length;
  const window = h(
    "p",
    { class: "value" },
    run.original_length && [
      h("span", { class: "before" }, tokens(run.original_length)),
      h("span", { class: "arrow" }, "→"),
    ],
    h("span", { class: "after" }, tokens(run.target_length)),
  );
  const evaluated = (label, pair) =>
    pair
      ? tile(
          `${label} at ${tokens(pair[1].length)}`,
          change(pair, valueText),
          `95% interval ${intervalText(pair[1])}`,
          countText(pair[1]),
        )
      : tile(label, "–", "not measured");
  return h(
    "div",
    { class: "tiles" },
    tile("Window", window, factor ? `tokens, ${significant(factor)} times longer` : "tokens"),
    evaluated("Perplexity", ppl),
    evaluated("Passkey found", passkey),
    run.cost.planned_steps
      ? tile(
          "Training",
          run.cost.seconds === null ? "–" : duration(run.cost.seconds),
          costParts(run.cost).slice(0, 2).join(", "),
          costParts(run.cost)[2],
        )
      : tile("Training", "none", "RoPE was scaled only"),
  );
}

function comparison() {
  const pair = (run, task) => {
    const rows = run.at_target[task];
    if (!rows) return "–";
    return `${rows[0] ? `${valueText(rows[0])} → ` : ""}${valueText(rows[1])} (${tokens(rows[1].length)})`;
  };
  const columns = ["Run", "Window", "Did it work?", "Inside the old window", "Perplexity", "Passkey"];
  const costs = ["Steps", "Tokens", "Time", "Memory"];
  return scrolled(
    "Runs",
    h(
      "table",
      {},
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          columns.map((text) => h("th", { scope: "col" }, text)),
          costs.map((text) => h("th", { scope: "col", class: "num" }, text)),
        ),
      ),
      h(
        "tbody",
        {},
        data.runs.map((run, i) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, swatch({ colour: runColour(i), marker: runColour(i) }), run.name),
            h("td", {}, `${tokens(run.original_length)} → ${tokens(run.target_length)}`),
            answerWords(run),
            h("td", {}, pair(run, "perplexity")),
            h("td", {}, pair(run, "passkey")),
            [
              number(run.cost.steps),
              run.cost.tokens === null ? "–" : large(run.cost.tokens),
              run.cost.seconds === null ? "–" : duration(run.cost.seconds),
              run.cost.peak_memory_bytes === null ? "–" : memory(run.cost.peak_memory_bytes),
            ].map((text) => h("td", { class: "num" }, text)),
          ),
        ),
      ),
    ),
  );
}

function notices() {
  const notes = data.files
    .filter((file) => file.outdated)
    .map(
      (file) =>
        `${file.name}: ${number(file.outdated)} earlier results, of other texts or settings, are in the file alone.`,
    );
  notes.unshift(...data.runs.flatMap((run) => run.missing.map((text) => (single ? text : `${run.name}: ${text}`))));
  return notes.length
    ? h(
        "ul",
        { class: "notice" },
        notes.map((text) => h("li", {}, text)),
      )
    : null;
}

// What was done

function settingsSection() {
  if (!data.runs.length) return null;
  const groups = data.runs[0].settings;
  const body = single
    ? h(
        "div",
        { class: "groups" },
        groups.map((group) =>
          h(
            "div",
            {},
            h("h3", {}, group.title),
            h(
              "dl",
              {},
              group.rows.map(([label, value]) => [h("dt", {}, label), h("dd", {}, value)]),
            ),
          ),
        ),
      )
    : scrolled(
        "Settings",
        h(
          "table",
          { class: "settings" },
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              h("th", {}),
              data.runs.map((run) => h("th", { scope: "col" }, run.name)),
            ),
          ),
          h(
            "tbody",
            {},
            groups.flatMap((group, g) =>
              group.rows.map(([label], r) => {
                const values = data.runs.map((run) => run.settings[g].rows[r][1]);
                return h(
                  "tr",
                  { class: shared(values) === null && "differs" },
                  h("th", { scope: "row" }, label),
                  values.map((value) => h("td", {}, value)),
                );
              }),
            ),
          ),
        ),
      );
  const pictures = data.runs.map(
    (run, i) =>
      run.positions && [!single && h("h3", { class: `c${runColour(i)}` }, run.name), pictureFigure(run, runColour(i))],
  );
  const first = data.runs.find((run) => run.positions);
  return section(
    "setup",
    "What was done",
    !single && "Settings in which the runs differ are marked.",
    [],
    body,
    first &&
      h(
        "p",
        { class: "lead" },
        single
          ? `Each row is one training example of ${tokens(first.positions.example_length)} tokens. Bars are runs of consecutive positions, the gaps between them are skipped: short examples reach across the whole window. The grey bar is plain training.`
          : "Each row is one training example; bars are runs of consecutive positions, gaps are skipped. Grey bars are plain training.",
      ),
    pictures,
  );
}

// What to type

function useSection() {
  if (!data.runs.length) return null;
  const run = data.runs[0];
  const panels = run.commands.map(({ title, text }) => [title, codeBlock(text)]);
  const lead =
    `${run.finished ? "The result is" : "Once training has finished, the result is"} an ordinary Hugging Face checkpoint; ` +
    `nothing of Skipwise is needed to run it.${single ? "" : ` Shown for ${run.name}.`}`;
  return section("use", "Use the model", lead, [], tabs("Tool", panels));
}

// The page

theme();
document.getElementById("kicker").textContent = list([
  ...(data.runs.length > 1 ? [`${data.runs.length} runs`] : data.runs.map((run) => run.name)),
  ...data.files.map((file) => file.name),
]);
const sections = [
  exampleSection(),
  summaryFigure(),
  settingsSection(),
  perplexityFigure(),
  lengthFigure(),
  retrievalFigure(),
  trainingFigure(),
  distanceFigure(),
  useSection(),
  numbersSection(),
].filter(Boolean);
const summary = single ? tiles(data.runs[0]) : data.runs.length ? comparison() : null;
const answers = answerCards(single ? data.runs[0].questions : data.questions);
document.getElementById("top").append(...[answers, summary, notices(), ...sections].filter(Boolean));
const names = {
  example: "Answers",
  setup: "Setup",
  summary: "Tasks",
  perplexity: "Perplexity",
  tasks: "Scores",
  retrieval: "Depth",
  training: "Training",
  distances: "Distances",
  use: "Use",
  numbers: "Numbers",
};
const links = sections.map((element) => h("a", { href: `#${element.id}` }, names[element.id]));
document.getElementById("nav").append(...links);
const origins = list([...data.runs, ...data.files].map((source) => source.name));
const written = `Written by Skipwise ${data.skipwise} on ${data.written.slice(0, 10)} from ${origins}.`;
document
  .getElementById("footer")
  .append(h("p", {}, `${written} This page is one file; it loads nothing from anywhere.`));
