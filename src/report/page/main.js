"use strict";
// Builds the page from the document inside it: a tune's report, a probe's or its pivots', or a calibration's.

function addProbe(probe) {
  addSection("probe", "Errors by layer", "The probe: where errors come from", (section) => fillProbeErrors(section, probe));
  addSection("theory", "Theory", "Theory and measurement", (section) => fillProbeTheory(section, probe));
  addSection("attention", "Attention", "What attention looks at", (section) => fillProbeAttention(section, probe));
}

function buildTune(report) {
  addMasthead("lowkey tune", report.title, headlineSentence(report));
  addSection("needs", "What to use", "What to use for which need", (section) => fillNeeds(section, report));
  addSection("pareto", "The front", "What is lost, against bits", (section) => fillPareto(section, report));
  addSection("layers", "Layers", "Where the bits go", (section) => fillLayers(section, report));
  addSection("points", "All points", "The points of the front", (section) => fillPoints(section, report));
  addSection("sensitivity", "Sensitivity", "Which layers are sensitive", (section) => fillSensitivity(section, report));
  addSection("space", "Groups", "How the search space shrank", (section) => fillSpace(section, report));
  if (report.probe) addProbe(report.probe);
  addSection("method", "Method", "How this was measured", (section) => fillMethod(section, report));
}

function buildProbe(probe) {
  addMasthead("lowkey probe", probe.model, "What each layer's cache loses at fewer bits, before any search.");
  addProbe(probe);
  if (list(probe.sensitivity).length) {
    addSection("sensitivity", "Sensitivity", "Which layers are sensitive", (section) => fillSensitivity(section, probe));
  }
}

function buildCalibration(calibration) {
  addMasthead("lowkey calibrate", calibration.student, calibrationSentence(calibration));
  addSection("curve", "The curve", "The loss, update after update", (section) => fillCalibrationCurve(section, calibration));
  addSection("training", "Training", "What was trained, and on what", (section) => fillCalibrationFacts(section, calibration));
}

async function main() {
  const data = JSON.parse(document.getElementById("data").textContent);
  if ("lowkey_probe" in data) buildProbe(data);
  else if ("lowkey_calibration" in data) buildCalibration(data);
  else if ("lowkey_pivots" in data) buildPivots(data);
  else buildTune(data);
  addContents();
  document.getElementById("page").append(element("footer", {},
    "Written by lowkey. This file holds everything it needs and asks no server. Plots are drawn with plotly.js " +
    "(MIT licence, © Plotly, Inc.)."));
  try {
    await drawAll();
  } catch (error) {
    noteError(error.stack || error);
    document.querySelector("header").append(element("p", {class: "warning"}, `The plots cannot be drawn: ${error.message}`));
  }
  document.documentElement.dataset.ready = "yes";
}

main();
