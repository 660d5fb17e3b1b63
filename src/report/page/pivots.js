"use strict";
// Pivot tokens, and the error of a quantized model against the length of its exact prefix.

const kForms = {bos: "Texts after the BOS token", chat: "Texts after the chat template", text: "Texts as they are"};

function describePivotLayers(form, theme) {
  return {
    traces: form.documents.map((document, i) => ({
      name: plain(document.name),
      mode: "lines+markers",
      x: document.pivot_attention.map((_, layer) => layer),
      y: document.pivot_attention,
      text: document.pivot_attention.map((value, layer) => `${plain(document.name)}, layer ${layer}: ${share(value)}`),
      hovertemplate: "%{text}<extra></extra>",
      line: {color: theme.series[i % theme.series.length], width: 1.5},
      marker: {symbol: kMarks[i % kMarks.length], size: 5},
    })),
    layout: {
      showlegend: form.documents.length > 1,
      xaxis: axis(theme, "layer"),
      yaxis: axis(theme, "share of distant queries' attention", {range: [0, 1], tickformat: ".0%"}),
    },
  };
}

function describePrefixErrors(form, theme) {
  // A rotated model's hidden states cannot be compared.
  const kinds = [["kl", "KL of the predictions, nats"], ["hidden", "error of the final hidden states, relative"]]
    .filter(([field]) => form.errors.some((error) => isNumber(error[field])));
  return {
    traces: kinds.map(([field, name], i) => ({
      name,
      mode: "lines+markers",
      x: form.errors.map((error) => error.length),
      y: form.errors.map((error) => error[field]),
      text: form.errors.map((error) => `${count(error.length, "exact token")}: ${small(error[field])}<br>${name}`),
      hovertemplate: "%{text}<extra></extra>",
      line: {color: theme.series[i], width: 1.5},
      marker: {symbol: kMarks[i], size: 7},
    })),
    layout: {
      showlegend: true,
      xaxis: axis(theme, "tokens at the beginning with the 16-bit model's keys and values"),
      yaxis: logAxis(theme, "error", form.errors.flatMap((error) => kinds.map(([field]) => error[field]))),
    },
  };
}

function fillPivotForm(section, form) {
  const rows = form.documents.flatMap((document) => list(document.found).map((token) => ({...token, document: document.name})));
  section.append(element("p", {class: "intro"}, form.prefix
    ? `A prefix of ${count(form.prefix, "token")} covers the massive tokens that most texts have in the same place.`
    : "No token is massive in most of these texts."));
  if (list(form.errors).length) {
    addFigure(section, "Where the error drops, the pivots are.", (figure) => addPlot(figure, {
      id: `prefix-error-${form.form}`, height: 340, label: "Error against the length of the exact prefix",
      describe: (theme) => describePrefixErrors(form, theme)}));
  }
  if (rows.some((token) => token.massive)) {
    addFigure(section, "What the massive tokens get of the attention, by layer.", (figure) => addPlot(figure, {
      id: `pivot-attention-${form.form}`, height: 300, label: "Attention that rests on massive tokens",
      describe: (theme) => describePivotLayers(form, theme)}));
  }
  const most = 40;
  section.append(table([
    {name: "position", cell: (token) => integer(token.position)},
    {name: "token", kind: "text", cell: (token) => element("code", {}, visibleToken(token.token))},
    {name: "layers", kind: "text", cell: (token) => token.massive ? `${token.first_layer}–${token.last_layer}` : kNothing},
    {name: "channels", kind: "text wrap", cell: (token) => list(token.channels).join(", ") || kNothing},
    {name: "magnitude", cell: (token) => token.massive ? small(token.magnitude) : kNothing},
    {name: "usual", cell: (token) => token.massive ? small(token.typical) : kNothing},
    {name: "attention", cell: (token) => share(token.attention)},
    {name: "at most", cell: (token) => share(token.attention_peak)},
    {name: "text", kind: "text", cell: (token) => token.document},
  ], rows.slice(0, most), {caption: rows.length > most ? `${most} of ${integer(rows.length)}` : null}));
}

function buildPivots(data) {
  addMasthead("lowkey probe --pivots", data.model, data.against
    ? `Which tokens must stay exact, and what that saves ${data.against}.`
    : "Which tokens must stay exact.");
  for (const form of data.forms) {
    const title = kForms[form.form] || form.form;
    addSection(`pivots-${form.form}`, title, title, (section) => fillPivotForm(section, form));
  }
}
