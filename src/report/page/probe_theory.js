"use strict";
// The probe's numbers beside theory: noise of the scores, growth with depth; and what group size and window buy.

function describeNoise(probe, theme) {
  const entries = probe.layers.flatMap((layer) => list(layer.score_noise).map((entry) => ({...entry, layer: layer.layer})))
    .filter((entry) => entry.predicted > 0 && entry.measured > 0);
  const bits = unique(entries.map((entry) => entry.bits)).sort((a, b) => a - b);
  const all = entries.flatMap((entry) => [entry.predicted, entry.measured]);
  const ends = [Math.min(...all), Math.max(...all)];
  return {
    traces: [
      {name: "theory", mode: "lines", x: ends, y: ends, line: {color: theme.soft, width: 1, dash: "dash"}, hoverinfo: "skip"},
      ...bits.map((b, i) => {
        const mine = entries.filter((entry) => entry.bits === b);
        return {
          name: `${b} bits`,
          mode: "markers",
          x: mine.map((entry) => entry.predicted),
          y: mine.map((entry) => entry.measured),
          text: mine.map((entry) => `layer ${plain(entry.layer)}, ${b} bits: predicted ${small(entry.predicted)}, ` +
            `measured ${small(entry.measured)}`),
          hovertemplate: "%{text}<extra></extra>",
          marker: {color: theme.series[i], symbol: kMarks[i], size: 8, line: {color: theme.paper, width: 0.5}},
        };
      }),
    ],
    layout: {
      showlegend: true,
      xaxis: logAxis(theme, "predicted error of the scores", all),
      yaxis: logAxis(theme, "measured", all),
    },
  };
}

function describeDepth(probe, theme) {
  const runs = list(probe.depth);
  return {
    traces: runs.map((run, i) => {
      const at = run.relative_error.map((value, layer) => [layer, value]).filter(([, value]) => value > 0);
      return {
        name: plain(shorten(run.recipe, 28)),
        mode: "lines+markers",
        x: at.map(([layer]) => layer),
        y: at.map(([, value]) => value),
        text: at.map(([layer, value]) => `before layer ${layer}: ${share(value, 2)}<br>${folded(run.recipe)}`),
        hovertemplate: "%{text}<extra></extra>",
        line: {color: theme.series[i % theme.series.length], width: 1.5},
        marker: {symbol: kMarks[i % kMarks.length], size: 5},
      };
    }),
    layout: {
      showlegend: true,
      xaxis: axis(theme, "layer (the last: after all of them)"),
      yaxis: logAxis(theme, "‖ĥ − h‖ / ‖h‖", runs.flatMap((run) => run.relative_error)),
    },
  };
}

function describeAblation(probe, theme) {
  const entries = list(probe.ablation);
  const bits = unique(entries.map((entry) => entry.bits)).sort((a, b) => a - b);
  const windows = unique(entries.map((entry) => entry.residual_length)).sort((a, b) => a - b);
  const dashes = ["solid", "dash", "dot", "dashdot", "longdash"];
  const traces = bits.flatMap((b, i) => windows.map((window, w) => {
    const mine = entries.filter((entry) => entry.bits === b && entry.residual_length === window)
      .sort((x, y) => x.group_size - y.group_size);
    return {
      name: `${b} bits, R ${window}`,
      mode: "lines+markers",
      x: mine.map((entry) => entry.stored_bits),
      y: mine.map((entry) => entry.e_o),
      text: mine.map((entry) => `${b} bits, groups of ${entry.group_size}, R ` +
        `${window}<br>${fixed(entry.stored_bits, 2)} stored bits, e_o ${small(entry.e_o)}`),
      hovertemplate: "%{text}<extra></extra>",
      line: {color: theme.series[i % theme.series.length], dash: dashes[w % dashes.length], width: 1.5},
      marker: {symbol: kMarks[w % kMarks.length], size: 8},
    };
  }));
  return {
    traces: traces.filter((trace) => trace.x.length),
    layout: {
      showlegend: true,
      xaxis: axis(theme, "stored bits per number"),
      yaxis: logAxis(theme, "e_o", entries.map((entry) => entry.e_o)),
    },
  };
}

function fillProbeTheory(section, probe) {
  const hasNoise = probe.layers.some((layer) => list(layer.score_noise).length);
  if (hasNoise) {
    addFigure(section, "Each mark is one layer. If rounding errors were independent and uniform, the error of a " +
      "score q·k/√d would have the standard deviation " +
      "√(Σ q²Δ² / 12d), and marks would lie on the dashed line. Above it, errors pull the same way; below it, the " +
      "codes do better than rounding at random.", (figure) => {
      addPlot(figure, {id: "probe-noise", height: 380, label: "Measured against predicted error of attention " +
        "scores", describe: (theme) => describeNoise(probe, theme)});
    });
  }
  if (list(probe.depth).length) {
    section.append(element("h3", {}, "Growth with depth"));
    addFigure(section, "The relative error of what flows from layer to layer when all layers are quantized at " +
      "once. A steep line is a layer that makes errors larger; " +
      "a flat one passes them on.", (figure) => {
      addPlot(figure, {id: "probe-depth", height: 340, label: "Relative error of the residual stream by layer",
        describe: (theme) => describeDepth(probe, theme)});
    });
  }
  if (list(probe.ablation).length) {
    section.append(element("h3", {}, "Group size and window"));
    addFigure(section, "G is how many numbers share a scale, R how many of the newest tokens stay exact. Along a " +
      "line groups get smaller to the right; from line to " +
      "line the window grows. Down and to the left is better.", (figure) => {
      addPlot(figure, {id: "probe-ablation", height: 360, label: "Error against stored bits for group sizes and " +
        "windows", describe: (theme) => describeAblation(probe, theme)});
    });
  }
}
