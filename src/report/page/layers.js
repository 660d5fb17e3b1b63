"use strict";
// Which layer got how many bits, in each point of the front.

const kBitSteps = [2, 3, 4, 8, 16, 32];

// A colour for each number of bits, in steps rather than a ramp.
function bitScale(theme) {
  const n = kBitSteps.length;
  return kBitSteps.flatMap((bits, i) => [[i / n, theme.bits[bits]], [(i + 1) / n, theme.bits[bits]]]);
}

function describeBits(report, side, theme, width) {
  const rows = report.point_layers;
  const layers = rows[0].length;
  const bits = rows.map((row) => row.map((pair) => pair[side]));
  const layerNames = bits[0].map((unused, layer) => String(layer));
  const roomForNumbers = (width - 60) / layers >= 15;
  const names = report.front.points.map((point, i) => `${i + 1}: ${fixed(point.code_bits, 2)}`);
  return {
    height: 62 + rows.length * 24,
    traces: [{
      type: "heatmap",
      z: bits.map((row) => row.map((value) => kBitSteps.indexOf(value))),
      x: bits[0].map((unused, layer) => layer),
      y: names.map((unused, i) => i),
      text: bits,
      ...(roomForNumbers ? {texttemplate: "%{text}", textfont: {size: 11}} : {}),
      hovertemplate: `layer %{x}: ${side === 0 ? "K" : "V"} at %{text} bits<extra></extra>`,
      colorscale: bitScale(theme),
      zmin: -0.5,
      zmax: kBitSteps.length - 0.5,
      showscale: false,
      xgap: 1,
      ygap: 2,
    }],
    layout: {
      margin: {l: 62, r: 4, t: 6, b: 40},
      xaxis: axis(theme, "layer", {showgrid: false, ...someTicks(layerNames, roomFor(width))}),
      yaxis: axis(theme, "", {showgrid: false, autorange: "reversed", ...someTicks(names, 60)}),
    },
  };
}

function fillLayers(section, report) {
  if (!report.front.points.length) return;
  const used = unique(report.point_layers.flat(2)).sort((a, b) => a - b);
  const theme = currentTheme();
  section.append(element("div", {class: "swatches"}, used.map((bits) => {
    const swatch = element("i");
    swatch.style.background = theme.bits[bits];
    return element("span", {}, swatch, `${bits} bits`);
  })));
  addFigure(section, "One row for each point of the front, named by its number and code bits; one column for each " +
    "layer. Columns that stay " +
    "blue from top to bottom are the layers that need their bits; where keys are bluer than values, keys matter " +
    "more.", (figure) => {
    ["keys", "values"].forEach((name, side) => {
      const [panel] = addPanels(figure, [name]);
      addPlot(panel, {
        id: `bits-${name}`,
        height: 62 + report.point_layers.length * 24,
        label: `Bits of the ${name} for each layer and point of the front`,
        describe: (colors, width) => describeBits(report, side, colors, width),
      });
    });
  });
}
