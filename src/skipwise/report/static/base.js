"use strict";
// Shared by all figures: the data, elements, numbers as text, colours, controls. Text is only ever set as text.

const special = { Infinity: Infinity, "-Infinity": -Infinity, NaN: NaN };
const data = JSON.parse(document.getElementById("data").textContent, (_, value) =>
  typeof value === "string" && Object.hasOwn(special, value) ? special[value] : value,
);

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") {
      for (const [key, text] of Object.entries(value)) element.style.setProperty(key, text);
    } else if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}
const h = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const s = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

// Numbers as text

const formats = new Map(); // making one is slow
function format(value, key, options) {
  if (!formats.has(key)) formats.set(key, new Intl.NumberFormat("en-US", options));
  return formats.get(key).format(value);
}
const number = (value, digits = 0) =>
  format(value, `fixed ${digits}`, { minimumFractionDigits: digits, maximumFractionDigits: digits });
const significant = (value, digits = 3) => format(value, `significant ${digits}`, { maximumSignificantDigits: digits });
const tokens = (count) => {
  if (count === null || count === undefined) return "?";
  for (const [unit, size] of [
    ["M", 2 ** 20],
    ["k", 2 ** 10],
  ])
    if (count && count % size === 0) return `${count / size}${unit}`;
  return number(count);
};
const perplexity = (value) => {
  if (Number.isNaN(value)) return "not a number";
  if (!Number.isFinite(value)) return "∞";
  return value >= 1e6 ? value.toExponential(2) : number(value, value >= 100 ? 0 : value >= 10 ? 1 : 2);
};
const percent = (share) => (Number.isNaN(share) ? "not a number" : `${significant(100 * share)}%`);
const inTokens = (row) => ["k_max", "effective_length", "tokens"].includes(row.metric);
const valueText = (row, value = row.value) =>
  row.metric === "perplexity" ? perplexity(value) : inTokens(row) ? tokens(Math.round(value)) : percent(value);
const intervalText = (row) =>
  row.low === null ? "no interval" : `${valueText(row, row.low).replace("%", "")}–${valueText(row, row.high)}`;
const unitName = (row) => {
  if (row.task === "harness") return "question";
  return row.metric === "perplexity" ? "document" : "prompt";
};
const countText = (row) => `${number(row.n)} ${unitName(row)}${row.n === 1 ? "" : "s"}`;
const large = (value) => (value >= 1e6 ? `${significant(value / 1e6)} M` : number(value));
const duration = (seconds) => {
  if (seconds < 90) return `${significant(seconds, 2)} s`;
  return seconds < 5400 ? `${significant(seconds / 60, 2)} min` : `${significant(seconds / 3600, 2)} h`;
};
const memory = (bytes) => (bytes < 1e9 ? `${significant(bytes / 1e6)} MB` : `${significant(bytes / 1e9)} GB`);
const list = (texts) => (texts.length < 2 ? texts.join("") : `${texts.slice(0, -1).join(", ")} and ${texts.at(-1)}`);

// Colours and markers: one of each a model, the same in every figure. 0 is the original model, 1 + r is run r.

