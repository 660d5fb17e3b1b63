"use strict";
// A prefix that was trained: how its loss fell, and on what.

const kLossNames = {
  layers: "half the mean squared difference of each layer's output from the 16-bit model's, summed over layers",
  kl: "KL from the 16-bit model's next-token distribution, in nats per token",
  answers: "cross-entropy of the answers' next tokens, in nats per token",
};

function calibrationChange(training) {
  return training.heldout_before > 0 ? 100 * (training.heldout_after / training.heldout_before - 1) : null;
}

function calibrationSentence(calibration) {
  const training = calibration.training;
  const tokens = count(calibration.prefix.tokens, "prefix token");
  if (!(training.best_step > 0)) return `Training the keys and values of ${tokens} did not lower the held‑out loss.`;
  return `Trained keys and values of ${tokens} change the held‑out loss by ${change(calibrationChange(training))}: ` +
    `${small(training.heldout_before)} before, ${small(training.heldout_after)} after ` +
    `${count(training.best_step, "update")}.`;
}

function describeCalibration(training, theme) {
  const lines = [
    ["train", "batches it learned from", theme.pale, "lines"],
    ["heldout", "held out", theme.front, "lines+markers"],
  ];
  const traces = lines.map(([field, name, color, mode]) => {
    const points = training.curve.filter((point) => isNumber(point[field]));
    return {
      name,
      mode,
      x: points.map((point) => point.step),
      y: points.map((point) => point[field]),
      text: points.map((point) => `after ${count(point.step, "update")}: ${small(point[field])}`),
      hovertemplate: "%{text}<extra></extra>",
      line: {color, width: field === "heldout" ? 2 : 1},
      marker: {size: 6},
    };
  });
  traces.push({
    name: "kept",
    mode: "markers",
    x: [training.best_step],
    y: [training.heldout_after],
    text: [`kept: after ${count(training.best_step, "update")}`],
    hovertemplate: "%{text}<extra></extra>",
    marker: {color: theme.reference, symbol: "diamond", size: 11},
  });
  const all = training.curve.flatMap((point) => [point.train, point.heldout]);
  return {
    traces,
    layout: {
      showlegend: true,
      xaxis: axis(theme, "updates"),
      yaxis: logAxis(theme, "loss", all),
    },
  };
}

function fillCalibrationCurve(section, calibration) {
  const training = calibration.training;
  addFigure(section, `The loss is ${kLossNames[training.loss] || training.loss}. Held‑out samples took no part in ` +
    "training; the prefix that did best on them was kept" +
    `${training.stopped_early ? ", and training stopped when they got no better" : ""}.`, (figure) => {
    addPlot(figure, {id: "calibration-curve", height: 360, label: "Loss by update",
      describe: (theme) => describeCalibration(training, theme)});
  });
}

function fillCalibrationFacts(section, calibration) {
  const {prefix, training} = calibration;
  const texts = (set) => (set ? `${count(set.samples, "sample")}, ${count(set.tokens, "token")}, ` +
    `${integer(set.counted)} of which count` : kNothing);
  const rows = [
    ["command", element("code", {}, calibration.command || kNothing)],
    ["model", calibration.model],
    ["student", calibration.student],
    ["prefix", `${prefix.name}: ${count(prefix.tokens, "token")}, ${bytes(prefix.bytes)}` +
      `${calibration.bits < 16 ? `, rounded to ${integer(calibration.bits)} bits` : ""}`],
    ["its text", element("code", {}, visibleToken(shorten(prefix.text || "", 400)))],
    ["trained on", `${training.source}: ${texts(training.train)}`],
    ["held out", texts(training.heldout)],
    ["optimizer", `AdamW, learning rate ${training.learning_rate}, weight decay ${training.weight_decay}, ` +
      `${count(training.accumulation, "sample")} an update, gradients clipped to ${training.clip}`],
    ["products", training.products],
  ];
  section.append(element("dl", {class: "method"},
    rows.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)])));
}
