"use strict";
// The front: loss against bits, with the uniform recipes and everything else that was tried.

const kBits = [["code_bits", "code bits"], ["stored_bits", "stored bits"]];

const kLosses = [
  ["heldout", "KL, held-out text"],
  ["calibration", "KL, calibration text"],
  ["perplexity", "perplexity change"],
];

const kLossFields = {
  heldout: {value: "kl_heldout", ci: "kl_heldout_ci", title: "KL to 16 bits on held-out text (nats)"},
  calibration: {value: "kl", ci: "kl_ci", title: "KL to 16 bits on the calibration text (nats)", trial: "kl"},
  perplexity: {value: "ppl_delta_percent_heldout", title: "perplexity change on held-out text (%)"},
};

// Dragging is for zooming where there is a mouse, and for scrolling where there is a finger.
const kCanZoom = matchMedia("(pointer: fine)").matches;

// Logarithmic away from zero and linear near it, for percentages of either sign.
const kLinearPercent = 0.1;
const kPercentTicks = [-10, -5, -2, -1, -0.5, -0.2, 0, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 300, 1000];

function bend(percent) {
  return isNumber(percent) ? Math.asinh(percent / kLinearPercent) : null;
}

function bentAxis(theme, title, values) {
  const bent = values.filter(isNumber).map(bend);
  const low = Math.min(...bent, 0);
  const high = Math.max(...bent, bend(1));
  const space = (high - low) * 0.07;
  const ticks = kPercentTicks.filter((tick) => bend(tick) >= low - space && bend(tick) <= high + space);
  return axis(theme, title, {
    range: [low - space, high + space],
    tickmode: "array",
    tickvals: ticks.map(bend),
    ticktext: ticks.map((tick) => (tick === 0 ? "0" : signed(tick, Math.abs(tick) < 1 ? 1 : 0))),
    zeroline: true,
    zerolinecolor: theme.soft,
  });
}

function pointHover(title, point) {
  return [
    `<b>${plain(title)}</b>`,
    `${fixed(point.code_bits, 2)} code bits, ${fixed(point.stored_bits, 2)} stored ` +
    `(${timesSmaller(point.stored_bits)} smaller)`,
    hasHeldout(point) ? `KL held out ${small(point.kl_heldout)} ± ${small(point.kl_heldout_ci)}` : null,
    `KL calibration ${small(point.kl)} ± ${small(point.kl_ci)}`,
    `perplexity ${change(perplexityChange(point))}`,
    `<span style="font-family:monospace">${folded(point.recipe)}</span>`,
  ].filter(Boolean).join("<br>");
}

function paretoTraces(report, state, theme, width) {
  const field = kLossFields[state.loss];
  const isPercent = state.loss === "perplexity";
  const shown = (point) => isPercent || point[field.value] > 0;  // a logarithm has no place for 0
  const y = (point) => (isPercent ? bend(point[field.value]) : point[field.value]);
  const errors = (points) => (field.ci ? {error_y: {
    type: "data",
    array: points.map((point) => point[field.ci] || 0),
    arrayminus: points.map((point) => Math.min(point[field.ci] || 0, 0.95 * point[field.value])),
    thickness: 1,
    width: 2,
  }} : {});
  const traces = [];
  if (field.trial) {
    const trials = list(report.trials).filter((trial) => trial[field.trial] > 0 && isNumber(trial[state.bits]));
    traces.push({
      name: `all ${integer(trials.length)} trials`,
      mode: "markers",
      x: trials.map((trial) => trial[state.bits]),
      y: trials.map((trial) => trial[field.trial]),
      marker: {color: theme.pale, size: 5},
      hoverinfo: "skip",
    });
  }
  const names = referenceNames(report.front.references);
  const references = report.front.references.map((point, i) => ({point, name: names[i]}))
    .filter(({point}) => shown(point));
  traces.push({
    name: "the same bits everywhere",
    mode: "markers+text",
    x: references.map(({point}) => point[state.bits]),
    y: references.map(({point}) => y(point)),
    text: references.map(({name}) => plain(name)),
    textposition: "top right",
    textfont: {color: theme.reference, size: width < 500 ? 11 : 12.5},
    hovertext: references.map(({point, name}) => pointHover(name, point)),
    hovertemplate: "%{hovertext}<extra></extra>",
    cliponaxis: false,
    marker: {symbol: "diamond", size: 10, color: theme.reference, line: {color: theme.paper, width: 1}},
    ...errors(references.map(({point}) => point)),
  });
  const front = report.front.points.map((point, i) => ({point, i})).filter(({point}) => shown(point));
  traces.push({
    name: "the front",
    mode: "lines+markers",
    x: front.map(({point}) => point[state.bits]),
    y: front.map(({point}) => y(point)),
    hovertext: front.map(({point, i}) => pointHover(`point ${i + 1}`, point)),
    hovertemplate: "%{hovertext}<extra></extra>",
    line: {color: theme.front, width: 2},
    marker: {size: 9, color: theme.front, line: {color: theme.paper, width: 1}},
    ...errors(front.map(({point}) => point)),
  });
  return {traces, front, references, y, field, isPercent};
}

