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
    tokens: {
      of: (row) => row.tokens,
      label: "tokens trained",
      format: large,
      reading: (v) => `${large(Math.round(v))} tokens`,
    },
    seconds: {
      of: (row) => row.seconds / size,
      label: unit,
      format: (v) => significant(v),
      reading: (v) => `${significant(v)} ${unit}`,
    },
  };
  const kinds = [
    { name: "training, each entry", kind: "train", key: "loss", faint: true },
    { name: "training, smoothed", kind: "train", key: "loss", smoothed: true },
    { name: "validation, skipped positions", kind: "validation", key: "loss_skipped", marker: 0, dash: "6 3" },
    { name: "validation, plain positions", kind: "validation", key: "loss_plain", marker: 1, dash: "2 3" },
  ];
  // One run: the legend holds the kinds of loss. Several: it holds the runs, and a switch chooses the kind.
  const items = single
    ? kinds
        .filter((kind) => data.runs[0][kind.kind].length)
        .map((kind) => ({ ...kind, colour: runColour(0), on: true }))
    : data.runs.map((run, i) => ({ name: run.name, colour: runColour(i), on: true, run }));
  const chosen = () =>
    single
      ? items.filter((item) => item.on).map((item) => ({ ...item, run: data.runs[0] }))
      : items
          .filter((item) => item.on)
          .flatMap((item) =>
            kinds
              .filter((kind) => kind.key === state.key)
              .map((kind) => ({
                ...kind,
                ...item,
                name: kind.faint ? `${item.name}, each entry` : item.name,
                dash: null,
              })),
          );
  const pointsOf = (item) => {
    const points = item.run[item.kind]
      .filter((row) => x[state.axis].of(row) !== null)
      .map((row) => ({ x: x[state.axis].of(row), y: row[item.key] }));
    return item.smoothed ? smooth(points) : points;
  };
  const host = h("div");
  const redraw = chart(host, () => ({
    label: "Loss during training",
    x: { scale: "linear", ...x[state.axis] },
    y: { scale: "linear", format: (v) => number(v, 3), tick: (v) => significant(v, 4), label: "loss (nats per token)" },
    series: chosen().map((item) => ({ ...item, points: pointsOf(item) })),
  }));
  const set = (key) => (value) => {
    state[key] = value;
    redraw();
  };
  const losses = [
    ["loss", "training"],
    ["loss_skipped", "validation, skipped"],
    ["loss_plain", "validation, plain"],
  ];
  return section(
    "training",
    "Training",
    trainingLead(),
    [
      legend(items, redraw),
      !single && choice("Loss", losses, state.key, set("key")),
      choice(
        "Horizontal axis",
        [
          ["step", "steps"],
          ["tokens", "tokens"],
          ["seconds", "time"],
        ],
        state.axis,
        set("axis"),
      ),
    ],
    host,
  );
}

function trainingLead() {
  if (!single)
    return "Loss during training: on the training text, or on held-out text with skipped and with plain positions.";
  const rows = data.runs[0].validation;
  if (!rows.length) return "Loss during training.";
  const [first, final] = [rows[0], rows.at(-1)];
  const change = (key) =>
    first === final
      ? number(final[key], 2)
      : `${number(first[key], 2)} at step ${number(first.step)}, ${number(final[key], 2)} at step ${number(final.step)}`;
  return `Held-out loss with skipped positions: ${change("loss_skipped")}. With plain positions, which shows what short texts lose: ${change("loss_plain")}.`;
}
