"use strict";
// Pieces of the page. All text goes in as text, never as HTML: it may come from a file's name or from a model's tokens.

// element("p", {class: "intro", onclick: f}, "text", child, ...): null and undefined children are left out.
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(key.replace(/^on/, ""), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value);
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined) made.append(child);
  }
  return made;
}

const kSections = [];  // [id, name], for the list of contents

// A part of the page with its heading. `fill(section)` may fail: what is wrong is shown, and the other sections stand.
function addSection(id, name, title, fill) {
  const section = element("section", {id}, element("h2", {}, title));
  document.getElementById("page").append(section);
  kSections.push([id, name]);
  attempt(section, () => fill(section));
}

// What cannot be drawn says so in its place.
function attempt(parent, draw) {
  try {
    draw();
  } catch (error) {
    noteError(error.stack || error);
    parent.append(element("p", {class: "warning"}, `This part cannot be shown: ${error.message}`));
  }
}

function table(columns, rows, {caption, rowClass} = {}) {
  const kind = (column) => column.kind || "";
  return element("div", {class: "scroll"}, element("table", {},
    caption ? element("caption", {}, caption) : null,
    element("thead", {}, element("tr", {}, columns.map((column) =>
      element("th", {class: kind(column), scope: "col"}, column.name)))),
    element("tbody", {}, rows.map((row) => element("tr", {class: rowClass ? rowClass(row) : null},
      columns.map((column) => element("td", {class: kind(column)}, column.cell(row))))))));
}

// One of a few, as a row of buttons; `options` are [value, label].
function choice(name, options, selected, onChange) {
  return element("fieldset", {class: "choice", "aria-label": name}, options.map(([value, label]) => {
    const input = element("input", {type: "radio", name, value, onchange: () => onChange(value)});
    input.checked = value === selected;
    return element("label", {}, input, element("span", {}, label));
  }));
}

// One of many.
function select(label, options, selected, onChange) {
  const box = element("select", {onchange: () => onChange(options[box.selectedIndex][0])},
    options.map(([, text]) => element("option", {}, text)));
  box.selectedIndex = Math.max(0, options.findIndex(([value]) => value === selected));
  return element("label", {}, label, box);
}

function controls(...parts) {
  return element("div", {class: "controls"}, parts);
}

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // A page opened from a file may lack the clipboard: the old way, through a selection.
    const area = element("textarea", {readonly: ""}, text);
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

function copyButton(text, label = "Copy") {
  const button = element("button", {
    type: "button",
    onclick: async () => {
      await copyText(text);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = label; }, 1500);
    },
  }, label);
  return button;
}

function command(text) {
  return element("div", {class: "command"}, element("code", {}, text), copyButton(text));
}
