// The filter's fields: they show what the address says, and change it.

import { colour } from "../colours.js";
import { part, Rows } from "../rows.js";

const TYPING_MS = 200;
const SORTS = {
  number: "as stored",
  "-number": "as stored, last first",
  key: "by name",
  "-key": "by name, last first",
  boxes: "fewest boxes first",
  "-boxes": "most boxes first",
  pixels: "smallest images first",
  "-pixels": "largest images first",
};
const OF_DETECTIONS = {
  errors: "fewest errors first",
  "-errors": "most errors first",
  score: "lowest score first",
  "-score": "highest score first",
};
const OF_CHANGES = { changes: "fewest changes first", "-changes": "most changes first" };
const KINDS = { class: "wrong class", place: "wrong place", double: "twice", background: "on the background", missed: "box missed" };

export class Filters {
  constructor(root, set, state) {
    Object.assign(this, { root, set, state });
    this.fields = [...root.querySelectorAll("[name]")];
    for (const element of root.querySelectorAll("[data-detections]")) element.hidden = set.detections === null;
    const field = (name) => this.fields.find((element) => element.name === name);
    for (const split of set.splits) field("split").add(new Option(split, split));
    field("split").hidden = set.splits.length < 2;
    field("error").replaceChildren(new Option("any detection", ""));
    for (const kind of [...set.kinds, "missed"]) field("error").add(new Option(KINDS[kind] ?? kind, kind));
    field("change").hidden = set.report !== "diff";
    for (const change of ["any", ...set.changes]) field("change").add(new Option(change === "any" ? "any change" : change, change));
    const sorts = { ...SORTS, ...(set.detections !== null && OF_DETECTIONS), ...(set.report === "diff" && OF_CHANGES) };
    for (const [value, name] of Object.entries(sorts)) field("sort").add(new Option(name, value));
    let timer = null;
    let typed = {};
    root.addEventListener("input", ({ target }) => {
      if (!target.name || !target.validity.valid) return;
      if (target.tagName === "SELECT") return state.set({ [target.name]: target.value });
      typed[target.name] = target.value;
      clearTimeout(timer);
      timer = setTimeout(() => {
        state.set(typed, true);
        typed = {};
      }, TYPING_MS);
    });
    root.querySelector("#clear").addEventListener("click", () => state.clear());
    root.querySelector("#cell button").addEventListener("click", () => state.set({ cell: "" }));
    this.classes = new Rows(root.querySelector("#class-rows"), {
      fill: (row, { id, name }) => {
        part(row, "swatch").style.background = colour(id);
        part(row, "name").textContent = name;
        part(row, "count").textContent = set.counts[id].toLocaleString();
        const chosen = state.all("class").includes(name);
        row.classList.toggle("chosen", chosen);
        row.setAttribute("aria-checked", chosen);
      },
      choose: ({ name }) => {
        const chosen = state.all("class");
        state.set({ class: chosen.includes(name) ? chosen.filter((other) => other !== name) : [...chosen, name] });
      },
    });
    this.classes.set(set.classes);
  }

  show() {
    const { state, set } = this;
    for (const field of this.fields) {
      const value = state.get(field.name) || { sort: "number", conf: "0.25" }[field.name] || "";
      if (field.tagName === "SELECT" && ![...field.options].some((option) => option.value === value)) field.add(new Option(value, value));
      if (document.activeElement !== field || field.tagName === "SELECT") field.value = value;
    }
    const cell = state.get("cell");
    this.root.querySelector("#cell").hidden = !cell;
    if (cell) {
      const [truth, found] = cell.split(",").map((label) => set.classes[label]?.name ?? "background");
      this.root.querySelector("#cell span").textContent = `${truth}, detected as ${found}`;
    }
    this.classes.refresh();
  }
}
