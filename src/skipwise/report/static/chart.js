// Line charts. A chart is drawn anew from `describe()` whenever a switch, the legend or the width changes.

const scales = {
  linear: { to: (v) => v, ticks: niceTicks },
  log: { to: (v) => Math.log(v), ticks: logTicks },
};

function niceTicks(low, high, count) {
  const rough = (high - low) / count,
    power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((m) => m >= rough * 0.99);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from(
    { length: Math.floor(high / step + 1e-9) - first + 1 },
    (_, i) => +((first + i) * step).toPrecision(12),
  );
}

function logTicks(low, high, count) {
  for (const factors of [[1, 1.5, 2, 3, 4, 5, 7], [1, 2, 5], [1, 3], [1]]) {
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
      ticks.push(...factors.map((f) => +(f * 10 ** power).toPrecision(6)).filter((v) => v >= low && v <= high));
    if (ticks.length <= count + 2 && ticks.length > 1) return ticks;
  }
  return niceTicks(low, high, count);
}

/** Powers of two between two lengths, or their multiples of a power of two on a linear axis. */
function lengthTicks(low, high, scale, count) {
  if (scale === "log") {
    let ticks = [];
    for (let t = 2 ** Math.ceil(Math.log2(low) - 1e-9); t <= high; t *= 2) ticks.push(t);
    while (ticks.length > count) ticks = ticks.filter((_, i) => (ticks.length - 1 - i) % 2 === 0);
    return ticks;
  }
  const step = 2 ** Math.ceil(Math.log2((high - low) / count));
  return Array.from({ length: Math.floor(high / step) + 1 }, (_, i) => i * step);
}

/** [low, high] of y: all that is shown, except what lies more than `clip` times above the least point, and series that
 * are marked `outside`, such as a limit far above the others. */
function rangeY(spec) {
  if (spec.y.range) return spec.y.range;
  const values = spec.series
    .filter((series) => !series.outside)
    .flatMap((series) => series.points.flatMap((p) => [p.y, p.low, p.high]))
    .filter((v) => Number.isFinite(v) && (spec.y.scale !== "log" || v > 0));
  if (!values.length) return [0.9, 1.1];
  const least = values.reduce((a, b) => Math.min(a, b));
  const usual = Math.min(...spec.series.flatMap((series) => series.points.map((p) => p.y)).filter(Number.isFinite));
  // On a log axis every model has at least its best point inside, so that none is without a curve.
  const best = spec.series
    .map((series) => series.points.map((p) => p.y).filter((v) => Number.isFinite(v) && v > 0))
    .filter((values) => values.length)
    .map((values) => values.reduce((a, b) => Math.min(a, b)));
  const limit = Math.max(usual * spec.y.clip, spec.y.scale === "log" ? 1.5 * Math.max(...best) : 0);
  const most = values.filter((v) => !spec.y.clip || v <= limit).reduce((a, b) => Math.max(a, b));
  if (spec.y.scale === "log") return [least / 1.08, Math.max(most * 1.08, least * 1.2)];
  const room = (most - least || Math.abs(most) * 0.1 || 1) * 0.06;
  return [spec.y.zero ? 0 : least - room, most + room];
}

/** Where a text fits beside others on a few rows; null where it does not. */
function placer(rows, gap = 8) {
  const taken = Array.from({ length: rows }, () => []);
  return (from, to) => {
    const row = taken.findIndex((spans) => spans.every(([a, b]) => to + gap < a || from - gap > b));
    if (row >= 0) taken[row].push([from, to]);
    return row >= 0 ? row : null;
  };
}
const pen = document.createElement("canvas").getContext("2d");
pen.font = `500 12.5px ${getComputedStyle(document.body).fontFamily}`; // as .chart svg in page.css
const textWidth = (text) => pen.measureText(text).width + 1;

