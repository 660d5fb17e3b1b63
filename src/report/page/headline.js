"use strict";
// The head of a tune's page: what was found, and what to use for which need.

// The point that the headline is about: the balanced one, else any that keeps a promise, else the middle of the front.
function headlinePoint(report) {
  const kept = list(report.use).filter((use) => isNumber(use.point));
  const use = kept.find((entry) => entry.need === "balanced") || kept[0];
  const points = report.front.points;
  return points[use ? use.point : Math.floor(points.length / 2)];
}

function costInWords(percent) {
  if (!isNumber(percent)) return "";
  if (Math.abs(percent) < 0.05) return "leave perplexity as it is";
  return percent > 0 ? `cost ${fixed(percent, percent < 10 ? 1 : 0)}% ` +
    `perplexity` : `lower perplexity by ${fixed(-percent, 1)}%`;
}

function textOf(point) {
  return hasHeldout(point) ? "held‑out text" : "the calibration text";
}

function headlineSentence(report) {
  const point = headlinePoint(report);
  if (!point) return "No recipe was measured: the front is empty.";
  return `${fixed(point.code_bits, 2)} code bits per number ${costInWords(perplexityChange(point))} on ` +
    `${textOf(point)}; ` +
    `the cache is ${timesSmaller(point.stored_bits)} smaller than at 16 bits.`;
}

function addMasthead(kicker, title, deck) {
  const page = document.getElementById("page");
  page.textContent = "";
  page.append(element("header", {},
    element("div", {class: "kicker"}, kicker),
    element("h1", {}, title),
    deck ? element("p", {class: "deck"}, deck) : null));
}

// After the sections are known.
function addContents() {
  if (kSections.length < 2) return;
  document.querySelector("header").after(element("nav", {"aria-label": "Contents"},
    kSections.map(([id, name]) => element("a", {href: `#${id}`}, name))));
}

function needColor(report, need, theme) {
  const index = list(report.use).findIndex((use) => use.need === need);
  return theme.needs[index % theme.needs.length];
}

function fact(name, value) {
  return [element("dt", {}, name), element("dd", {}, value)];
}

function needCard(report, use) {
  const point = isNumber(use.point) ? report.front.points[use.point] : null;
  const card = element("div", {class: point ? "card" : "card none"},
    element("h3", {}, use.need), element("div", {class: "promise"}, use.what));
  if (!point) {
    card.append(element("p", {}, "No point of the front keeps this promise: stay with more bits, or let the search " +
      "try more of them."));
    return card;
  }
  card.style.setProperty("--need", needColor(report, use.need, currentTheme()));
  card.append(element("dl", {class: "facts"},
    [fact("code bits per number", fixed(point.code_bits, 2)),
      fact("smaller than 16 bits", timesSmaller(point.stored_bits)),
      fact(`perplexity, ${textOf(point)}`, change(perplexityChange(point))),
      fact(`KL, ${textOf(point)}`, small(klOf(point)))]
      .map((pair) => element("div", {}, pair))));
  if (use.command) card.append(command(use.command));
  return card;
}

function fillNeeds(section, report) {
  section.append(
    element("div", {class: "cards"}, list(report.use).map((use) => needCard(report, use))));
}
