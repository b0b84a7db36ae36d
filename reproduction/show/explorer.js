// @ts-check
// An explorer: figures that redraw from a table of numbers as the reader picks. But for standard deviations no number is
// computed here.
//
// One source for two worlds, behind elements.js. In the book the Sphinx extension wraps both as a classic script (module
// scripts do not load from a disk), and drawPage draws every explorer of the page. In a live notebook they are the module
// of an anywidget, and render draws one explorer. reproduction/show/explorer.py writes what is read here.

/** @typedef {{at: number[], mean: number | null, half: number | null, n: number, paper: number | null,
 *             values: number[], x: number[], names: string[]}} Cell */
/** @typedef {{name: string, options: string[], ordered: boolean, start: number,
 *             looks: [string, string, string][] | null}} Dimension */
/** @typedef {{name: string, mean: number, half: number, at: [number, number][], printed: boolean}} Level */
/** @typedef {{kind: string, dimensions: number[], axis: number, series: number, title: string, x_title: string, caption?: string, counted?: string,
 *             percent: boolean, cells: any[][], levels: Level[], notes: {text: string, at: [number, number][]}[]}} View */
/** @typedef {{dimensions: Dimension[], views: View[], lists: any[][]}} Spec */
/** @typedef {{dimensions: Dimension[], view: View, cells: Cell[], choice: number[], shown: number[], levels: Level[],
 *             width: number, css: (name: string) => string}} Scene */

/** What all explorers of a page share: options by the name of their dimension, and who redraws when one changes.
 * @typedef {{picks: Map<string, string>, hidden: Map<string, Set<string>>, redraw: Set<() => unknown>, address: boolean,
 *            explorers: {element: HTMLElement, dimensions: Dimension[]}[], plotly: Promise<void> | null, links?: boolean}} Page */
const world = /** @type {any} */ (globalThis);
/** @type {Page} */
const page = (world.compatkitPage ??= {
  picks: new Map(),
  hidden: new Map(),
  redraw: new Set(),
  address: false,
  explorers: [],
  plotly: null,
});

const { apart, button, make, slider } = compatkitElements;

const NARROW = 560; // px: below, names stand above their bars and the tick boxes are the legend of the lines
const CONFIG = { displaylogo: false, displayModeBar: false };
/** @type {Record<string, string>} */
const SIGNS = { circle: "●", square: "■", diamond: "◆", "triangle-up": "▲", "triangle-down": "▼", cross: "✚" };
/** @type {Record<string, string>} */
const OPEN = { circle: "○", square: "□", diamond: "◇", "triangle-up": "△", "triangle-down": "▽", cross: "✛" };
const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif';

/** The mark of a method as a letter. @param {string} mark */
const signOf = (mark) => (mark.endsWith("-open") ? OPEN : SIGNS)[mark.replace("-open", "")] ?? "●";

// --- what is shown -------------------------------------------------------------------------------------------------

/** @param {View} view @param {any[][]} lists @returns {Cell[]} */
const cellsOf = (view, lists) =>
  view.cells.map(([at, mean, half, n, paper = null, values, x, names]) => ({
    at,
    mean,
    half,
    n,
    paper,
    values: lists[values] ?? [],
    x: lists[x] ?? [],
    names: lists[names] ?? [],
  }));

/** The dimension of a view whose options can be ticked. @param {View} view */
const ticked = (view) => (view.kind === "bars" ? view.axis : view.kind === "matrix" ? -1 : view.series);

/** The dimensions of a view that need one option. @param {View} view */
const fixed = (view) => view.dimensions.filter((d) => d !== view.axis && d !== view.series);

/** For each dimension the option that is shown, and those on record given the choices before it.
 * @param {Spec} spec @param {Cell[][]} cells */
function resolve(spec, cells) {
  /** @type {number[]} */ const choice = [];
  const onRecord = spec.dimensions.map(({ name, options, start }, d) => {
    /** @type {Set<number>} */ const found = new Set();
    spec.views.forEach((view, v) => {
      if (!fixed(view).includes(d)) return;
      const place = view.dimensions.indexOf(d);
      for (const { at } of cells[v]) {
        if (fixed(view).every((e) => e >= d || at[view.dimensions.indexOf(e)] === choice[e])) found.add(at[place]);
      }
    });
    const picked = options.indexOf(page.picks.get(name) ?? "");
    choice[d] = found.size ? ([picked, start].find((option) => found.has(option)) ?? Math.min(...found)) : picked;
    return found;
  });
  return { choice, onRecord };
}

/** The options of a dimension that are ticked, of those on record; all of them where the reader has hidden all.
 * @param {Dimension} dimension @param {number[]} there */
function tickedOptions({ name, options }, there) {
  const left = there.filter((option) => !page.hidden.get(name)?.has(options[option]));
  return left.length ? left : there;
}

/** @param {[number, number][]} at @param {number[]} choice */
const holds = (at, choice) => at.every(([d, option]) => choice[d] === option);

/** @param {View} view @param {Cell} cell @param {number} d */
const optionOf = (view, cell, d) => cell.at[view.dimensions.indexOf(d)];

/** Write "{data}" of a title out. @param {Spec} spec @param {string} text @param {number[]} choice */
const filled = (spec, text, choice) =>
  text.replace(/\{(.+?)\}/g, (_, name) => {
    const d = spec.dimensions.findIndex((dimension) => dimension.name === name);
    return spec.dimensions[d].options[choice[d]];
  });

// --- state, in the page and in its address -------------------------------------------------------------------------

function changed() {
  if (page.address) {
    const url = new URL(location.href);
    for (const { name } of page.explorers.flatMap(({ dimensions }) => dimensions)) {
      url.searchParams.delete(name);
      url.searchParams.delete(`${name} hidden`);
    }
    for (const [name, option] of page.picks) url.searchParams.set(name, option);
    for (const [name, options] of page.hidden)
      for (const option of options) url.searchParams.append(`${name} hidden`, option);
    history.replaceState(history.state, "", url);
  }
  for (const redraw of page.redraw) redraw();
}