function frame(spec, width) {
  const [y0, y1] = rangeY(spec);
  const xs = spec.series.flatMap((series) => series.points.map((p) => p.x));
  let [x0, x1] = spec.x.range ?? [Math.min(...xs), Math.max(...xs)];
  if (!(x1 > x0)) [x0, x1] = spec.x.scale === "log" ? [(x0 || 1) / 2, (x0 || 1) * 2] : [(x0 || 0) - 1, (x0 || 0) + 1];
  const off = spec.series.filter(
    (series) => (spec.y.clip || series.outside) && series.points.some((p) => p.y > y1),
  ).length;
  const strip = off ? 4 + 17 * Math.min(2, off) : 0; // room above the plot for values off the axis
  const height = strip + Math.round(Math.min(400, Math.max(270, width * 0.42)));
  const ticksY = scales[spec.y.scale].ticks(y0, y1, 6);
  const left = Math.max(...ticksY.map((t) => textWidth(spec.y.tick(t)))) + 12;
  const box = {
    left,
    right: width - 14,
    strip,
    top: strip + (spec.marks?.length ? 44 : 28),
    bottom: height - 46,
    width,
    height,
  };
  const [fx, fy] = [scales[spec.x.scale].to, scales[spec.y.scale].to];
  const pad = spec.x.scale === "log" ? 0.03 * (box.right - box.left) : 0;
  const x = (v) => box.left + pad + ((fx(v) - fx(x0)) / (fx(x1) - fx(x0))) * (box.right - box.left - 2 * pad);
  const y = (v) =>
    spec.y.scale === "log" && v <= 0
      ? box.bottom
      : Number.isFinite(v)
        ? Math.max(box.top - 3000, box.bottom - ((fy(v) - fy(y0)) / (fy(y1) - fy(y0))) * (box.bottom - box.top))
        : box.top - 3000;
  const count = Math.max(3, Math.floor((box.right - box.left) / 90));
  const ticksX = (spec.x.ticks ?? scales[spec.x.scale].ticks)(x0, x1, spec.x.ticks ? spec.x.scale : count, count);
  return { box, x, y, ticksX, ticksY };
}

function axes(spec, { box, x, y, ticksX, ticksY }) {
  const place = placer(1, 4);
  return s(
    "g",
    { class: "axes" },
    ticksY.map((t) => [
      s("path", { class: "grid", d: `M${box.left},${y(t)}H${box.right}` }),
      s("text", { x: box.left - 8, y: y(t) + 4, "text-anchor": "end" }, spec.y.tick(t)),
    ]),
    s("path", { class: "base", d: `M${box.left},${box.bottom}H${box.right}` }),
    ticksX.map((t) => {
      const half = textWidth(spec.x.format(t)) / 2,
        at = Math.min(x(t), box.width - half - 1);
      return [
        s("path", { class: "base", d: `M${x(t)},${box.bottom}v5` }),
        place(at - half, at + half) === null
          ? null
          : s("text", { x: at, y: box.bottom + 19, "text-anchor": "middle" }, spec.x.format(t)),
      ];
    }),
    s("text", { class: "title", x: 0, y: 13 }, spec.y.label),
    s("text", { class: "title", x: box.right, y: box.bottom + 39, "text-anchor": "end" }, spec.x.label),
  );
}

function marks(spec, { box, x }) {
  const place = placer(1);
  return s(
    "g",
    { class: "marks" },
    (spec.marks ?? [])
      .filter((m) => x(m.x) <= box.right + 1 && x(m.x) >= box.left)
      .map((m) => {
        const width = textWidth(m.label),
          at = Math.max(width / 2, Math.min(x(m.x), box.width - width / 2));
        const fits = place(at - width / 2, at + width / 2) !== null;
        return [
          s("path", { d: `M${x(m.x)},${box.top - box.strip - 4}V${box.bottom}`, "stroke-dasharray": "3 4" }),
          fits && s("text", { x: at, y: box.top - box.strip - 9, "text-anchor": "middle" }, m.label),
        ];
      }),
  );
}

const pathOf = (points, x, y) =>
  points.map((p, i) => `${i ? "L" : "M"}${x(p.x).toFixed(1)},${y(p.y).toFixed(1)}`).join("");

function lines(spec, { box, x, y }) {
  const clip = `clip-${ids++}`,
    place = placer(2, 4);
  const above = [];
  const drawn = spec.series.map((series) => {
    const points = series.points.filter((p) => !Number.isNaN(p.y));
    const band = points.filter((p) => p.low !== undefined);
    const out = points.filter((p) => (spec.y.clip || series.outside) && y(p.y) < box.top - 0.5);
    above.push(...out.map((p) => ({ p, series })));
    const outline = band.length > 1 && [
      ...band.map((p) => ({ x: p.x, y: p.high })),
      ...band.map((p) => ({ x: p.x, y: p.low })).reverse(),
    ];
    return s(
      "g",
      { class: `series c${series.colour}`, "data-series": series.name },
      s(
        "g",
        { "clip-path": `url(#${clip})` },
        outline && s("path", { class: "band", d: `${pathOf(outline, x, y)}z` }),
        series.area &&
          s("path", {
            class: "band",
            d: `${pathOf(points, x, y)}L${x(points.at(-1).x)},${box.bottom}L${x(points[0].x)},${box.bottom}z`,
          }),
        s("path", {
          class: lineClass(series),
          d: pathOf(points, x, y),
          "stroke-dasharray": series.dash,
        }),
      ),
      out.length > 1 &&
        s("path", {
          class: "line faint",
          d: out.map((p, i) => `${i ? "L" : "M"}${x(p.x)},${box.top - 9}`).join(""),
          "stroke-dasharray": "1 4",
        }),
      series.marker !== undefined &&
        points
          .filter((p) => !out.includes(p))
          .map((p) =>
            s("path", { class: "mark", d: marker(series.marker, 4.2), transform: `translate(${x(p.x)} ${y(p.y)})` }),
          ),
    );
  });
  const arrows = above.map(({ p, series }) => {
    const text = spec.y.format(p.y),
      wide = textWidth(text) + 8,
      left = x(p.x) + wide + 10 > box.right;
    const row = place(left ? x(p.x) - 8 - wide : x(p.x) - 6, left ? x(p.x) + 6 : x(p.x) + 8 + wide);
    return s(
      "g",
      { class: `above c${series.colour}`, transform: `translate(${x(p.x)} ${box.top - 9 - 17 * (row ?? 0)})` },
      s("path", { d: "M0,-7L5.5,3H-5.5z" }),
      row !== null && s("text", { x: left ? -9 : 9, y: 4, "text-anchor": left ? "end" : "start" }, text),
    );
  });
  return [
    s(
      "clipPath",
      { id: clip },
      s("rect", { x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top }),
    ),
    drawn,
    arrows,
  ];
}

