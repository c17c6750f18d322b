// Positions: how examples skip, and how often each relative distance was trained

function pictureFigure(run, colour) {
  const target = run.target_length,
    host = h("div", { class: "chart" });
  onWidth(host, (width) => {
    const rows = run.positions.chunks,
      left = width < 560 ? 0 : 96,
      high = 15,
      top = 24;
    const x = (position) => left + 1 + (position / target) * (width - left - 2),
      bottom = top + (rows.length + 1) * high + 4;
    const ticks = lengthTicks(0, target, "linear", Math.max(3, Math.floor((width - left) / 110)));
    const place = placer(1, 6);
    const bar = (y, [start, stop, share], kind) =>
      s("rect", {
        class: kind,
        x: x(start),
        y,
        width: Math.max(1.5, x(stop) - x(start)),
        height: 8,
        rx: share < 1 ? 0 : 1.5,
        "fill-opacity": share < 1 ? 0.1 + (0.5 * share) / most : 1,
      });
    const most = Math.max(...rows.flat().map((chunk) => chunk[2])); // below 1 where positions are too scattered for bars
    const label = `original window ${tokens(run.original_length)}`;
    host.replaceChildren(
      s(
        "svg",
        {
          viewBox: `0 0 ${width} ${bottom + 40}`,
          width,
          height: bottom + 40,
          role: "img",
          class: `picture c${colour}`,
          "aria-label": `Positions of ${rows.length} examples in a window of ${tokens(target)} tokens`,
        },
        run.original_length &&
          s(
            "g",
            { class: "marks" },
            s("path", { d: `M${x(run.original_length)},${top - 6}V${bottom}`, "stroke-dasharray": "3 4" }),
            s(
              "text",
              {
                x: Math.max(
                  left + textWidth(label) / 2,
                  Math.min(x(run.original_length), width - textWidth(label) / 2),
                ),
                y: top - 11,
                "text-anchor": "middle",
              },
              label,
            ),
          ),
        left &&
          s(
            "g",
            { class: "axes" },
            s("text", { x: left - 10, y: top + 8, "text-anchor": "end" }, "plain"),
            s("text", { x: left - 10, y: top + 4 + high + 8, "text-anchor": "end" }, "this run"),
          ),
        s("path", { class: "grid", d: `M${x(0)},${top + 4}H${x(target)}` }),
        bar(top, [0, Math.min(run.train_length, target), 1], "plain-bar"),
        rows.map((chunks, i) => {
          const y = top + 4 + (i + 1) * high;
          return [
            s("path", { class: "grid", d: `M${x(0)},${y + 4}H${x(target)}` }),
            chunks.map((chunk) => bar(y, chunk, "bar-run")),
          ];
        }),
        s(
          "g",
          { class: "axes" },
          s("path", { class: "base", d: `M${x(0)},${bottom}H${x(target)}` }),
          ticks.map((t) => {
            const half = textWidth(tokens(t)) / 2,
              at = Math.max(left + half, Math.min(x(t), width - half));
            return [
              s("path", { class: "base", d: `M${x(t)},${bottom}v5` }),
              place(at - half, at + half) !== null &&
                s("text", { x: at, y: bottom + 18, "text-anchor": "middle" }, t ? tokens(t) : "0"),
            ];
          }),
          s(
            "text",
            { class: "title", x: width, y: bottom + 36, "text-anchor": "end" },
            "position in the target window",
          ),
        ),
      ),
    );
  });
  return host;
}

function distanceFigure() {
  const runs = data.runs.map((run, i) => ({ run, colour: runColour(i) })).filter(({ run }) => run.positions);
  if (!runs.length) return null;
  const target = Math.max(...runs.map(({ run }) => run.target_length));
  const state = { scale: "log" };
  const points = (positions, key) =>
    positions[key].map((pairs, i) => {
      const [start, stop] = [positions.edges[i], positions.edges[i + 1]];
      return {
        x: (start + stop - 1) / 2,
        y: pairs,
        note: key === "pairs" ? `${percent(positions.seen[i])} of these distances seen` : "",
      };
    });
  const items = runs.map(({ run, colour }) => ({
    name: single ? "skip-wise training" : run.name,
    colour,
    on: true,
    area: single,
    points: points(run.positions, "pairs"),
  }));
  for (const plainLength of unique(runs.map(({ run }) => run.train_length))) {
    const { run } = runs.find((r) => r.run.train_length === plainLength);
    items.push({
      name: `plain training at ${tokens(plainLength)}`,
      colour: 0,
      on: true,
      dash: "6 3",
      points: points(run.positions, "plain_pairs"),
    });
  }
  const width = (target / 200) | 0,
    host = h("div");
  const redraw = chart(host, () => ({
    label: "Query-key pairs by relative distance",
    marks: windowMarks(),
    x: {
      scale: "linear",
      range: [0, target],
      format: (v) => (v ? tokens(v) : "0"),
      ticks: lengthTicks,
      label: "relative distance (tokens)",
      reading: (v) => `distance about ${number(v)}`,
    },
    y: {
      scale: state.scale,
      zero: true,
      format: (v) => significant(v),
      tick: (v) => significant(v),
      label: "pairs per example",
    },
    series: items.filter((item) => item.on),
  }));
  const { positions, train_length: plain } = runs[0].run;
  const lead = single
    ? `${percent(positions.share)} of the ${number(target)} relative distances were seen in ${number(positions.counted)} examples of ` +
      `${tokens(positions.example_length)} tokens. Plain training at ${tokens(plain)} tokens sees ${percent(positions.plain_share)} of them.`
    : `${list(runs.map(({ run }) => `${run.name} saw ${percent(run.positions.share)}`))} of the relative distances.`;
  const capped = runs.filter(({ run }) => run.positions.counted < run.positions.examples);
  const planned = runs.filter(({ run }) => !run.positions.examples);
  return section(
    "distances",
    "Relative distances trained",
    lead,
    [
      legend(items, redraw),
      choice(
        "Pairs axis",
        [
          ["log", "log"],
          ["linear", "linear"],
        ],
        "log",
        (value) => {
          state.scale = value;
          redraw();
        },
      ),
    ],
    host,
    h(
      "p",
      { class: "note" },
      [
        width > 1 && `Means over ${number(width)} neighbouring distances.`,
        capped.length &&
          `Counted over the first ${number(capped[0].run.positions.counted)} of ${number(capped[0].run.positions.examples)} examples.`,
        planned.length && "Nothing was trained yet: these are the planned examples.",
        "A line on the floor is a distance that never occurs.",
      ]
        .filter(Boolean)
        .join(" "),
    ),
  );
}