/** @param {string} name @returns {Set<string>} */
function hiddenOf(name) {
  const found = page.hidden.get(name) ?? new Set();
  page.hidden.set(name, found);
  return found;
}

function reset() {
  page.picks.clear();
  page.hidden.clear();
  changed();
}

/** Show one option of a dimension alone in all explorers, and where it is alone all of them.
 * @param {Dimension} dimension @param {number} one */
function alone({ name, options }, one) {
  const known = page.explorers.flatMap(({ dimensions }) => dimensions.filter((dimension) => dimension.name === name));
  const others = known.flatMap((dimension) => dimension.options).filter((option) => option !== options[one]);
  const hidden = hiddenOf(name);
  const all = others.every((option) => hidden.has(option));
  hidden.clear();
  if (!all) for (const option of others) hidden.add(option);
  changed();
}

/** @param {Dimension[]} dimensions @param {URLSearchParams} given */
function read(dimensions, given) {
  for (const { name, options } of dimensions) {
    const option = given.get(name);
    if (option !== null && options.includes(option)) page.picks.set(name, option);
    for (const hidden of given.getAll(`${name} hidden`)) hiddenOf(name).add(hidden);
  }
}

/** Where a link of the prose leads to this page it picks, as its address would, and the explorer after it is shown; in
 * a live notebook it stands as it was written. @param {MouseEvent} event */
function followLink(event) {
  const link = /** @type {Element} */ (event.target).closest("a.compatkit-pick, a[href^='pick:?']");
  if (!(link instanceof HTMLAnchorElement)) return;
  if (link.protocol !== "pick:" && link.pathname !== location.pathname) return;
  event.preventDefault();
  const given = new URL(link.href).searchParams;
  const concerned = page.explorers.filter(
    ({ element, dimensions }) => element.isConnected && dimensions.some(({ name }) => given.has(name)),
  );
  if (!concerned.length) return; // its cell has not run
  for (const { dimensions } of concerned) read(dimensions, given);
  const after = (/** @type {{element: HTMLElement}} */ { element }) =>
    link.compareDocumentPosition(element) & Node.DOCUMENT_POSITION_FOLLOWING;
  const { element } = concerned.find(after) ?? concerned[concerned.length - 1];
  element.focus({ preventScroll: true });
  element.scrollIntoView({ block: "nearest" });
  changed();
}

/** Once a page, though live each explorer loads this module anew. */
const hearLinks = () => (page.links ??= (document.addEventListener("click", followLink), true));

// --- drawing -------------------------------------------------------------------------------------------------------

/** The book's look, from the style sheet of the theme. @param {(name: string) => string} css */
function template(css) {
  const axis = {
    gridcolor: css("--line"),
    linecolor: css("--line"),
    zerolinecolor: css("--line"),
    automargin: true,
    title: { standoff: 10 },
  };
  return {
    layout: {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      xaxis: axis,
      yaxis: axis,
      dragmode: false,
      font: { family: FONT, size: 13, color: css("--ink") },
      showlegend: false,
      hoverlabel: { font: { family: FONT }, bgcolor: css("--card"), bordercolor: css("--line") },
      margin: { l: 56, r: 12, t: 12, b: 44 },
    },
    data: {
      heatmap: [
        {
          colorscale: [
            [0, css("--shade-low")],
            [1, css("--shade-high")],
          ],
        },
      ],
    },
  };
}

/** @param {HTMLElement} element */
const styleOf = (element) => {
  const style = getComputedStyle(element);
  return (/** @type {string} */ name) => style.getPropertyValue(name).trim();
};

/** @param {View} view @param {number} value */
const inUnit = ({ percent }, value) => (percent ? `${value.toFixed(1)} %` : Number(value.toFixed(2)).toFixed(2));

/** @param {View} view @param {Cell} cell */
function spanned(view, { mean, half, n, paper }) {
  if (mean === null) return `paper ${inUnit(view, paper ?? 0)}`;
  const span = half === null ? inUnit(view, mean) : `${inUnit(view, mean).replace(" %", "")} ± ${inUnit(view, half)}`;
  return `${span}, n = ${n}${paper === null ? "" : `; paper ${inUnit(view, paper)}`}`;
}

/** The part of the axis that is taken by what is shown; bars begin at 0. @param {Scene} scene @returns {[number, number]} */
function rangeOf(scene) {
  const { view, levels } = scene;
  const [least, most] = view.percent ? [0, 100] : [view.kind === "ranked" ? -1 : 0, 1];
  const ends = shownCells(scene).flatMap(({ mean, half, paper, values }) => [
    ...(mean === null ? [] : [mean - (half ?? 0), mean + (half ?? 0)]),
    ...(paper === null ? [] : [paper]),
    ...values,
  ]);
  const places = [...ends, ...levels.map(({ mean }) => mean)];
  const low = view.kind === "bars" ? 0 : Math.max(least, Math.min(...places));
  const high = Math.min(most, Math.max(...places));
  const room = Math.max(0.04 * (high - low), 0.01 * most);
  return [view.kind === "bars" ? 0 : low - room, high + room];
}

/** Marks without a line. @param {unknown[]} x @param {unknown[]} y @param {string[]} hovertext @param {object} marker
 * @param {string[]} [meta] the option of each */
const marks = (x, y, hovertext, marker, meta) => ({
  type: "scatter",
  mode: "markers",
  hoverinfo: "text",
  cliponaxis: false,
  x,
  y,
  hovertext,
  marker,
  meta,
});

/** Error bars that end at the axis, and an arrow where they would go on.
 * @param {Cell[]} cells @param {[number, number]} range @param {string} colour @param {number[]} places
 * @param {"x" | "y"} along */
