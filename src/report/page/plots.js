"use strict";
// Plots: where they stand, when they are drawn, what they have in common.

const kPlots = [];  // {box, height, describe}
let plotly = null;  // once it is unpacked

// Puts a plot's place into `parent`. `describe(theme, width)` returns {traces, layout, height?} and is asked again when
// the width or the colours change. Returns what draws it anew, for controls.
function addPlot(parent, {id, height, label, describe}) {
  const box = element("div", {class: "plot", id, role: "img", "aria-label": label, style: `min-height:${height}px`},
    element("div", {class: "waiting"}, "drawing …"));
  parent.append(box);
  const plot = {box, height, describe};
  kPlots.push(plot);
  return () => { if (plotly) draw(plot); };
}

function addFigure(parent, caption, fill) {
  const figure = element("figure");
  parent.append(figure);
  attempt(figure, () => fill(figure));
  if (caption) figure.append(element("figcaption", {}, caption));
}

// Side by side where there is room; each with a title.
function addPanels(parent, titles) {
  const panels = titles.map((title) => element("div", {}, title ? element("h4", {}, title) : null));
  parent.append(element("div", {class: `panels${titles.length > 1 ? " two" : ""}`}, panels));
  return panels;
}

function draw(plot) {
  const theme = currentTheme();
  const width = Math.max(240, Math.floor(plot.box.clientWidth));
  attempt(plot.box, () => {
    plot.box.querySelector(".waiting")?.remove();
    const {traces, layout, height} = plot.describe(theme, width);
    plotly.react(plot.box, traces, {...commonLayout(theme), ...layout, width, height: height || plot.height}, kPlotConfig);
  });
}

const kPlotConfig = {displayModeBar: false, displaylogo: false, showTips: false, doubleClick: "reset"};

function commonLayout(theme) {
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: {family: kFont, size: 12.5, color: theme.ink},
    hoverlabel: {
      bgcolor: theme.paper,
      bordercolor: theme.soft,
      font: {family: kFont, size: 12.5, color: theme.ink},
      align: "left",
    },
    hovermode: "closest",
    dragmode: false,
    margin: {l: 54, r: 12, t: 12, b: 44},
    showlegend: false,
    legend: {orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: {size: 12.5}},
    transition: {duration: 0},
  };
}

function axis(theme, title, extra = {}) {
  return {
    title: {text: title, font: {size: 12.5, color: theme.soft}, standoff: 8},
    gridcolor: theme.grid,
    linecolor: theme.soft,
    tickfont: {color: theme.soft},
    ticks: "",
    zeroline: false,
    fixedrange: true,
    automargin: true,
    ...extra,
  };
}

// Values that lie closer, in decades, would find one tick among them: even steps tell more.
const kLeastLogRange = 0.5;

// Powers of ten and, where there are few of them, 2 and 5 times those.
function logAxis(theme, title, values, extra = {}) {
  const positive = values.filter((value) => isNumber(value) && value > 0);
  if (!positive.length) return axis(theme, title, extra);
  const low = Math.log10(Math.min(...positive));
  const high = Math.log10(Math.max(...positive));
  if (high - low < kLeastLogRange) return axis(theme, title, extra);
  const space = Math.max(0.08, (high - low) * 0.07);
  const steps = high - low > 3 ? [1] : high - low > 1.6 ? [1, 3] : [1, 2, 5];
  const ticks = [];
  for (let exponent = Math.floor(low - space); exponent <= high + space; ++exponent) {
    for (const step of steps) {
      if (Math.abs(Math.log10(step) + exponent - (low + high) / 2) <= (high - low) / 2 + space) ticks.push([step, exponent]);
    }
  }
  return axis(theme, title, {
    type: "log",
    range: [low - space, high + space],
    tickmode: "array",
    tickvals: ticks.map(([step, exponent]) => step * 10 ** exponent),
    ticktext: ticks.map(([step, exponent]) => tickText(step, exponent)),
    ...extra,
  });
}

function tickText(step, exponent) {
  if (exponent >= -4 && exponent <= 3) return String(Number((step * 10 ** exponent).toPrecision(1)));
  return step === 1 ? powerOfTen(exponent) : `${step}×${powerOfTen(exponent)}`;
}