const COLOURS = 7;
const runColour = (run) => 1 + (run % (COLOURS - 1));
let others = data.runs.length;
for (const series of data.series) {
  if (series.run === null || (series.run === "rows" && series.base === null)) series.colour = 0;
  else
    series.colour =
      series.model === "extended" && series.run !== "rows" && !series.name.includes("(earlier")
        ? runColour(series.run)
        : runColour(others++);
  series.on = true;
}
const MARKERS = [
  (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0z`,
  (r) => `M${-r * 0.9},${-r * 0.9}h${r * 1.8}v${r * 1.8}h${-r * 1.8}z`,
  (r) => `M0,${-r * 1.25}L${r * 1.15},${r * 0.8}H${-r * 1.15}z`,
  (r) => `M0,${-r * 1.3}L${r * 1.3},0L0,${r * 1.3}L${-r * 1.3},0z`,
];
const marker = (index, radius) => MARKERS[index % MARKERS.length](radius);

// Controls

let ids = 0;
const say = (text) => {
  document.getElementById("live").textContent = text;
};

/** One choice of several, as native radio buttons: `options` are [value, text]. */
function choice(label, options, chosen, change) {
  const name = `choice-${ids++}`;
  return h(
    "fieldset",
    { class: "choice" },
    h("legend", {}, label),
    options.map(([value, text]) =>
      h(
        "label",
        {},
        h("input", { type: "radio", name, value, checked: value === chosen, onchange: () => change(value) }),
        h("span", {}, text),
      ),
    ),
  );
}

/** One choice of many, as a native menu: `options` are [value, text]. */
function menu(label, options, chosen, change) {
  const id = `menu-${ids++}`;
  return h(
    "div",
    { class: "menu" },
    h("label", { for: id }, label),
    h(
      "select",
      { id, onchange: (event) => change(event.currentTarget.value) },
      options.map(([value, text]) => h("option", { value, selected: value === chosen }, text)),
    ),
  );
}

/** Buttons that show and hide series; `items` have name, colour, on, and how they are drawn. */
function legend(items, change) {
  return h(
    "div",
    { class: "legend", role: "group", "aria-label": "Series shown" },
    items.map((item) =>
      h(
        "button",
        {
          type: "button",
          class: `key c${item.colour}`,
          "aria-pressed": String(item.on),
          onclick: (event) => {
            item.on = !item.on;
            event.currentTarget.setAttribute("aria-pressed", String(item.on));
            change();
          },
        },
        swatch(item),
        item.note ? `${item.name} (${item.note})` : item.name,
      ),
    ),
  );
}

const lineClass = (item) => `line${item.faint ? " faint" : ""}${item.wide ? " wide" : ""}`;

function swatch(item) {
  const mark =
    item.marker === undefined
      ? null
      : s("path", { d: marker(item.marker, 4), transform: "translate(13 6)", class: "mark" });
  return s(
    "svg",
    { class: `swatch c${item.colour}`, width: 26, height: 12, "aria-hidden": "true" },
    s("path", { d: "M1,6H25", class: lineClass(item), "stroke-dasharray": item.dash }),
    mark,
  );
}

/** Panels of which one is seen, with arrow keys between their tabs; `panels` are [title, element]. */
function tabs(label, panels, change = () => {}) {
  const base = `tabs-${ids++}`;
  const buttons = panels.map(([title], i) =>
    h(
      "button",
      {
        type: "button",
        role: "tab",
        id: `${base}-tab-${i}`,
        "aria-controls": `${base}-${i}`,
        onclick: () => show(i),
        onkeydown: (event) => {
          const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
          if (!step) return;
          event.preventDefault();
          const next = (i + step + panels.length) % panels.length;
          show(next);
          buttons[next].focus();
        },
      },
      title,
    ),
  );
  const bodies = panels.map(([title, body], i) =>
    h(
      "div",
      { role: "tabpanel", id: `${base}-${i}`, "aria-labelledby": `${base}-tab-${i}`, "data-title": title },
      body,
    ),
  );
  function show(chosen) {
    buttons.forEach((button, i) => {
      button.setAttribute("aria-selected", String(i === chosen));
      button.tabIndex = i === chosen ? 0 : -1;
      bodies[i].hidden = i !== chosen;
    });
    change(chosen);
  }
  show(0);
  return h("div", { class: "tabs" }, h("div", { role: "tablist", "aria-label": label }, buttons), bodies);
}

/** A section with a heading, one sentence to take away, controls, and a body. */
function section(id, title, text, controls, ...body) {
  return h(
    "section",
    { id, "aria-labelledby": `${id}-title` },
    h("h2", { id: `${id}-title` }, title),
    text && h("p", { class: "lead" }, text),
    controls.length ? h("div", { class: "controls" }, controls) : null,
    body,
  );
}

/** Call `draw(width)` now and whenever the width inside the element changes; returns what draws it again. */
function onWidth(element, draw) {
  let last = 0;
  const check = () => {
    const style = getComputedStyle(element);
    const width = Math.floor(element.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight));
    if (!element.clientWidth || width === last) return;
    last = width;
    draw(Math.max(240, width));
  };
  new ResizeObserver(check).observe(element);
  return () => {
    last = 0;
    check();
  };
}

// Parts of every page

function tile(label, value, ...details) {
  return h(
    "div",
    { class: "tile" },
    h("h2", {}, label),
    typeof value === "string" ? h("p", { class: "value" }, value) : value,
    details.filter(Boolean).map((text) => h("p", { class: "detail" }, text)),
  );
}

function copyButton(text) {
  return h(
    "button",
    {
      type: "button",
      class: "copy",
      onclick: async (event) => {
        const button = event.currentTarget,
          code = button.parentElement.querySelector("code");
        let done = true;
        try {
          await navigator.clipboard.writeText(text);
        } catch {
          getSelection().selectAllChildren(code);
          done = document.execCommand("copy");
        }
        button.textContent = done ? "Copied" : "Selected: press Ctrl+C";
        say(button.textContent);
        setTimeout(() => {
          button.textContent = "Copy";
        }, 2000);
      },
    },
    "Copy",
  );
}

const codeBlock = (text) =>
  h("div", { class: "code" }, h("pre", { tabindex: 0 }, h("code", {}, text)), copyButton(text));

const scrolled = (label, ...children) =>
  h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, children);

// Theme: the system's, until the button is used

function theme() {
  const root = document.documentElement,
    button = document.getElementById("theme");
  const dark = () =>
    root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const label = () => {
    button.textContent = dark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `Use ${dark() ? "light" : "dark"} colours`);
  };
  try {
    root.dataset.theme = localStorage.getItem("skipwise-theme") ?? "";
  } catch {
    /* a browser may forbid storage */
  }
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try {
      localStorage.setItem("skipwise-theme", root.dataset.theme);
    } catch {
      /* as above */
    }
    label();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
  label();
}