function intervals(cells, [low, high], colour, places, along) {
  const ends = cells.map(({ mean, half }) => [(mean ?? 0) - (half ?? 0), (mean ?? 0) + (half ?? 0)]);
  const error = {
    type: "data",
    symmetric: false,
    color: colour,
    thickness: 1.4,
    width: 4,
    array: cells.map(({ mean }, i) => Math.min(ends[i][1], high) - (mean ?? 0)),
    arrayminus: cells.map(({ mean }, i) => (mean ?? 0) - Math.max(ends[i][0], low)),
  };
  const signs = along === "x" ? ["triangle-left", "triangle-right"] : ["triangle-down", "triangle-up"];
  const cut = ends.flatMap(([from, to], i) => [
    ...(from < low ? [{ at: [low, places[i]], symbol: signs[0] }] : []),
    ...(to > high ? [{ at: [high, places[i]], symbol: signs[1] }] : []),
  ]);
  const tips = cut.map(({ at }) => (along === "x" ? at : [at[1], at[0]]));
  const arrows = marks(
    tips.map(([x]) => x),
    tips.map(([, y]) => y),
    cut.map(() => "the interval goes on"),
    { symbol: cut.map(({ symbol }) => symbol), color: colour, size: 9 },
  );
  return { error, arrows };
}

/** The colour of a level. @param {Scene} scene @param {Level} level */
const colourOf = ({ css }, { printed }) => css(printed ? "--paper" : "--reference");

/** Levels that hold whatever is drawn: a line, and a band for the interval. @param {Scene} scene @param {"x" | "y"} along */
function levelsOf(scene, along) {
  const other = along === "x" ? "y" : "x";
  const shape = (/** @type {Level} */ { mean }, /** @type {number} */ half, /** @type {object} */ look) => ({
    [`${along}0`]: mean - half,
    [`${along}1`]: mean + half,
    [`${other}0`]: 0,
    [`${other}1`]: 1,
    [`${other}ref`]: "paper",
    layer: "below",
    ...look,
  });
  return scene.levels.flatMap((level) => {
    const color = colourOf(scene, level);
    return [
      ...(level.half
        ? [shape(level, level.half, { type: "rect", line: { width: 0 }, fillcolor: color, opacity: 0.2 })]
        : []),
      shape(level, 0, { type: "line", line: { color, dash: "dot", width: 1.6 } }),
    ];
  });
}

/** Text of at most so many letters a line, unless a word is longer. @param {string} text @param {number} letters */
const wrapped = (text, letters) =>
  text
    .split(" ")
    .reduce((lines, word) =>
      lines.slice(lines.lastIndexOf("<br>") + 1).length + word.length > letters
        ? `${lines}<br>${word}`
        : `${lines} ${word}`,
    );

/** A horizontal bar for each option: mean, interval, seeds, the paper's value. @param {Scene} scene */
function bars(scene) {
  const { view, dimensions, cells, shown, css, width } = scene;
  const { looks } = dimensions[view.axis];
  const rows = shown.flatMap((option) => cells.filter((cell) => optionOf(view, cell, view.axis) === option));
  const places = rows.map((_, i) => i);
  const names = rows.map((cell) => nameOf(scene, cell));
  const option = rows.map((cell) => optionOf(view, cell, view.axis));
  const colours = option.map((o) => looks?.[o][0]);
  const open = option.map((o) => looks?.[o][1].endsWith("-open"));
  const metas = option.map(String);
  const narrow = width < NARROW;
  const range = rangeOf(scene);
  const { error, arrows } = intervals(rows, range, css("--ink"), places, "x");
  const seeds = rows.flatMap(({ values }, i) => values.map((value) => ({ value, i })));
  const printed = rows.flatMap(({ paper }, i) => (paper === null ? [] : [{ paper, i }]));
  const annotations = scene.levels.map((level, i) => ({
    text: level.name,
    font: { size: 12, color: colourOf(scene, level) },
    x: level.mean,
    xanchor: level.mean > range[1] / 2 ? "right" : "left", // inwards
    y: 1,
    yref: "paper",
    yanchor: "bottom",
    yshift: 16 * i, // each in a row of its own
    showarrow: false,
  }));
  const labels = narrow
    ? names.map((text, i) => ({
        text,
        x: 0,
        xref: "paper",
        xanchor: "left",
        y: i - 0.24,
        yanchor: "bottom",
        showarrow: false,
        bgcolor: css("--pst-color-background"), // no line goes through a name
      }))
    : [];
  const top = 12 + 16 * annotations.length;
  return {
    data: [
      {
        type: "bar",
        orientation: "h",
        x: rows.map(({ mean }) => mean),
        y: places,
        width: narrow ? 0.44 : 0.62,
        marker: { color: colours, opacity: open.map((o) => (o ? 0.45 : 0.8)), line: { color: colours, width: 1.5 } },
        error_x: error,
        hoverinfo: "text",
        hovertext: rows.map((cell, i) => `${names[i]}: ${spanned(view, cell)}`),
        meta: metas,
        textposition: "none",
      },
      marks(
        seeds.map(({ value }) => value),
        seeds.map(({ i }) => i),
        seeds.map(({ value, i }) => `${names[i]}, one run: ${inUnit(view, value)}`),
        { symbol: "line-ns-open", color: css("--ink"), size: 8, opacity: 0.8 },
        seeds.map(({ i }) => metas[i]),
      ),
      marks(
        printed.map(({ paper }) => paper),
        printed.map(({ i }) => i),
        printed.map(({ paper }) => `paper: ${inUnit(view, paper)}`),
        { symbol: "diamond-open", color: css("--paper"), size: 11, line: { width: 2 } },
        printed.map(({ i }) => metas[i]),
      ),
      arrows,
    ],
    layout: {
      height: rows.length * (narrow ? 44 : 30) + top + 58,
      margin: { t: top, b: 58, l: narrow ? 8 : 20, r: 14 },
      xaxis: { range, title: { text: wrapped(view.x_title, (width - 70) / 9) } },
      yaxis: {
        range: [rows.length - 0.5, narrow ? -0.75 : -0.5],
        tickvals: places,
        ticktext: names,
        zeroline: false,
        ticks: "outside",
        tickcolor: "rgba(0,0,0,0)", // a little room before the axis
        showticklabels: !narrow,
        showgrid: false,
      },
      shapes: levelsOf(scene, "x"),
      annotations: [...annotations, ...labels],
    },
  };
}

