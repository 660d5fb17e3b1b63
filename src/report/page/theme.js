"use strict";
// Colours of the plots, for light and for dark. Series: Okabe and Ito's, which colour-blind readers tell apart. Heat
// maps: one ramp that is ordered by lightness and starts at the paper's colour.

const kThemes = {
  light: {
    paper: "#fffdf9",
    ink: "#1d1b19",
    soft: "#5f5a54",
    grid: "#e7e1d6",
    pale: "rgba(95, 90, 84, 0.28)",
    front: "#0072b2",
    reference: "#d55e00",
    needs: ["#00805d", "#946300", "#a05a8c"],
    series: ["#0072b2", "#d55e00", "#009e73", "#b0588f", "#c98a00", "#3f9fd8", "#555555", "#7a3e00", "#6a51a3"],
    ramp: ["#f7f1e4", "#f5d08a", "#e39a3f", "#b9551b", "#6b2307"],
    bits: {2: "#fbe3a6", 3: "#f3b562", 4: "#8fc1c9", 8: "#3d7fae", 16: "#16406b", 32: "#0a1f38"},
  },
  dark: {
    paper: "#15161a",
    ink: "#ece8e1",
    soft: "#aaa49b",
    grid: "#2e3036",
    pale: "rgba(170, 164, 155, 0.32)",
    front: "#56b4e9",
    reference: "#f08c3c",
    needs: ["#2fc397", "#e8c33c", "#d795c0"],
    series: ["#56b4e9", "#f08c3c", "#2fc397", "#d795c0", "#e8c33c", "#8fd0ff", "#bbbbbb", "#c98f5a", "#a796e0"],
    ramp: ["#211d1a", "#5c2c10", "#a9521b", "#e69f45", "#fbe6b4"],
    bits: {2: "#fbe3a6", 3: "#f0a94e", 4: "#7fb6c2", 8: "#3d7fae", 16: "#24507f", 32: "#1a2f4c"},
  },
};

const kDarkScheme = matchMedia("(prefers-color-scheme: dark)");
let printing = false;

function currentTheme() {
  return kThemes[kDarkScheme.matches && !printing ? "dark" : "light"];
}

const kFont = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', sans-serif";

// `ramp` as plotly takes it.
function colorscale(colors) {
  return colors.map((color, i) => [i / (colors.length - 1), color]);
}

const kMarks = ["circle", "diamond", "square", "triangle-up", "x", "star", "cross", "triangle-down", "pentagon"];
