// A report that a command saved: its tables, whose first column leads to the images.

import { get } from "../api.js";
import { heading, link, table, wide } from "./tables.js";

const COMMANDS = { diff: "Differences", lint: "Findings", stats: "Statistics as saved" };

export async function showReport(dialog, set, state) {
  const { kind, about, tables } = await get("/api/report");
  dialog.querySelector("h2").textContent = COMMANDS[kind];
  dialog.querySelector("span").textContent = about;
  const known = { change: set.changes, split: set.splits, class: set.classes.map(({ name }) => name) };
  const parts = tables.flatMap(({ title, head, rows, field }) => {
    const to = (value) => link(state.link({ change: "", lint: "", class: "", split: "", panel: "", n: "", [field]: value }), value);
    const linked = (value) => (field && (known[field]?.includes(value) ?? true) ? to(value) : value);
    const element = table(head, rows, (value, i, j) => (j ? value : linked(value)));
    element.className = kind;
    return [heading(title), wide(element)];
  });
  dialog.querySelector(".content").replaceChildren(...parts);
}