/** @param {string} text */
function widthOf(text) {
  const context = document.createElement("canvas").getContext("2d");
  if (!context) return 7 * text.length;
  context.font = `13px ${FONT}`;
  return context.measureText(text).width;
}

/** Labels of places so many pixels apart: broken at "_"; where they would still touch, few are slanted, and many left
 * out evenly.
 * @param {string[]} labels @param {number} step */
function thinned(labels, step) {
  const broken = labels.map((label) => (widthOf(label) + 8 > step ? label.replaceAll("_", "<br>") : label));
  const each = Math.ceil((Math.max(...broken.flatMap((label) => label.split("<br>").map(widthOf))) + 6) / step);
  const slanted = each > 1 && labels.length <= 8;
  const kept = labels.map((_, i) => i).filter((i) => slanted || i % each === 0);
  return { tickvals: kept, ticktext: kept.map((i) => (slanted ? labels : broken)[i]), tickangle: slanted ? -45 : 0 };
}

/** A line for each option of the series, over the options of the axis (curves) or over ranks (ranked).
 * @param {Scene} scene */
function curves(scene) {
  const { view, dimensions, cells, choice, shown, css, width } = scene;
  const ranked = view.kind === "ranked";
  const { options: names, looks } = dimensions[view.series];
  const places = ranked
    ? []
    : dimensions[view.axis].options
        .map((_, i) => i)
        .filter((option) => cells.some((cell) => optionOf(view, cell, view.axis) === option));
  const range = rangeOf(scene);
  const lines = shown.map((option, i) => {
    const own = cells
      .filter((cell) => optionOf(view, cell, view.series) === option)
      .sort((one, other) => optionOf(view, one, view.axis) - optionOf(view, other, view.axis));
    const [colour, symbol, dash] = looks?.[option] ?? [css("--ink"), "circle", "solid"];
    const dodge = (i - (shown.length - 1) / 2) * Math.min(0.06, 0.4 / shown.length);
    const x = ranked
      ? own[0].values.map((_, k) => k + 1)
      : own.map((cell) => places.indexOf(optionOf(view, cell, view.axis)) + dodge);
    const y = ranked ? own[0].values : own.map(({ mean, paper }) => mean ?? paper);
    const name = `${names[option]}${ranked ? `: mean ${inUnit(view, own[0].mean ?? 0)}` : ""}`;
    return {
      name,
      option: String(option),
      own,
      x,
      y,
      colour,
      symbol,
      dash,
      ...intervals(ranked ? [] : own, range, colour, x, "y"),
    };
  });
  const height = 440;
  const margin = { t: 16, b: 72, l: 56, r: 14 };
  const labelled = width >= NARROW;
  const named = [
    ...lines.map(({ name, option, colour, symbol, y }) => ({
      text: `${signOf(symbol)} ${name}`,
      name: option,
      font: { color: colour },
      y: y[y.length - 1] ?? 0,
    })),
    ...scene.levels.map((level) => ({
      text: `⋯ ${level.name}: ${inUnit(view, level.mean)}`,
      font: { size: 12, color: colourOf(scene, level) },
      y: level.mean,
    })),
  ];
  if (labelled) margin.r = 14 + Math.max(...named.map(({ text }) => widthOf(text)));
  const pixels = (range[1] - range[0]) / (height - margin.t - margin.b);
  const wanted = named.map(({ y }) => y);
  const ends = apart(wanted, 15 * pixels, ...range);
  // A name stands at the end of its line, or as near as others leave room.
  const [left, right] = ranked ? [1, Math.max(...lines.map(({ x }) => x.length))] : [-0.4, places.length - 0.6];
  const place = { x: 1, xref: "paper", xshift: 6, xanchor: "left", showarrow: false, captureevents: true };
  const labels = named.map((label, i) => ({ ...label, ...place, y: ends[i] }));
  const pin = {
    type: "line",
    yref: "paper",
    y0: 0,
    y1: 1,
    line: { color: css("--soft"), width: 1.5, dash: "dash" },
    name: "here",
  };
  const here = places.indexOf(choice[view.axis]);
  const ticks = places.map((option) => dimensions[view.axis].options[option]);
  return {
    data: lines.flatMap(({ name, option, own, x, y, colour, symbol, dash, error, arrows }) => [
      {
        type: "scatter",
        mode: ranked ? "lines" : "lines+markers",
        x,
        y,
        name,
        meta: option,
        line: { color: colour, dash, shape: ranked ? "hvh" : "linear" },
        marker: { color: colour, symbol, size: 8 },
        error_y: { ...error, thickness: 1 },
        fill: ranked ? "tozeroy" : "none",
        hoverinfo: "text",
        hovertext: ranked
          ? y.map((value, k) => `${name}; channel ${k + 1}: ${inUnit(view, value ?? 0)}`)
          : own.map((cell) => `${nameOf(scene, cell)}: ${spanned(view, cell)}`),
      },
      arrows,
    ]),
    layout: {
      height,
      margin,
      xaxis: {
        title: { text: wrapped(view.x_title, (width - 70) / 9) },
        range: [left, right],
        zeroline: ranked,
        ...(ranked ? {} : thinned(ticks, (width - margin.l - margin.r) / places.length)),
      },
      yaxis: { range, title: { text: view.title } },
      shapes: [...levelsOf(scene, "y"), ...(here >= 0 ? [{ ...pin, x0: here, x1: here }] : [])],
      annotations: labelled ? labels : [], // the caption names levels there
    },
  };
}

/** A matrix of many fields shows means alone. @param {Scene} scene */
const isLarge = ({ view, cells }) =>
  view.kind === "matrix" && new Set(cells.map((cell) => optionOf(view, cell, view.series))).size > 4;

/** Rows (the series) by columns (the axis), numbers in the fields; large ones count from the bottom, as layers do.
 * @param {Scene} scene */
