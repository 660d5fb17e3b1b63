"use strict";
// How the numbers came about.

function fillMethod(section, report) {
  const texts = (text) => (text ? `${count(text.documents, "document")}, ` +
    `${count(text.scored_tokens, "scored token")}` : kNothing);
  const shape = report.shape || {};
  const rows = [
    ["command", element("code", {}, report.command || kNothing)],
    ["model", `${report.title}: ${count(shape.num_layers, "layer")}, ${count(shape.num_kv_heads, "KV head")} of ` +
      `${integer(shape.head_dim)}`],
    ["weights", report.front.model_sha256 ? `SHA-256 ${report.front.model_sha256}` : null],
    ["engine", report.engine],
    ["calibration text", texts(report.calibration)],
    ["held-out text", `${texts(report.heldout)}; it took no part in the search`],
    ["perplexity at 16 bits", report.reference ? `${fixed(report.reference.ppl, 3)} calibration, ` +
      `${fixed(report.reference.ppl_heldout, 3)} held out` : null],
  ].filter(([, value]) => value);
  section.append(
    element("dl", {class: "method"}, rows.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)])),
    element("h3", {}, "How loss is measured"),
    element("p", {}, "The model reads each document once with the 16-bit cache and once with the recipe's. At " +
      "every scored token the two distributions over the next " +
      "token are compared: KL is the mean of Σ p₁₆ · ln(p₁₆ / p), in nats. Keys and values are read back from the " +
      "packed cache, so errors of early tokens and layers " +
      "reach the later ones, as they do when the model answers you."),
    element("h3", {}, "Code bits and stored bits"),
    element("p", {}, "Code bits count the codes alone, as papers do. Stored bits count all that is allocated: " +
      "codes, scales and zero points, the newest tokens that stay " +
      `exact, unfilled pages; here at ${integer(report.ctx)} tokens. “Smaller” compares stored bits with 16.`));
}
