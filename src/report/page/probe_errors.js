"use strict";
// What the probe saw: errors by layer, candidate, head and axis.

const kErrors = [
  ["e_o", "attention output (e_o)"],
  ["e_a", "attention weights (e_a)"],
  ["e_k", "keys (e_k)"],
  ["e_v", "values (e_v)"],
];

function probeCandidate(layer, label) {
  return list(layer.candidates).find((candidate) => candidate.label === label);
}

function probeLayerNames(probe) {
  return probe.layers.map((layer) => String(layer.layer));
}

function fillProbeErrors(section, probe) {
  let metric = "e_o";
  let redraw = () => {};
  section.append(
    element("p", {class: "intro"}, `Measured on ${count(probe.tokens, "token")} with ` +
      `${count(probe.queries, "query", "queries")}, each layer by itself: what it reads is exact, so nothing adds ` +
      `up from layer to layer.`),
    controls(choice("error", kErrors, metric, (value) => { metric = value; redraw(); })));
  addFigure(section, "The more a cell stands out, the larger the error. Rows are ways to store a layer, columns " +
    "are layers. A row that stays " +
    "faint can be used everywhere; a column that stands out is a layer that needs more bits.", (figure) => {
    redraw = addPlot(figure, {
      id: "probe-errors",
      height: 80 + probe.candidates.length * 26,
      label: "Error by layer and candidate",
      describe: (theme, width) => {
        const values = probe.candidates.map((label) =>
          probe.layers.map((layer) => probeCandidate(layer, label)?.[metric] ?? null));
        return heatMap(theme, width, {
          columns: probeLayerNames(probe),
          rows: probe.candidates,
          values,
          hover: (row, column) => `layer ${plain(probe.layers[column].layer)}, ` +
            `${plain(probe.candidates[row])}<br>${metric} ${small(values[row][column])}`,
          title: "layer",
          scaleTitle: metric,
        });
      },
    });
  });
  fillProbeMeans(section, probe);
  fillProbeHeads(section, probe);
  fillProbeAxes(section, probe);
}

function fillProbeMeans(section, probe) {
  const over = (label, field) => mean(probe.layers.map((layer) => probeCandidate(layer, label)?.[field]));
  const column = (field, name, show) => ({name, cell: (label) => show(over(label, field))});
  section.append(table([
    {name: "stored as", kind: "text", cell: (label) => label},
    ...["e_k", "e_v", "e_a", "e_o"].map((field) => column(field, field, small)),
    ...[["bias_k", "keys"], ["bias_score", "scores"], ["bias_o", "output"]].map(([field, name]) =>
      column(field, `bias of ${name}`, (value) => (isNumber(value) ? `${signed(value * 100, 3)}%` : kNothing))),
  ], probe.candidates, {caption: "Means over all layers. A bias is the mean signed error as a share of the mean " +
    "size: near zero, errors cancel out."}));
}

function fillProbeHeads(section, probe) {
  const candidates = probe.layers.flatMap((layer) => list(layer.candidates));
  const most = Math.max(0, ...candidates.map((candidate) => list(candidate.heads).length));
  if (!most) return;
  const state = {metric: "e_o", label: probe.candidates[probe.candidates.length - 1]};
  let redraw = () => {};
  section.append(element("h3", {}, "Head by head"),
    controls(
      select("stored as", probe.candidates.map((label) => [label, label]), state.label, (label) => {
        state.label = label;
        redraw();
      }),
      choice("head error", kErrors.filter(([field]) => field !== "e_v"), state.metric, (value) => {
        state.metric = value;
        redraw();
      })));
  addFigure(section, "Columns are layers, rows are query heads. Single cells that stand out are heads that look " +
    "for few tokens, and lose them.", (figure) => {
    redraw = addPlot(figure, {
      id: "probe-heads",
      height: 74 + most * 18,
      label: "Error by layer and head",
      describe: (theme, width) => {
        const heads = Array.from({length: most}, (unused, head) => head);
        const headsOf = (layer) => list(probeCandidate(layer, state.label)?.heads);
        const values = heads.map((head) => probe.layers.map((layer) => headsOf(layer)[head]?.[state.metric] ?? null));
        return heatMap(theme, width, {
          columns: probeLayerNames(probe),
          rows: heads.map(String),
          values,
          hover: (row, column) => `layer ${plain(probe.layers[column].layer)}, head ${row}<br>${state.metric} ` +
            `${small(values[row][column])}`,
          title: "layer",
          scaleTitle: state.metric,
        });
      },
    });
  });
}

