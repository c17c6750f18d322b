// Scores by length and depth

function retrievalFigure() {
  const deep = new Set(data.results.filter((row) => row.depth !== null && row.task !== "k_max").map(variant));
  const rows = data.results.filter((row) => deep.has(variant(row)) && !sizeless(row));
  if (!rows.length) return null;
  const names = unique(rows.map(variant));
  let task = names[0];
  const host = h("div", { class: "heat" }),
    lead = h("span");
  const redraw = onWidth(host, (width) => {
    const shownRows = rows.filter((row) => variant(row) === task);
    lead.textContent = retrievalLead(task);
    const columns = width >= 760 && data.series.length > 1 ? 2 : 1;
    host.style.setProperty("grid-template-columns", `repeat(${columns}, minmax(0, 1fr))`);
    const panels = data.series.filter((series) => shownRows.some((row) => row.series === series.id));
    host.replaceChildren(...panels.map((series) => heatMap(series, shownRows, (width - 28 * (columns - 1)) / columns)));
  });
  const scale = h("div", { class: "heat-scale", "aria-hidden": "true" }, "0%", h("i"), "100%");
  return section(
    "retrieval",
    "Retrieval by length and depth",
    lead,
    [
      names.length > 1 &&
        menu(
          "Task",
          names.map((name) => [name, variantName(name)]),
          task,
          (value) => {
            task = value;
            redraw();
          },
        ),
      scale,
    ],
    host,
    h(
      "p",
      { class: "note" },
      "Cells hold the share found, or the mean score, in percent. Point at a cell, tap it or move with the arrow keys to see prompts and interval: " +
        "a few prompts leave a wide one.",
    ),
  );
}

function retrievalLead(task) {
  const about = aboutTask(task),
    pair = single && data.runs[0].at_target[task];
  if (!pair) return about;
  const share = (row) => `${number(row.value * row.n)} of ${number(row.n)}`;
  const [before, after] = pair;
  return `${about} At ${tokens(after.length)} tokens it finds ${share(after)}${before ? `; before, ${share(before)}` : ""}.`;
}

function heatMap(series, allRows, width) {
  const shownRows = allRows.filter((row) => row.series === series.id);
  const lengths = unique(allRows.map((row) => row.length)).sort((a, b) => a - b);
  const depths = unique(allRows.map((row) => row.depth))
    .filter((depth) => depth !== null)
    .sort((a, b) => a - b);
  const total = allRows.some((row) => row.depth === null);
  const rowsShown = [...depths, ...(total ? [null] : [])];
  const border = shared(data.runs.map((run) => run.original_length)) ?? shownRows[0].original_length;
  const inside = lengths.filter((n) => n <= border).length,
    gap = inside && inside < lengths.length ? 8 : 0;
  const left = 44,
    top = 36,
    size = (width - left - gap - 2) / lengths.length,
    high = Math.min(46, Math.max(32, size));
  const y = (depth, i) => top + i * high + (depth === null && depths.length ? 8 : 0);
  const tip = h("div", { class: "tip", hidden: true });
  const columnAt = (column) => left + column * size + (column >= inside ? gap : 0);
  const cells = [];
  const hide = () => {
    tip.hidden = true;
  };
  const cell = (depth, i, column) => {
    const row = shownRows.findLast((r) => r.depth === depth && r.length === lengths[column]);
    const where = `${tokens(lengths[column])} tokens, ${depth === null ? "all depths" : `depth ${percent(depth)}`}`;
    const text = row
      ? `${percent(row.value)} of ${countText(row)}, ${row.interval} interval ${intervalText(row)}`
      : "not measured";
    const x = columnAt(column),
      share = row ? row.value : NaN;
    const show = () => {
      tip.replaceChildren(
        h("strong", {}, where),
        h(
          "div",
          {},
          h("b", {}, row ? percent(row.value) : "not measured"),
          row && h("small", {}, `${countText(row)}, interval ${intervalText(row)}`),
        ),
      );
      tip.hidden = false;
      tip.style.left = `${Math.max(0, Math.min(x + size / 2 - tip.offsetWidth / 2, width - tip.offsetWidth))}px`;
      tip.style.top = `${y(depth, i) - tip.offsetHeight + 26}px`;
    };
    const group = s(
      "g",
      {
        class: `cell${Number.isNaN(share) ? " none" : share > 0.5 ? " full" : ""}`,
        tabindex: cells.length ? -1 : 0,
        role: "img",
        "aria-label": `${where}: ${text}`,
        onpointerenter: show,
        onpointerdown: show,
        onfocus: show,
        onblur: hide,
        onpointerleave: (event) => event.pointerType === "mouse" && hide(),
        onkeydown: (event) => move(event, i, column),
      },
      s("rect", {
        x: x + 1,
        y: y(depth, i) + 1,
        width: size - 2,
        height: high - 2,
        rx: 3,
        style: row ? { "--share": `${100 * share}%` } : {},
      }),
      s(
        "text",
        { x: x + size / 2, y: y(depth, i) + high / 2 + 4.5, "text-anchor": "middle" },
        row ? (size < 28 ? "" : significant(100 * share, 2)) : "–",
      ),
    );
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
  const label = `original window ${tokens(border)}`,
    anchor = Math.max(left + textWidth(label) / 2, Math.min(at, width - textWidth(label) / 2));
  const place = placer(1, 2);
  const svg = s(
    "svg",
    {
      viewBox: `0 0 ${width} ${bottom + 22}`,
      width,
      height: bottom + 22,
      role: "group",
      "aria-label": `Retrieval, ${series.name}`,
    },
    rowsShown.map((depth, i) =>
      s(
        "text",
        { x: left - 8, y: y(depth, i) + high / 2 + 4.5, "text-anchor": "end" },
        depth === null ? "all" : percent(depth),
      ),
    ),
    s("text", { class: "title", x: 0, y: top - 9 }, "depth"),
    rowsShown.map((depth, i) => lengths.map((_, column) => cell(depth, i, column))),
    lengths.map((length, column) => {
      const x = columnAt(column) + size / 2,
        half = textWidth(tokens(length)) / 2;
      return (
        place(x - half, x + half) !== null && s("text", { x, y: bottom + 17, "text-anchor": "middle" }, tokens(length))
      );
    }),
    border &&
      s(
        "g",
        { class: "marks" },
        s("path", { d: `M${at},${top - 3}V${bottom}`, "stroke-dasharray": "3 4" }),
        s("text", { x: anchor, y: top - 9, "text-anchor": "middle" }, label),
      ),
  );
  return h(
    "div",
    { class: "panel" },
    h("h3", { class: `c${series.colour}` }, swatch({ ...series, marker: series.colour }), series.name),
    svg,
    tip,
  );
}
