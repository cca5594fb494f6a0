// Statistics of the images that are asked for: tables, and charts that the server draws.

import { get } from "../api.js";
import { heading, link, table, wide } from "./tables.js";

const NAMES = { splits: "Splits", classes: "Classes", spreads: "Sizes and shapes" };

export async function showStatistics(dialog, state) {
  const query = state.query();
  const content = dialog.querySelector(".content");
  const facts = await get(`/api/statistics?${query}`);
  const areas = Object.entries(facts.areas).map(([size, count]) => `${count.toLocaleString()} ${size}`).join(", ");
  dialog.querySelector("span").textContent = `${facts.images.toLocaleString()} images, ${facts.boxes.toLocaleString()} boxes: ${areas}`;
  const parts = Object.entries(NAMES).flatMap(([name, title]) => [
    heading(title),
    wide(table(facts[name].head, facts[name].rows, (value, i, j) => (j ? value : first(name, value, state)))),
  ]);
  const charts = facts.charts.map((name) => {
    const image = new Image();
    image.loading = "lazy";
    image.alt = `Chart: ${name.replaceAll("_", " ")}`;
    image.src = `/chart?${query}${query && "&"}name=${name}`;
    return image;
  });
  content.replaceChildren(...parts, heading("Charts"), ...charts);
}

/** Names of splits and classes lead to their images. */
function first(table, value, state) {
  if (table === "spreads") return value;
  return link(state.link({ [table === "splits" ? "split" : "class"]: value, panel: "", n: "" }), value);
}
