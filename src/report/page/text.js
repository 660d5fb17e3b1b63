"use strict";
// Numbers and other values as people read them.

const kNothing = "–";

function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}

// Fixed digits, with a real minus.
function fixed(value, digits) {
  return isNumber(value) ? value.toFixed(digits).replace("-", "−") : kNothing;
}

function signed(value, digits) {
  const text = fixed(value, digits);
  return value > 0 && Number(value.toFixed(digits)) !== 0 ? `+${text}` : text;
}

const kSuperscripts = "⁰¹²³⁴⁵⁶⁷⁸⁹";

function powerOfTen(exponent) {
  const digits = String(Math.abs(exponent)).replace(/\d/g, (digit) => kSuperscripts[digit]);
  return `10${exponent < 0 ? "⁻" : ""}${digits}`;
}

// Two to three digits over many decades: KL, errors.
function small(value) {
  if (!isNumber(value)) return kNothing;
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 1e-4) {
    const exponent = Math.floor(Math.log10(size));
    return `${fixed(value / 10 ** exponent, 1)}×${powerOfTen(exponent)}`;
  }
  if (size >= 1000) return integer(value);
  if (size >= 10) return fixed(value, 1);
  if (size >= 1) return fixed(value, 2);
  return fixed(value, size < 0.01 ? 5 : size < 0.1 ? 4 : 3);
}

// A change in percent, with its sign.
function change(percent) {
  if (!isNumber(percent)) return kNothing;
  const size = Math.abs(percent);
  return `${signed(percent, size < 0.095 ? 2 : size < 20 ? 1 : 0)}%`;
}

function share(fraction, digits = 1) {
  return isNumber(fraction) ? `${fixed(fraction * 100, digits)}%` : kNothing;
}

function integer(value) {
  return isNumber(value) ? Math.round(value).toLocaleString("en-US") : kNothing;
}

function bytes(value) {
  if (!isNumber(value)) return kNothing;
  return value < 1e5 ? `${integer(value)} B` : `${fixed(value / 1024, 1)} KiB`;
}

function count(number, singular, plural = `${singular}s`) {
  return `${integer(number)} ${number === 1 ? singular : plural}`;
}

// 0, 3–6 and 9.
function layerList(layers) {
  const spans = [];
  for (const layer of [...layers].sort((a, b) => a - b)) {
    const last = spans[spans.length - 1];
    if (last && last[1] + 1 === layer) last[1] = layer;
    else spans.push([layer, layer]);
  }
  return spans.map(([from, to]) => (from === to ? `${from}` : `${from}–${to}`)).join(", ");
}

// A token's text with what would be invisible.
function visibleToken(token) {
  return String(token).replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/ /g, "·") || "∅";
}

function shorten(text, length) {
  const letters = [...text];
  return letters.length <= length ? text : `${letters.slice(0, length - 1).join("")}…`;
}

function mean(values) {
  const numbers = values.filter(isNumber);
  return numbers.length ? numbers.reduce((sum, value) => sum + value, 0) / numbers.length : null;
}

function unique(values) {
  return [...new Set(values)];
}

// Lists that a document may leave out.
function list(value) {
  return Array.isArray(value) ? value : [];
}