function matrix(scene) {
  const { view, dimensions, cells, width } = scene;
  const used = [view.series, view.axis].map((d) =>
    dimensions[d].options.map((_, i) => i).filter((option) => cells.some((cell) => optionOf(view, cell, d) === option)),
  );
  const [rows, columns] = used;
  const large = isLarge(scene);
  const grid = rows.map((row) =>
    columns.map((column) =>
      cells.find((cell) => optionOf(view, cell, view.series) === row && optionOf(view, cell, view.axis) === column),
    ),
  );
  const written = (/** @type {Cell | undefined} */ cell) => {
    if (!cell) return "";
    const mean = inUnit(view, cell.mean ?? 0);
    return large || cell.half === null ? mean : `${mean}<br>± ${inUnit(view, cell.half)}`;
  };
  const narrow = width < NARROW;
  const letters = narrow ? 9 : 24;
  return {
    data: [
      {
        type: "heatmap",
        z: grid.map((row) => row.map((cell) => cell?.mean)),
        text: grid.map((row) => row.map(written)),
        x: columns.map((_, i) => i),
        y: rows.map((_, i) => i),
        texttemplate: "%{text}",
        textfont: { size: (large ? 12 : 15) - (narrow ? 4 : 0) },
        hoverinfo: "text",
        hovertext: grid.map((row) => row.map((cell) => (cell ? `${nameOf(scene, cell)}: ${spanned(view, cell)}` : ""))),
        zmin: 0,
        zmax: view.percent ? 100 : 1,
        showscale: false,
        xgap: 3,
        ygap: 3,
      },
    ],
    layout: {
      height: large ? 110 + 34 * rows.length : 110 + 80 * rows.length,
      margin: { t: large ? 12 : 60, b: large ? 70 : 12, l: 70, r: 12 },
      xaxis: {
        side: large ? "bottom" : "top",
        tickangle: large && narrow ? -90 : 0,
        tickfont: { size: narrow ? 11 : 13 },
        title: { text: view.x_title },
        showgrid: false,
        zeroline: false,
        tickvals: columns.map((_, i) => i),
        ticktext: columns.map((o) => wrapped(dimensions[view.axis].options[o], letters)),
      },
      yaxis: {
        range: large ? [-0.5, rows.length - 0.5] : [rows.length - 0.5, -0.5],
        title: { text: view.title },
        showgrid: false,
        zeroline: false,
        tickvals: rows.map((_, i) => i),
        ticktext: rows.map((o) => wrapped(dimensions[view.series].options[o], letters)),
      },
    },
  };
}

/** Points by series: each run at its two numbers (scatter), or means against a cost on a logarithmic axis (costs), where
 * what costs nothing stands at the left edge. @param {Scene} scene */
function scatter(scene) {
  const { view, dimensions, cells, shown, css, width } = scene;
  const { options: names, looks } = dimensions[view.series];
  const costs = view.kind === "costs";
  const left = costs ? Math.min(...cells.map(({ x }) => x[0]).filter((cost) => cost > 0)) / 10 : 0;
  const range = rangeOf(scene);
  const groups = shown.flatMap((option) =>
    cells
      .filter((cell) => optionOf(view, cell, view.series) === option)
      .map((cell) => ({
        cell,
        option: String(option),
        name: names[option],
        look: looks?.[option] ?? [css("--ink"), "circle"],
      })),
  );
  return {
    data: groups.flatMap(({ cell, option, name, look: [color, symbol] }) => {
      const x = costs ? [cell.x[0] || left] : [...cell.x];
      const { error, arrows } = intervals(costs ? [cell] : [], range, color, x, "y");
      const said = costs
        ? [`${name}: ${Number(cell.x[0].toPrecision(3))}, ${spanned(view, cell)}`]
        : cell.values.map((v, i) => `${name}, ${cell.names[i] ?? ""}: ${cell.x[i].toFixed(2)}, ${inUnit(view, v)}`);
      const marker = { color, symbol, size: costs ? 11 : 8, opacity: costs ? 1 : 0.8 };
      return [
        { ...marks(x, costs ? [cell.mean] : cell.values, said, marker), name, meta: option, error_y: error },
        arrows,
      ];
    }),
    layout: {
      height: 460,
      margin: { t: 12, b: 64, l: 56, r: 14 },
      xaxis: {
        title: { text: wrapped(view.x_title, (width - 70) / 9) },
        ...(costs ? { type: "log", exponentformat: "power", dtick: width < NARROW ? 2 : 1 } : {}),
      },
      yaxis: { range, title: { text: view.title } },
    },
  };
}

/** @type {Record<string, (scene: Scene) => {data: any[], layout: any}>} */
const KINDS = { bars, curves, ranked: curves, matrix, scatter, costs: scatter };

/** Let one option stand out, or none. @param {any} plot @param {string | null} option */
function lift(plot, option) {
  const strength = (/** @type {string | undefined} */ other) =>
    option === null || other === undefined || other === option ? "" : "0.15";
  const lines = plot.data.filter((/** @type {any} */ { type }) => type === "scatter");
  const fade = (/** @type {string} */ parts, /** @type {(i: number) => string | undefined} */ of) =>
    plot.querySelectorAll(parts).forEach((/** @type {HTMLElement} */ { style }, /** @type {number} */ i) => {
      style.opacity = strength(of(i));
    });
  fade(".scatterlayer > .trace", (i) => (Array.isArray(lines[i]?.meta) ? undefined : lines[i]?.meta));
  fade(".barlayer .point", (i) => plot.data[0].meta?.[i]);
  fade(".annotation", (i) => plot.layout.annotations[i]?.name);
}