// Below the front where there is room, else above it.
function needAnnotations(report, state, theme, width, {front, y, isPercent}) {
  const wide = width >= 560;
  return front.filter(({i}) => usesOfPoint(report, i).length).map(({point, i}) => {
    const needs = usesOfPoint(report, i);
    return {
      x: point[state.bits],
      y: isPercent ? y(point) : Math.log10(y(point)),
      text: `<b>${needs.map(plain).join(", ")}</b>`,
      font: {size: 12.5, color: needColor(report, needs[0], theme)},
      arrowcolor: needColor(report, needs[0], theme),
      arrowhead: 0,
      arrowwidth: 1.2,
      standoff: 6,
      ax: wide ? -34 : 34,
      ay: wide ? 34 : -40,
      xanchor: wide ? "right" : "left",
    };
  });
}

function describePareto(report, state, theme, width) {
  const drawn = paretoTraces(report, state, theme, width);
  const {traces, front, references, field, isPercent} = drawn;
  const all = [...front, ...references].map(({point}) => point);
  const values = [...all.map((point) => point[field.value]), ...(field.trial ? traces[0].y : [])];
  const xs = all.map((point) => point[state.bits]).filter(isNumber);
  const xLow = Math.min(...xs);
  const xHigh = Math.max(...xs);
  const xSpace = (xHigh - xLow || 1) * 0.08;
  return {
    traces,
    layout: {
      margin: {l: 62, r: 16, t: 12, b: 48},
      dragmode: kCanZoom ? "zoom" : false,
      showlegend: true,
      xaxis: axis(theme, state.bits === "code_bits" ? "code bits per number" : `stored bits per number at ` +
        `${integer(report.ctx)} tokens`,
        {range: [xLow - xSpace, xHigh + 1.6 * xSpace], dtick: 1, fixedrange: !kCanZoom}),
      yaxis: {...(isPercent ? bentAxis : logAxis)(theme, field.title, values), fixedrange: !kCanZoom},
      annotations: needAnnotations(report, state, theme, width, drawn),
    },
  };
}

// #loss=calibration&bits=stored_bits in the address chooses what is shown first: for links and for pictures.
function chosenInAddress(name, options, otherwise) {
  const wish = new URLSearchParams(location.hash.slice(1)).get(name);
  return options.some(([value]) => value === wish) ? wish : otherwise;
}

function fillPareto(section, report) {
  const losses = report.front.points.some(hasHeldout) ? kLosses : [kLosses[1]];
  const state = {
    bits: chosenInAddress("bits", kBits, "code_bits"),
    loss: chosenInAddress("loss", losses, losses[0][0]),
  };
  let redraw = () => {};
  section.append(controls(
    choice("bits", kBits, state.bits, (value) => { state.bits = value; redraw(); }),
    choice("loss", losses, state.loss, (value) => { state.loss = value; redraw(); })));
  addFigure(section, "Further down and to the left is better: less is lost with fewer bits. The front (blue) is " +
    "what the search " +
    "found; diamonds give all layers the same bits. Every mark was measured on the model, bars are 95% intervals; " +
    "touch a point for its recipe. " +
    `${kCanZoom ? "Drag to zoom in, double-click to come back. " : ""}The search looked at the calibration text ` +
    `alone, whose view also shows all it tried.`, (figure) => {
    redraw = addPlot(figure, {
      id: "pareto-plot",
      height: Math.min(520, Math.max(380, innerWidth * 0.5)),
      label: "Loss against bits per number for every recipe on the front and for uniform recipes",
      describe: (theme, width) => describePareto(report, state, theme, width),
    });
  });
}
