"use strict";
// What attention looks at: key tokens at fewer bits, how spread out it is, pivot tokens.

const kShiftBits = ["16", "8", "4", "2"];

function describeShift(shift, theme, width) {
  const wide = width >= 560;
  const place = (i, before) => (isNumber(shift.positions?.[i]) ? `${before}${shift.positions[i]}` : "");
  const names = shift.tokens.map((token) => plain(shorten(visibleToken(token), 14)));
  const ticks = names.map((name, i) => name + (wide ? place(i, "<br>") : ""));
  const hover = (b) => (token, i) =>
    `“${plain(visibleToken(token))}”${place(i, " at ")}, keys at ${b} bits: ${share(shift.scores[b][i])}`;
  const bits = kShiftBits.filter((b) => list(shift.scores[b]).length);
  return {
    traces: bits.map((b) => ({
      type: "bar",
      name: `${b} bits`,
      x: shift.tokens.map((unused, i) => i),
      y: shift.scores[b],
      text: shift.tokens.map(hover(b)),
      textposition: "none",
      hovertemplate: "%{text}<extra></extra>",
      marker: {color: b === "16" ? theme.soft : theme.bits[b], line: {color: theme.soft, width: 0.5}},
    })),
    layout: {
      barmode: "group",
      bargap: 0.25,
      showlegend: true,
      margin: {l: 54, r: 12, t: 12, b: 50},
      xaxis: axis(theme, "", {
        showgrid: false,
        tickmode: "array",
        tickvals: ticks.map((unused, i) => i),
        ticktext: ticks,
      }),
      yaxis: axis(theme, "attention weight", {tickformat: ".0%", rangemode: "tozero"}),
    },
  };
}

function fillProbeShift(section, probe) {
  const shifts = list(probe.attention_shift);
  if (!shifts.length) return;
  let shown = 0;
  let redraw = () => {};
  section.append(element("h3", {}, "How attention shifts"), controls(select("seen by",
    shifts.map((shift, i) => [i, `layer ${shift.layer}, head ${shift.head}, query ` +
      `${shift.query}`]), 0, (i) => { shown = i; redraw(); })));
  addFigure(section, "The tokens that matter most to one query (touch a bar for its place), and how much weight " +
    "each gets with keys at 16, 8, 4 and 2 bits. Where the pale bars " +
    "leave the grey ones, the model looks at the wrong token.", (figure) => {
    redraw = addPlot(figure, {id: "probe-shift", height: 340, label: "Attention weights of key tokens at 16, 8, 4 " +
      "and 2 bits", describe: (theme, width) => describeShift(shifts[shown], theme, width)});
  });
}

// One dot per head and a line through the layers' means.
function describeSpread(probe, field, title, theme, asShare) {
  const heads = probe.layers.flatMap((layer) =>
    list(layer.heads).map((head, i) => ({layer: layer.layer, head: i, value: head[field]})));
  const show = asShare ? (value) => share(value) : (value) => fixed(value, 2);
  return {
    traces: [
      {
        name: "heads",
        mode: "markers",
        x: heads.map((head) => head.layer),
        y: heads.map((head) => head.value),
        text: heads.map((head) => `layer ${plain(head.layer)}, head ${head.head}: ${show(head.value)}`),
        hovertemplate: "%{text}<extra></extra>",
        marker: {color: theme.pale, size: 6},
      },
      {
        name: "mean",
        mode: "lines",
        x: probe.layers.map((layer) => layer.layer),
        y: probe.layers.map((layer) => layer[field]),
        text: probe.layers.map((layer) => `layer ${plain(layer.layer)}, mean: ${show(layer[field])}`),
        hovertemplate: "%{text}<extra></extra>",
        line: {color: theme.front, width: 2},
      },
    ],
    layout: {
      xaxis: axis(theme, "layer"),
      yaxis: axis(theme, title, {rangemode: "tozero", ...(asShare ? {tickformat: ".0%"} : {})}),
    },
  };
}

function fillProbeAttention(section, probe) {
  fillProbeShift(section, probe);
  if (probe.layers.some((layer) => isNumber(layer.entropy))) {
    section.append(element("h3", {}, "How spread out attention is"));
    addFigure(section, "Dots are heads, lines are the layers' means. Heads with low entropy look at few tokens: " +
      "KVTuner's claim is that such heads, if what they look at " +
      "moves about, are the ones that low bits hurt.", (figure) => {
      const panels = addPanels(figure, ["entropy", "share of the largest 5% of tokens"]);
      addPlot(panels[0], {id: "probe-entropy", height: 280, label: "Entropy of attention by layer",
        describe: (theme) => describeSpread(probe, "entropy", "nats", theme, false)});
      addPlot(panels[1], {id: "probe-top-share", height: 280, label: "Share of the largest tokens by layer",
        describe: (theme) => describeSpread(probe, "top_share", "", theme, true)});
    });
  }
  fillPivots(section, probe);
}

function fillPivots(section, probe) {
  const pivots = list(probe.pivots);
  section.append(element("h3", {}, "Pivot tokens"));
  if (!pivots.length) {
    section.append(element("p", {class: "intro"}, "None was found: no activation stands out by orders of " +
      "magnitude."));
    return;
  }
  const most = 40;
  section.append(
    element("p", {class: "intro"}, "Tokens with massive activations in a few channels. Attention rests on them; " +
      "keeping the first tokens exact (+i1) protects those at the start."),
    table([
      {name: "token", kind: "text", cell: (pivot) => element("code", {}, visibleToken(pivot.token))},
      {name: "position", cell: (pivot) => integer(pivot.position)},
      {name: "layer", cell: (pivot) => integer(pivot.layer)},
      {name: "channels", kind: "text wrap", cell: (pivot) => list(pivot.channels).join(", ")},
      {name: "magnitude", cell: (pivot) => small(pivot.magnitude)},
      {name: "× median", cell: (pivot) => small(pivot.ratio)},
      {name: "document", kind: "text", cell: (pivot) => pivot.document},
    ], pivots.slice(0, most), {caption: pivots.length > most ? `${most} of ${integer(pivots.length)}` : null}));
}