/** A figure as a file, with its caption and a ground of its own. @param {any} plot @param {string} caption */
async function save(plot, caption) {
  const css = styleOf(plot);
  const lines = wrapped(caption, plot.clientWidth / 6.5);
  const { margin, height, annotations = [], ...layout } = plot.layout;
  const more = 14 + 17 * lines.split("<br>").length;
  const below = { text: lines, align: "left", showarrow: false, font: { size: 12, color: css("--soft") } };
  const place = { x: 0, xref: "paper", xanchor: "left", y: 0, yref: "paper", yanchor: "top", yshift: 8 - margin.b };
  const whole = {
    ...layout,
    height: height + more,
    margin: { ...margin, b: margin.b + more },
    annotations: [...annotations, { ...below, ...place }],
    paper_bgcolor: css("--card"),
  };
  const size = { format: "png", scale: 2, width: plot.clientWidth, height: height + more };
  const href = await world.Plotly.toImage({ data: plot.data, layout: whole }, size);
  make("a", { href, download: "figure.png" }).click();
}

/** Call when the width or the theme changes; the first call is at once. @param {HTMLElement} element @param {() => void} draw */
function follow(element, draw) {
  let width = -1;
  const resized = () => {
    if (!element.isConnected || !element.clientWidth || element.clientWidth === width) return;
    width = element.clientWidth;
    draw();
  };
  resized();
  new ResizeObserver(() => requestAnimationFrame(resized)).observe(element);
  const theme = new MutationObserver(() => element.isConnected && element.clientWidth && draw());
  theme.observe(document.documentElement, { attributeFilter: ["data-theme"] });
  theme.observe(document.body, { attributeFilter: ["data-jp-theme-light"] });
}

// --- words ---------------------------------------------------------------------------------------------------------

/** @param {Scene} scene @param {Cell} cell */
const nameOf = ({ view, dimensions }, cell) =>
  [...new Set([view.series, view.axis])]
    .filter((d) => d >= 0)
    .map((d) => dimensions[d].options[optionOf(view, cell, d)])
    .join(", ");

/** @param {Scene} scene @returns {Cell[]} */
const shownCells = ({ view, cells, shown }) =>
  ticked(view) < 0
    ? [...cells]
    : shown.flatMap((option) => cells.filter((cell) => optionOf(view, cell, ticked(view)) === option));

/** What a view shows, in words: its caption and its numbers. @param {Scene} scene */
function sentence(scene) {
  const { view } = scene;
  const short = (/** @type {Cell} */ { mean, paper }) =>
    view.percent ? `${Math.round(mean ?? paper ?? 0)} %` : inUnit(view, mean ?? paper ?? 0);
  const cells = shownCells(scene);
  if (cells.length > 12) cells.sort((one, other) => (one.mean ?? 0) - (other.mean ?? 0));
  const said = (/** @type {Cell} */ cell) => `${nameOf(scene, cell)} ${short(cell)}`;
  const found = cells.length > 12 ? [`from ${said(cells[0])} to ${said(cells[cells.length - 1])}`] : cells.map(said);
  return `${captionOf(scene)} ${found.join("; ")}.`;
}

/** What a view shows, of which runs, and what its marks are: a figure stands alone. @param {Scene} scene */
function captionOf(scene) {
  const { view, dimensions, choice, levels, width } = scene;
  const { kind, axis, series, caption, title, x_title } = view;
  const by = dimensions[series < 0 ? axis : series].name;
  const [rows, columns] = [title, x_title].map((text) => text.replace(/, %$/, ""));
  const what = { bars: `${columns} by ${by}`, matrix: `rows: ${rows}, columns: ${columns}` }[kind];
  const text = caption || what || `${rows} over ${columns}, by ${by}`;
  const chosen = fixed(view)
    .filter((d) => dimensions[d].options.length > 1 || dimensions[d].name === "data")
    .filter((d) => !text.includes(dimensions[d].options[choice[d]]))
    .map((d) => `${dimensions[d].name}: ${dimensions[d].options[choice[d]]}`);
  const cells = shownCells(scene);
  const counts = cells.map(({ n }) => n).filter(Boolean);
  const n = [...new Set([Math.min(...counts), Math.max(...counts)])].join(" to ");
  const spans = !isLarge(scene) && cells.some(({ half }) => half !== null) ? ", 95 % intervals" : "";
  const printed = kind === "bars" && cells.some(({ paper }) => paper !== null) ? " ◇ the paper, on its images." : "";
  const runs = n === "1" ? " One run." : ` Means of n = ${n} ${view.counted ?? "runs"}${spans}.`;
  const means = kind === "ranked" ? "" : kind === "scatter" ? " A mark is a run." : runs;
  const strokes = kind === "bars" ? " A stroke is a run." : "";
  const unnamed = (kind === "curves" || kind === "ranked") && width < NARROW ? levels : [];
  const dotted = unnamed.length
    ? ` ⋯ ${unnamed.map(({ name, mean }) => `${name}: ${inUnit(view, mean)}`).join("; ")}.`
    : "";
  const whole = [text, ...chosen].join("; ");
  return `${whole.replace(/^[a-z](?![A-Z])/, (letter) => letter.toUpperCase())}.${counts.length ? means + strokes : ""}${printed}${dotted}`;
}

/** The standard deviation of a sample. @param {number[]} values */
function deviation(values) {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return values.length > 1 ? Math.sqrt(squares / (values.length - 1)) : null;
}

/** @param {Scene} scene */
function table(scene) {
  const { view } = scene;
  const rows = shownCells(scene);
  const unit = view.percent ? ", %" : "";
  const number = (/** @type {number | null} */ value) => (value === null ? "–" : inUnit(view, value).replace(" %", ""));
  const points = view.kind === "scatter";
  const last = { bars: ["standard deviation of runs"], costs: [view.x_title] }[view.kind] ?? [];
  const ours = ["", `ours${unit}`, "± 95 %", "n", `paper${unit}`, ...last];
  const head = points ? ["", view.x_title, view.title] : ours;
  const body = points
    ? rows.flatMap((cell) =>
        cell.values.map((value, i) => [
          `${nameOf(scene, cell)}, ${cell.names[i] ?? ""}`,
          cell.x[i].toFixed(2),
          number(value),
        ]),
      )
    : rows.map((cell) => [
        nameOf(scene, cell),
        number(cell.mean),
        number(cell.half),
        cell.n ? String(cell.n) : "–",
        number(cell.paper),
        ...(view.kind === "costs" ? [String(Number(cell.x[0].toPrecision(3)))] : []),
        ...(view.kind === "bars" ? [number(deviation(cell.values))] : []),
      ]);
  const line = (/** @type {string[]} */ [first, ...texts], /** @type {"td" | "th"} */ tag) =>
    make("tr", {}, [make("th", {}, [first]), ...texts.map((text) => make(tag, {}, [text]))]);
  return make("table", {}, [
    make("thead", {}, [line(head, "th")]),
    make(
      "tbody",
      {},
      body.map((texts) => line(texts, "td")),
    ),
  ]);
}