const kAxisPairs = [["k", "per_channel"], ["k", "per_token"], ["v", "per_channel"], ["v", "per_token"]];

function axisName([side, way]) {
  return `${side === "k" ? "keys" : "values"} ${way === "per_channel" ? "per channel" : "per token"}`;
}

function isOfAxis(entry, [side, way], bits) {
  return entry.side === side && entry.axis === way && entry.bits === bits;
}

function describeAxisBars(probe, listName, field, title, theme) {
  const entries = probe.layers.flatMap((layer) => list(layer[listName]));
  const bits = unique(entries.map((entry) => entry.bits)).sort((a, b) => b - a);
  const values = kAxisPairs.map(([side, way]) => bits.map((b) =>
    mean(entries.filter((entry) => isOfAxis(entry, [side, way], b)).map((entry) => entry[field]))));
  // Keys in one hue and values in another; per token hatched. Bars start at zero, so 8 bits are slivers: hence the
  // numbers.
  const looks = [[theme.series[0], ""], [theme.series[0], "/"], [theme.series[1], ""], [theme.series[1], "/"]];
  return {
    traces: kAxisPairs.map((pair, i) => ({
      type: "bar",
      name: axisName(pair),
      x: bits.map((b) => `${b} bits`),
      y: values[i],
      text: values[i].map((value) => (isNumber(value) ? Number(value.toPrecision(2)).toString() : "")),
      textposition: "outside",
      textangle: -90,
      textfont: {size: 11, color: theme.soft},
      constraintext: "none",
      cliponaxis: false,
      hovertemplate: `%{x}, ${axisName(pair)}: %{text}<extra></extra>`,
      marker: {
        color: looks[i][0],
        pattern: {shape: looks[i][1], fillmode: "overlay", fgcolor: theme.paper, solidity: 0.35, size: 7},
      },
    })),
    layout: {
      barmode: "group",
      bargap: 0.25,
      showlegend: true,
      xaxis: axis(theme, "", {showgrid: false}),
      yaxis: axis(theme, title, {range: [0, 1.22 * Math.max(0, ...values.flat().filter(isNumber)) || 1]}),
    },
  };
}

function describeAxisLines(probe, theme) {
  const bits = Math.min(...probe.layers.flatMap((layer) => list(layer.axes).map((entry) => entry.bits)));
  const looks = [[theme.series[0], "solid"], [theme.series[0], "dot"], [theme.series[1], "solid"], [theme.series[1], "dot"]];
  const errorOf = (layer, pair) => list(layer.axes).find((entry) => isOfAxis(entry, pair, bits))?.error ?? null;
  const traces = kAxisPairs.map((pair, i) => ({
    name: axisName(pair),
    mode: "lines",
    x: probe.layers.map((layer) => layer.layer),
    y: probe.layers.map((layer) => errorOf(layer, pair)),
    hovertemplate: `layer %{x}, ${axisName(pair)}: %{y:.3f}<extra></extra>`,
    line: {color: looks[i][0], dash: looks[i][1], width: 2},
  }));
  return {
    traces,
    layout: {
      showlegend: true,
      xaxis: axis(theme, "layer"),
      yaxis: axis(theme, `relative error at ${bits} bits`, {rangemode: "tozero"}),
    },
  };
}

function fillProbeAxes(section, probe) {
  if (!probe.layers.some((layer) => list(layer.axes).length)) return;
  section.append(element("h3", {}, "Per channel or per token"));
  addFigure(section, "Mean over layers; lower is better. Keys usually have a few channels that are large in every token, " +
    "so one scale per channel suits them; " +
    "values have few, and one scale per token mixes the errors of many tokens less. Right: what each choice alone " +
    "does to what attention returns.", (figure) => {
    const panels = addPanels(figure, ["error of the numbers themselves", "error of the attention output"]);
    addPlot(panels[0], {id: "probe-axes", height: 320, label: "Relative error of keys and values per channel and " +
      "per token",
      describe: (theme) => describeAxisBars(probe, "axes", "error", "mean |x − x̂| / mean |x|", theme)});
    addPlot(panels[1], {id: "probe-axes-output", height: 320, label: "Error of the attention output per channel " +
      "and per token",
      describe: (theme) => describeAxisBars(probe, "axes_output", "e_o", "e_o", theme)});
  });
  addFigure(section, "The same at the fewest bits, layer by layer: solid lines are per channel, dotted ones per " +
    "token.", (figure) => {
    addPlot(figure, {id: "probe-axes-layers", height: 300, label: "Relative error by layer, per channel and per " +
      "token",
      describe: (theme) => describeAxisLines(probe, theme)});
  });
}
