"use strict";
// The front and the references as a table.

function fillPoints(section, report) {
  const {points, references} = report.front;
  const names = referenceNames(references);
  const rows = [
    ...points.map((point, i) => ({point, name: String(i + 1), needs: usesOfPoint(report, i)})),
    ...references.map((point, i) => ({point, name: names[i], needs: [], reference: true})),
  ];
  const heldout = (show) => (row) => (hasHeldout(row.point) ? show(row.point) : kNothing);
  const interval = (point) =>
    (point.kl_heldout_ci > 0 ? element("span", {class: "muted"}, ` ± ${small(point.kl_heldout_ci)}`) : null);
  const needTags = (needs) => needs.flatMap((need) => [" ", element("span", {class: "tag"}, need)]);
  const firstChoice = (point) => (hasHeldout(point) ? point.top1_agreement_heldout : point.top1_agreement);
  const recipe = (text) => [element("code", {title: text}, shorten(text, 22)), copyButton(text)];
  const columns = [
    {name: "point", kind: "text", cell: (row) => [row.name, ...needTags(row.needs)]},
    {name: "code bits", cell: (row) => fixed(row.point.code_bits, 2)},
    {name: "stored bits", cell: (row) => fixed(row.point.stored_bits, 2)},
    {name: "smaller", cell: (row) => timesSmaller(row.point.stored_bits)},
    {name: "per token", cell: (row) => bytes(row.point.bytes_per_token)},
    {name: "KL held out", cell: heldout((point) => [small(point.kl_heldout), interval(point)])},
    {name: "perplexity held out", cell: heldout((point) => change(point.ppl_delta_percent_heldout))},
    {name: "same first choice", cell: (row) => share(firstChoice(row.point))},
    {name: "KL calibration", cell: (row) => small(row.point.kl)},
    {name: "perplexity calibration", cell: (row) => change(row.point.ppl_delta_percent)},
    {name: "recipe", kind: "text", cell: (row) => recipe(row.point.recipe)},
  ];
  if (rows.some((row) => isNumber(row.point.task_accuracy))) {
    columns.splice(8, 0, {name: "task", cell: (row) => share(row.point.task_accuracy)});
  }
  section.append(table(columns, rows, {
    rowClass: (row) => (row.reference ? "reference" : null),
  }));
  section.append(element("p", {class: "intro"}, "KL is the mean over all scored tokens, ± half its 95% interval. " +
    "Same first choice: how often the most probable token " +
    "is the one at 16 bits. Grey rows give all layers the same bits."));
}