// --- controls ------------------------------------------------------------------------------------------------------

/** One option of a dimension. @param {Dimension} dimension
 * @returns {{element: HTMLElement, update: (choice: number, onRecord: Set<number>) => void}} */
function control({ name, options, ordered }) {
  const pick = (/** @type {number} */ option) => {
    page.picks.set(name, options[option]);
    changed();
  };
  if (ordered) {
    /** @type {number[]} */ let there = [];
    const range = slider(name, 0, 0, (place) => pick(there[place]));
    const readout = make("output");
    return {
      element: make("label", { class: "slider" }, [make("span", { class: "name" }, [name]), range, readout]),
      update(choice, onRecord) {
        there = [...onRecord].sort((one, other) => one - other);
        range.max = String(there.length - 1);
        range.value = String(there.indexOf(choice));
        range.setAttribute("aria-valuetext", options[choice]);
        readout.textContent = options[choice];
      },
    };
  }
  if (options.join("").length > 56) {
    const entries = options.map((option, i) => make("option", { value: String(i) }, [option]));
    const select = make("select", {}, entries);
    select.addEventListener("change", () => pick(Number(select.value)));
    return {
      element: make("label", {}, [make("span", { class: "name" }, [name]), select]),
      update(choice, onRecord) {
        entries.forEach((entry, i) => (entry.disabled = !onRecord.has(i)));
        select.value = String(choice);
      },
    };
  }
  const group = `compatkit-${Math.random()}`; // live, each explorer loads this module anew
  const radios = options.map((_, i) => make("input", { type: "radio", name: group, value: String(i) }));
  radios.forEach((radio, i) => radio.addEventListener("change", () => pick(i)));
  const labels = radios.map((radio, i) => make("label", { class: "option" }, [radio, options[i]]));
  return {
    element: make("fieldset", {}, [make("legend", { class: "name" }, [name]), ...labels]),
    update(choice, onRecord) {
      radios.forEach((radio, i) => {
        radio.disabled = !onRecord.has(i);
        radio.checked = i === choice;
      });
    },
  };
}

/** Any options of a dimension; its marks make it the legend. The last tick stays.
 * @param {Dimension} dimension @param {(option: string | null) => void} stand @returns {{element: HTMLElement, update: (shown: number[], there: Set<number>) => void}} */
function ticks(dimension, stand) {
  const { name, options, looks } = dimension;
  const boxes = options.map(() => make("input", { type: "checkbox" }));
  const labels = boxes.map((box, i) =>
    make("label", { class: "option" }, [
      box,
      ...(looks ? [make("span", { style: `color:${looks[i][0]}`, "aria-hidden": "true" }, [signOf(looks[i][1])])] : []),
      options[i],
    ]),
  );
  boxes.forEach((box, i) =>
    box.addEventListener("change", () => {
      if (box.checked) hiddenOf(name).delete(options[i]);
      else if (boxes.some((other) => other.checked)) hiddenOf(name).add(options[i]);
      changed();
    }),
  );
  labels.forEach((label, i) => {
    for (const event of ["pointerenter", "focusin"]) label.addEventListener(event, () => stand(String(i)));
    for (const event of ["pointerleave", "focusout"]) label.addEventListener(event, () => stand(null));
    label.addEventListener("dblclick", () => alone(dimension, i));
    label.addEventListener("keydown", ({ key }) => key === "Enter" && alone(dimension, i));
  });
  return {
    element: make("fieldset", { class: "ticks", title: "double click, or Enter: alone" }, [
      make("legend", { class: "name" }, ["show"]),
      ...labels,
    ]),
    update(shown, there) {
      boxes.forEach((box, i) => {
        box.checked = shown.includes(i);
        labels[i].hidden = !there.has(i);
      });
    },
  };
}

// --- one explorer --------------------------------------------------------------------------------------------------

