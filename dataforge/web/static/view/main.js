// The page of `dataforge view`: shows what the address asks for, and what keys and buttons change of it.

import { get } from "../api.js";
import { colour } from "../colours.js";
import { keyOf } from "../keys.js";
import { applyTheme, nextTheme } from "../theme.js";
import { showErrors } from "./errors.js";
import { Filters } from "./filters.js";
import { Grid } from "./grid.js";
import { Lint } from "./lint.js";
import { showReport } from "./report.js";
import { Single } from "./single.js";
import { State } from "./state.js";
import { showStatistics } from "./statistics.js";

const TILE = 184; // pixels
const $ = (selector) => document.querySelector(selector);
applyTheme();
const set = await get("/api/set");
document.title = $("#title").textContent = set.title;

const look = (label) => ({ name: set.classes[label]?.name ?? `class ${label}`, colour: colour(label) });
const state = new State(set.classes, () => show());
const filters = new Filters($("#filters"), set, state);
const grid = new Grid($("#grid"), { link: ({ n }) => state.link({ n, panel: "" }), onerror: complain });
const single = new Single(set, { look, about: (code) => lint.codes.get(code)?.meaning ?? "" });
const lint = new Lint({
  field: $("[name=lint]"),
  note: $("#lint-note"),
  onfinish() {
    asked = null; // what was listed may be other images now
    show();
  },
});
const panels = { statistics: (dialog) => showStatistics(dialog, state), errors: (dialog) => showErrors(dialog, set, state), report: (dialog) => showReport(dialog, set, state), help: () => {} };

// ---- what is shown

let asked = null; // the filter of the grid

function complain(error) {
  $("#message").textContent = error.message;
}

async function show() {
  filters.show();
  if (state.get("lint")) lint.check();
  $("#tile").value = state.get("tile") || TILE;
  grid.resize(Number($("#tile").value));
  pictures(state.get("seed"));
  const query = state.query();
  const other = query !== asked;
  asked = query;
  await Promise.all([other && list(query), open(query), panel()]);
}

async function list(query) {
  const answer = await grid.ask(query);
  if (!answer) return;
  const { total, boxes } = answer;
  const part = total < set.images ? ` of ${set.images.toLocaleString()}` : "";
  const [images, more] = $("#count").children;
  images.textContent = total.toLocaleString() + part;
  more.textContent = ` images, ${boxes.toLocaleString()} boxes`;
  $("#message").textContent = total || (state.get("lint") && !lint.codes.size) ? "" : "No image is as asked for.";
}

/** Where tiles get their pictures: as stored, or augmented with a seed. */
function pictures(seed) {
  const augmented = set.recipe && seed !== "";
  if (grid.picture.seed === (augmented ? seed : null)) return;
  const of = `&of=${set.fingerprint}`;
  grid.picture = (n, size) => (augmented ? `/augmented/${n}?size=${size}&seed=${seed}${of}` : `/thumbnail/${n}?size=${size}${of}`);
  grid.picture.plain = !augmented;
  grid.picture.seed = augmented ? seed : null;
  const [on, number] = $("#augment").querySelectorAll("input");
  on.checked = augmented;
  number.value = seed || 0;
  number.disabled = !augmented;
  grid.refresh();
}

async function open(query) {
  const n = state.get("n");
  $("#grid").hidden = n !== "";
  if (n === "") {
    if (!single.root.hidden) $("#grid").focus();
    single.close();
    grid.refresh();
    return;
  }
  const began = single.root.hidden;
  await single.open(n, query, grid.picture.plain ? "" : grid.picture(n, 1024));
  if (began) $("#stage").focus();
}

async function panel() {
  const wanted = state.get("panel");
  for (const [name, fill] of Object.entries(panels)) {
    const dialog = document.getElementById(name);
    if (name !== wanted) {
      dialog.close();
    } else if (!dialog.open) {
      dialog.showModal();
      await Promise.resolve(fill(dialog)).catch(({ message }) => (dialog.querySelector(".content").textContent = message));
    }
  }
}

// ---- what changes it

const go = (n) => n !== null && n !== undefined && state.set({ n }, true);
const toggle = (name) => {
  grid.shown = { ...grid.shown, [name]: !grid.shown[name] };
  single.shown = grid.shown;
  grid.refreshAll();
  single.draw();
};
const seed = () => set.recipe && state.set({ seed: state.get("seed") === "" ? 0 : "" });
const zoom = (factor) => {
  if (single.facts) return factor ? single.stage.zoom(factor) : single.stage.fit();
  if (factor) state.set({ tile: Math.min(Math.max(Math.round((grid.side * factor) / 8) * 8, 96), 512) }, true);
};
const keys = {
  Escape: () => (single.root.hidden ? $("#grid").focus() : state.set({ n: "" })),
  "+": () => zoom(1.25),
  "=": () => zoom(1.25),
  "-": () => zoom(0.8),
  0: () => zoom(0),
  h: () => toggle("boxes"),
  p: () => toggle("found"),
  a: seed,
  r: () => state.get("seed") !== "" && state.set({ seed: Number(state.get("seed")) + 1 }, true),
  s: () => state.set({ panel: "statistics" }),
  e: () => set.detections !== null && state.set({ panel: "errors" }),
  d: () => set.report && state.set({ panel: "report" }),
  "?": () => state.set({ panel: "help" }),
  "/"() {
    document.body.classList.add("filtering");
    $("[name=text]").focus();
  },
  "Shift+t": nextTheme,
};

addEventListener("keydown", (event) => {
  if (event.defaultPrevented || document.querySelector("dialog[open]")) return;
  const typing = event.target.closest("input:not([type=range]):not([type=checkbox]), select");
  if (typing) {
    if (event.key === "Escape") $("#grid").focus();
    return;
  }
  if (!single.root.hidden && !event.target.closest("#box-rows")) {
    const step = { ArrowLeft: "before", ArrowRight: "after", PageUp: "before", PageDown: "after" }[event.key];
    if (step && single.facts) {
      event.preventDefault();
      return go(single.facts[step]);
    }
  }
  const action = keys[keyOf(event)];
  if (!action) return;
  event.preventDefault();
  action();
});
$("#back").addEventListener("click", () => state.set({ n: "" }));
$("#previous").addEventListener("click", () => go(single.facts?.before));
$("#next").addEventListener("click", () => go(single.facts?.after));
$("#theme").addEventListener("click", nextTheme);
$("#tile").addEventListener("input", ({ target }) => state.set({ tile: target.value }, true));
$("#show-filters").addEventListener("click", ({ currentTarget }) => {
  currentTarget.setAttribute("aria-expanded", document.body.classList.toggle("filtering"));
});
$("#augment").hidden = !set.recipe;
$("#augment").addEventListener("input", ({ target }) => {
  if (target.type === "checkbox") seed();
  else if (target.value !== "" && target.validity.valid) state.set({ seed: target.value }, true);
});
for (const button of document.querySelectorAll("[data-panel]")) {
  button.hidden = { errors: set.detections === null, report: !set.report }[button.dataset.panel] ?? false;
  button.addEventListener("click", () => state.set({ panel: button.dataset.panel }));
}
for (const name of Object.keys(panels)) {
  document.getElementById(name).addEventListener("close", () => state.get("panel") === name && state.set({ panel: "" }));
}

if (set.report && !location.hash) state.set({ panel: "report", change: set.report === "diff" ? "any" : "" }, true);
await show();
if (state.get("n") === "" && !state.get("panel")) $("#grid").focus();
document.documentElement.dataset.ready = "";

/** For tests and measurements. */
export const inside = { grid, single, state };
