"use strict";
// What recipes are called.

// "KV8", "K8V4".
function pairLabel(kBits, vBits) {
  return kBits === vBits ? `KV${kBits}` : `K${kBits}V${vBits}`;
}

// A label's [keys, values], or null: "KV8", "K8V4", also with a recipe behind it.
function bitsOfLabel(label) {
  const match = /^K(\d+)?V(\d+)\b/.exec(label);
  return match ? [Number(match[1] || match[2]), Number(match[2])] : null;
}

// A recipe that is the same in all layers, else null: {label, kivi, options}.
function uniformRecipe(recipe) {
  const match = /^(?:\*=)?(kivi-)?(\d+)(?:\/(\d+))?((?::\w+)*)(?:\+i\d+)?$/.exec(recipe);
  if (!match) return null;
  const keys = Number(match[2]);
  const options = match[4].slice(1).replace(/:/g, " ");
  return {label: pairLabel(keys, Number(match[3] || keys)), kivi: Boolean(match[1]), options};
}

// A name for each reference: as short as tells them apart.
function referenceNames(references) {
  const parsed = references.map((point) => uniformRecipe(point.recipe));
  const mode = (recipe) => (recipe.kivi ? "KIVI" : "per token");
  const packed = (recipe) => recipe && !/^KV(16|32)$/.test(recipe.label);
  const severalModes = unique(parsed.filter(packed).map(mode)).length > 1;
  const names = parsed.map((recipe, i) => {
    if (!recipe) return shorten(references[i].recipe, 24);
    if (!packed(recipe)) return `${recipe.label.slice(2)} bits`;
    return severalModes ? `${recipe.label} ${mode(recipe)}` : recipe.label;
  });
  return names.map((name, i) => {
    const options = parsed[i] ? parsed[i].options : "";
    return names.filter((other) => other === name).length > 1 && options ? `${name} ${options}` : name;
  });
}

// What is put before the text of a front's point: its use, else nothing.
function usesOfPoint(report, index) {
  return list(report.use).filter((use) => use.point === index).map((use) => use.need);
}

// A front that was never measured on held-out text has zeros there.
function hasHeldout(point) {
  return point.ppl_heldout > 0 || point.kl_heldout > 0;
}

function klOf(point) {
  return hasHeldout(point) ? point.kl_heldout : point.kl;
}

function perplexityChange(point) {
  return hasHeldout(point) ? point.ppl_delta_percent_heldout : point.ppl_delta_percent;
}

function timesSmaller(storedBits) {
  return isNumber(storedBits) && storedBits > 0 ? `${fixed(16 / storedBits, 1)}×` : kNothing;
}
