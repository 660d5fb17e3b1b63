"use strict";
// What one layer alone costs, and how the search space shrank: pruning, groups, the surrogate.

const kDirections = {
  "16-bit": {title: "one layer quantized, all others at 16 bits", caption: "how much this layer alone costs"},
  low: {title: "one layer changed, all others at low bits", caption: "the loss that is left"},
};

function describeSensitivity(entries, theme, width, from) {
  const layers = unique(entries.map((entry) => entry.layer)).sort((a, b) => a - b);
  const candidates = unique(entries.map((entry) => entry.candidate));
  const at = new Map(entries.map((entry) => [`${entry.layer}\n${entry.candidate}`, entry.kl]));
  const values = candidates.map((candidate) => layers.map((layer) => at.get(`${layer}\n${candidate}`) ?? null));
  const map = heatMap(theme, width, {
    columns: layers.map(String),
    rows: candidates,
    values,
    hover: (row, column) => `layer ${layers[column]}, ${plain(candidates[row])}<br>KL ` +
      `${small(values[row][column])} (${plain(kDirections[from]?.caption ?? from)})`,
    title: "layer",
    scaleTitle: "KL",
  });
  return {...map, height: 74 + Math.max(4, candidates.length) * 24};
}

// The pair of candidates that tells keys from values: the same bits, swapped, furthest apart.
function swappedPair(candidates) {
  let best = null;
  for (const label of candidates) {
    const bits = bitsOfLabel(label);
    if (!bits || bits[0] <= bits[1]) continue;
    const other = candidates.find((candidate) => {
      const swapped = bitsOfLabel(candidate);
      return swapped && swapped[0] === bits[1] && swapped[1] === bits[0];
    });
    const distance = bits[0] - bits[1];
    if (other && (!best || distance > best.distance)) best = {lowValues: label, lowKeys: other, distance};
  }
  return best;
}

function describeSides(entries, pair, theme) {
  const line = (candidate, name, color, symbol) => {
    const mine = entries.filter((entry) => entry.candidate === candidate && entry.kl > 0).sort((a, b) => a.layer - b.layer);
    return {
      name,
      mode: "lines+markers",
      x: mine.map((entry) => entry.layer),
      y: mine.map((entry) => entry.kl),
      text: mine.map((entry) => `layer ${entry.layer}, ${plain(candidate)}: KL ${small(entry.kl)}`),
      hovertemplate: "%{text}<extra></extra>",
      line: {color, width: 1.5},
      marker: {color, symbol, size: 7},
    };
  };
  const shown = entries.filter((entry) => [pair.lowKeys, pair.lowValues].includes(entry.candidate));
  return {
    traces: [
      line(pair.lowKeys, `low keys (${plain(pair.lowKeys)})`, theme.series[0], "circle"),
      line(pair.lowValues, `low values (${plain(pair.lowValues)})`, theme.series[1], "diamond"),
    ],
    layout: {
      showlegend: true,
      xaxis: axis(theme, "layer"),
      yaxis: logAxis(theme, "KL to 16 bits (nats)", shown.map((entry) => entry.kl)),
    },
  };
}

function fillSensitivity(section, report) {
  const entries = list(report.sensitivity);
  const directions = unique(entries.map((entry) => entry.from));
  if (!entries.length) {
    section.append(element("p", {class: "intro"}, "This run measured no single layers."));
    return;
  }
  addFigure(section, "The more a cell stands out, the larger the loss. Rows are what one layer was stored as. With " +
    "the others at 16 bits, a column that stands out is a " +
    "layer that cannot do with less; with the others at low bits, a faint one wins back most when it alone gets " +
    "more.", (figure) => {
    const panels = addPanels(figure, directions.map((from) => kDirections[from]?.title ?? from));
    directions.forEach((from, i) => {
      addPlot(panels[i], {
        id: `sensitivity-${i}`,
        height: 200,
        label: `KL by layer and candidate: ${kDirections[from]?.title ?? from}`,
        describe: (theme, width) => describeSensitivity(entries.filter((entry) => entry.from === from), theme, width, from),
      });
    });
  });
  const alone = entries.filter((entry) => entry.from === "16-bit");
  const pair = swappedPair(unique(alone.map((entry) => entry.candidate)));
  if (!pair) return;
  addFigure(section, "Where the circles lie above the diamonds, this layer's keys need the bits more than its " +
    "values do.", (figure) => {
    addPlot(figure, {
      id: "sensitivity-sides",
      height: 300,
      label: "KL by layer with few bits for keys, and with few bits for values",
      describe: (theme) => describeSides(alone, pair, theme),
    });
  });
}

function tags(labels, kind = "tag") {
  return labels.map((label) => element("span", {class: kind}, label));
}

function fillSpace(section, report) {
  const pruned = list(report.pruned);
  const groups = list(report.groups);
  const before = Math.max(0, ...pruned.map((entry) => list(entry.kept).length + list(entry.dropped).length));
  const power = (counts) => powerOfTen(Math.round(counts.reduce((sum, n) => sum + Math.log10(Math.max(1, n)), 0)));
  if (groups.length && before) {
    section.append(element("p", {}, `${count(before, "choice")} for each of ${count(pruned.length, "layer")} are ` +
      `about ${power(pruned.map(() => before))} recipes. ` +
      `Choices that cost more and save nothing were dropped, and layers alike were put into ` +
      `${count(groups.length, "group")}, which share one choice: ` +
      `about ${power(groups.map((group) => list(group.kept).length))} are left.`));
  }
  if (groups.length) {
    section.append(table([
      {name: "layers", kind: "text wrap", cell: (group) => `{${layerList(list(group.layers))}}`},
      {name: "choices left", kind: "text wrap", cell: (group) => tags(list(group.kept))},
    ], groups, {caption: "Groups of layers"}));
  }
  if (pruned.length) {
    // As the paper prints it: layers that keep the same choices, in one line.
    const bySet = new Map();
    for (const entry of pruned) {
      const key = JSON.stringify([entry.kept, entry.dropped]);
      if (!bySet.has(key)) bySet.set(key, {...entry, layers: []});
      bySet.get(key).layers.push(entry.layer);
    }
    section.append(table([
      {name: "layers", kind: "text wrap", cell: (entry) => layerList(entry.layers)},
      {name: "kept: on the front of bits and error", kind: "text wrap", cell: (entry) => tags(list(entry.kept))},
      {name: "dropped", kind: "text wrap", cell: (entry) => tags(list(entry.dropped), "tag dropped")},
    ], [...bySet.values()], {caption: "What each layer may be stored as"}));
  }
  const surrogate = report.surrogate;
  if (surrogate && isNumber(surrogate.rank_correlation)) {
    const order = surrogate.rank_correlation >= 0.9 ? "nearly the order" : "only roughly the order";
    section.append(element("p", {}, `Adding up what single layers cost puts recipes into ${order} that measuring them ` +
      `does: over ${count(surrogate.trials, "trial")} the rank correlation is ${fixed(surrogate.rank_correlation, 3)}. ` +
      "That sum only proposes; every number on this page was measured."));
  }
}