// plotly reads a few HTML tags in its texts; ours are plain.
function plain(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

// Long text in hover labels, in lines.
function folded(text, width = 56) {
  const lines = [];
  for (let rest = String(text); rest; rest = rest.slice(width)) lines.push(plain(rest.slice(0, width)));
  return lines.join("<br>");
}

// A heat map; values[row][column], null where there is none. `hover(row, column)` is HTML for plotly. Colours follow the
// logarithm where values span a decade or more.
function heatMap(theme, width, {columns, rows, values, hover, title = "", scaleTitle = ""}) {
  const positive = values.flat().filter((value) => isNumber(value) && value > 0);
  const log = Math.max(...positive) >= 10 * Math.min(...positive);
  const scale = (value) => {
    if (!isNumber(value) || (log && value <= 0)) return null;
    return log ? Math.log10(value) : value;
  };
  const scaled = values.map((row) => row.map(scale));
  const known = scaled.flat().filter(isNumber);
  const low = known.length ? Math.min(...known) : 0;
  const high = known.length ? Math.max(...known) : 1;
  const font = {color: theme.soft, size: 11};
  const bar = {thickness: 10, outlinewidth: 0, tickfont: font, title: {text: scaleTitle, side: "top", font}};
  if (log) Object.assign(bar, logTicks(low, high));
  return {
    traces: [{
      type: "heatmap",
      z: scaled,
      x: columns.map((unused, i) => i),
      y: rows.map((unused, i) => i),
      text: values.map((row, r) => row.map((unused, c) => hover(r, c))),
      hovertemplate: "%{text}<extra></extra>",
      colorscale: colorscale(theme.ramp),
      zmin: low,
      zmax: high > low ? high : low + 1,
      xgap: 1,
      ygap: 1,
      colorbar: bar,
    }],
    layout: {
      margin: {l: 54, r: 4, t: 6, b: 40},
      xaxis: axis(theme, title, {showgrid: false, ...someTicks(columns, roomFor(width))}),
      yaxis: axis(theme, "", {showgrid: false, autorange: "reversed", ...someTicks(rows, 40)}),
    },
  };
}

function logTicks(low, high) {
  const ticks = [];
  for (let exponent = Math.floor(low); exponent <= Math.ceil(high); ++exponent) {
    for (const step of high - low > 3 ? [1] : high - low > 1.2 ? [1, 3] : [1, 2, 5]) {
      const at = exponent + Math.log10(step);
      if (at >= low - 1e-9 && at <= high + 1e-9) ticks.push([at, tickText(step, exponent)]);
    }
  }
  if (ticks.length < 2) return {tickvals: [low, high], ticktext: [small(10 ** low), small(10 ** high)]};
  return {tickvals: ticks.map(([at]) => at), ticktext: ticks.map(([, text]) => text)};
}

// How many layers' numbers fit below a plot.
function roomFor(width) {
  return Math.max(4, Math.floor((width - 100) / 30));
}

// Names of places 0, 1, 2 ... on an axis: all of them, or every n-th where there are many.
function someTicks(names, most) {
  const every = names.length > most ? [2, 5, 10, 20, 50].find((n) => names.length / n <= most) || 100 : 1;
  const at = names.map((unused, i) => i).filter((i) => i % every === 0);
  return {tickmode: "array", tickvals: at, ticktext: at.map((i) => plain(names[i]))};
}

// plotly.js lies in the page as gzip in base64: a third of its size. Nothing is fetched.
async function loadPlotly() {
  if (typeof DecompressionStream === "undefined") {
    throw new Error("this browser is too old to unpack the plots (it lacks DecompressionStream); the tables are " +
      "complete");
  }
  const packed = document.getElementById("plotly");
  const raw = Uint8Array.from(atob(packed.textContent), (letter) => letter.charCodeAt(0));
  packed.remove();
  const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("gzip"));
  const source = await new Response(stream).text();
  // Its own way to say that nothing may be sent anywhere.
  window.PlotlyConfig = {MathJaxConfig: "local"};
  const script = element("script", {}, source);
  document.head.append(script);
  script.remove();
  plotly = window.Plotly;
}

function nextTurn() {
  return new Promise((resolve) => { setTimeout(resolve, 0); });
}

async function drawAll() {
  try {
    await loadPlotly();
  } catch (error) {
    for (const {box} of kPlots) box.remove();
    throw error;
  }
  for (const plot of kPlots) {
    draw(plot);
    await nextTurn();  // what is drawn appears; the page can be scrolled
  }
  let widthDrawn = innerWidth;
  let timer = 0;
  addEventListener("resize", () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      if (innerWidth === widthDrawn) return;  // a phone's address bar
      widthDrawn = innerWidth;
      kPlots.forEach(draw);
    }, 150);
  });
  kDarkScheme.addEventListener("change", () => kPlots.forEach(draw));
  // Paper is white.
  const print = (on) => {
    printing = on;
    if (kDarkScheme.matches) kPlots.forEach(draw);
  };
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));
}