/** Returns what to call when it is taken off the page. @param {HTMLElement} element @param {Spec} spec */
function explore(element, spec) {
  const cells = spec.views.map((view) => cellsOf(view, spec.lists));
  /** @type {Map<number, ReturnType<typeof control>>} */ const controls = new Map();
  /** @type {Map<number, ReturnType<typeof ticks>>} */ const tickers = new Map();
  if (page.address) read(spec.dimensions, new URLSearchParams(location.search));
  page.explorers.push({ element, dimensions: spec.dimensions });
  element.classList.add("compatkit-explorer");
  element.tabIndex = -1; // a link leads here
  /** @type {Scene[]} */ let scenes = [];
  const parts = spec.views.map((view, v) => {
    const bar = make("div", { class: "controls" });
    for (const d of fixed(view).filter((each) => !controls.has(each))) {
      const made = control(spec.dimensions[d]);
      controls.set(d, made);
      bar.append(made.element);
    }
    const d = ticked(view);
    if (d >= 0 && !tickers.has(d)) {
      const made = ticks(spec.dimensions[d], (option) =>
        spec.views.forEach((other, w) => ticked(other) === d && lift(parts[w].plot, option)),
      );
      tickers.set(d, made);
      bar.append(made.element);
    }
    const [plot, note] = [make("div", { class: "compatkit-figure", role: "img" }), make("p", { class: "note" })];
    /** @type {string | null} */ let lifted = null; // what is under the pointer,
    /** @type {string | null} */ let pressed = null; // and was when the first of two clicks began
    const stand = (/** @type {string | null} */ option) => lift(plot, (lifted = option));
    const named = (/** @type {Event} */ { target }) => {
      const text = /** @type {Element} */ (target).closest(".annotation");
      return text && /** @type {any} */ (plot).layout.annotations[text.getAttribute("data-index") ?? ""]?.name;
    };
    const hear = () => {
      const heard = /** @type {any} */ (plot);
      heard.on("plotly_hover", (/** @type {any} */ { points: [{ data, pointIndex }] }) => {
        stand(Array.isArray(data.meta) ? data.meta[pointIndex] : (data.meta ?? null));
      });
      heard.on("plotly_unhover", () => stand(null));
    };
    plot.addEventListener("mouseover", (event) => named(event) && stand(named(event)));
    plot.addEventListener("mouseout", (event) => named(event) && stand(null));
    plot.addEventListener("mousedown", ({ detail }) => (pressed = detail === 1 ? lifted : pressed), true);
    plot.addEventListener("dblclick", () => pressed !== null && alone(spec.dimensions[d], Number(pressed)));
    const text = make("span");
    const png = button("PNG", "", () => {
      const chapter = styleOf(plot)("--chapter").replaceAll('"', "");
      save(plot, `Figure ${chapter}${figure.id.slice(7)}. ${text.textContent}`);
    });
    const link = make("a", {}, ["link"]);
    const caption = make("figcaption", {}, [text, " ", png, " ", link]);
    const figure = make("figure", {}, [plot, note, caption]);
    return { bar, figure, plot, note, text, link, caption, hear };
  });
  const again = button("Reset", "", reset);
  const picked = make("p", { class: "note" }, ["What is picked holds for all figures of this page. ", again]);
  const live = make("p", { class: "live" });
  const tables = make("div", { class: "tables" });
  const details = make("details", {}, [make("summary", {}, ["the numbers"]), tables]);
  element.replaceChildren(...parts.flatMap(({ bar, figure }) => [bar, figure]), live, picked, details);
  const captions = [...document.querySelectorAll("figcaption")];
  for (const { figure, caption } of parts) figure.id = `figure-${captions.indexOf(caption) + 1}`;

  const tabulate = () => details.open && tables.replaceChildren(...scenes.map(table));
  details.addEventListener("toggle", tabulate);

  function draw() {
    const { choice, onRecord } = resolve(spec, cells);
    controls.forEach((each, d) => {
      each.update(choice[d], onRecord[d]);
      each.element.hidden = onRecord[d].size < 2;
    });
    const css = styleOf(element);
    scenes = spec.views.map((view, v) => {
      const own = cells[v].filter((cell) => fixed(view).every((d) => optionOf(view, cell, d) === choice[d]));
      const d = ticked(view);
      const there = [...new Set(own.map((cell) => optionOf(view, cell, d)))].sort((one, other) => one - other);
      const shown = d < 0 ? [] : tickedOptions(spec.dimensions[d], there);
      return {
        dimensions: spec.dimensions,
        cells: own,
        choice,
        shown,
        css,
        width: parts[v].plot.clientWidth,
        levels: view.levels.filter(({ at }) => holds(at, choice)),
        view: {
          ...view,
          title: filled(spec, view.title, choice),
          x_title: filled(spec, view.x_title, choice),
          caption: filled(spec, view.caption ?? "", choice),
        },
      };
    });
    tickers.forEach((each, d) => {
      const own = scenes.filter(({ view }) => ticked(view) === d);
      const there = new Set(own.flatMap(({ view, cells: mine }) => mine.map((cell) => optionOf(view, cell, d))));
      const shown = own.flatMap((scene) => scene.shown);
      each.update(shown, there);
      each.element.hidden = there.size < 2;
    });
    scenes.forEach((scene, v) => {
      const { figure, plot, note, bar, text, link, hear } = parts[v];
      const { data, layout } = KINDS[scene.view.kind](scene);
      plot.style.height = `${layout.height}px`;
      plot.setAttribute("aria-label", sentence(scene));
      bar.hidden = [...bar.children].every((child) => /** @type {HTMLElement} */ (child).hidden);
      note.textContent = scene.view.notes
        .filter(({ at }) => holds(at, choice))
        .map(({ text }) => text)
        .join(" ");
      note.hidden = !note.textContent;
      text.textContent = captionOf(scene);
      link.href = `${location.search}#${figure.id}`;
      const first = !plot.childElementCount;
      const drawn = data.filter(({ x }) => x.length); // what is empty has no place among the lines
      const size = { width: plot.clientWidth, autosize: false };
      world.Plotly.react(plot, drawn, { ...layout, ...size, template: template(css) }, CONFIG);
      if (first) hear();
      lift(plot, null); // bars are drawn with what stood there before
    });
    picked.hidden = !page.picks.size && [...page.hidden.values()].every(({ size }) => !size);
    live.setAttribute("aria-live", element.contains(document.activeElement) ? "polite" : "off"); // not all at once
    live.textContent = scenes.map(sentence).join(" ");
    tabulate();
  }

  const redraw = () => element.clientWidth && draw();
  page.redraw.add(redraw);
  follow(element, draw);
  return () => page.redraw.delete(redraw);
}

/** The book: every explorer of the page, each from the JSON within it. */
function drawPage() {
  page.address = true;
  hearLinks();
  for (const script of document.querySelectorAll(".compatkit-explorer > script[type='application/json']"))
    explore(/** @type {HTMLElement} */ (script.parentElement), JSON.parse(script.textContent ?? ""));
  document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

/** A live notebook. Where the page has no plotly.js, the kernel sends that of the installed package, once.
 * @param {{model: any, el: HTMLElement}} widget */
async function render({ model, el }) {
  if (!world.Plotly) {
    page.plotly ??= new Promise((resolve) => {
      model.on("msg:custom", (/** @type {{plotly: string}} */ { plotly }) => {
        document.head.append(make("script", {}, [plotly]));
        resolve();
      });
      model.send("plotly");
    });
    await page.plotly;
  }
  const element = make("div");
  el.append(element);
  hearLinks();
  return explore(element, JSON.parse(model.get("spec")));
}

export default { render, drawPage };