/** Text of one place on the x axis: the nearest point of each series, if it is near enough. */
function reading(spec, at, x) {
  const rows = [];
  for (const series of spec.series) {
    let best = null;
    for (const p of series.points) if (!best || Math.abs(p.x - at) < Math.abs(best.x - at)) best = p;
    if (best && Math.abs(x(best.x) - x(at)) <= 6)
      rows.push({ series, point: best, text: spec.y.format(best.y), note: best.note ?? "" });
  }
  return rows;
}

/** A chart in `host`; returns the function that draws it again. */
function chart(host, describe) {
  host.classList.add("chart");
  const tip = h("div", { class: "tip", hidden: true });
  let hide = () => {};
  function draw(width) {
    const spec = describe();
    hide();
    if (!spec.series.some((series) => series.points.length)) {
      host.replaceChildren(
        h("p", { class: "empty" }, spec.empty ?? "Nothing is chosen: switch a series on in the legend."),
      );
      return;
    }
    const view = frame(spec, width),
      { box, x, y } = view;
    const cursor = s("g", { class: "cursor" });
    const svg = s(
      "svg",
      {
        viewBox: `0 0 ${box.width} ${box.height}`,
        width: box.width,
        height: box.height,
        tabindex: 0,
        role: "img",
        "aria-label": `${spec.label}. Arrow keys move through the points.`,
      },
      axes(spec, view),
      marks(spec, view),
      lines(spec, view),
      cursor,
    );
    const places = [...new Set(spec.series.flatMap((series) => series.points.map((p) => p.x)))].sort((a, b) => a - b);
    let index = -1;
    hide = () => {
      tip.hidden = true;
      cursor.replaceChildren();
      index = -1;
    };
    function show(next) {
      index = Math.max(0, Math.min(places.length - 1, next));
      const at = places[index],
        rows = reading(spec, at, x);
      cursor.replaceChildren(
        s("path", { d: `M${x(at)},${box.top}V${box.bottom}` }),
        ...rows.map(({ series, point }) =>
          s("circle", {
            class: `c${series.colour}`,
            cx: x(point.x),
            cy: Math.max(box.top - (box.strip ? 9 : 0), y(point.y)),
            r: 5.5,
          }),
        ),
      );
      tip.replaceChildren(
        h("strong", {}, (spec.x.reading ?? spec.x.format)(at)),
        ...rows.map(({ series, text, note }) =>
          h("div", {}, swatch(series), h("span", {}, series.name), h("b", {}, text), h("small", {}, note)),
        ),
      );
      tip.hidden = false;
      const left = x(at) + 14 + tip.offsetWidth <= box.width ? x(at) + 14 : x(at) - 14 - tip.offsetWidth;
      tip.style.left = `${Math.max(0, Math.min(left, box.width - tip.offsetWidth))}px`;
      tip.style.top = `${box.top + 6}px`;
      return `${(spec.x.reading ?? spec.x.format)(at)}: ${rows.map((r) => `${r.series.name} ${r.text} ${r.note}`.trim()).join("; ")}`;
    }
    const follow = (event) => {
      const at = (event.clientX - svg.getBoundingClientRect().left) * (box.width / svg.getBoundingClientRect().width);
      show(places.reduce((best, p, i) => (Math.abs(x(p) - at) < Math.abs(x(places[best]) - at) ? i : best), 0));
    };
    svg.addEventListener("pointermove", follow);
    svg.addEventListener("pointerdown", follow);
    svg.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hide());
    svg.addEventListener("blur", () => hide());
    svg.addEventListener("keydown", (event) => {
      const next = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: places.length - 1 }[event.key];
      if (event.key === "Escape") hide();
      if (next === undefined) return;
      event.preventDefault();
      say(show(next));
    });
    host.replaceChildren(h("div", { class: "plot" }, svg, tip));
  }
  return onWidth(host, draw);
}
