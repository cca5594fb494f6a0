// The confusion matrix and the kinds of errors; each number leads to its images.

import { get } from "../api.js";
import { heading, link, table, wide } from "./tables.js";

const MOST = 24; // classes of a matrix; with more, only cells off the diagonal are listed
const LISTED = 200;
const MEANINGS = {
  correct: "the box's class, IoU ≥ 0.5, one to one",
  class: "a box of another class, IoU ≥ 0.5",
  place: "a box of the class, IoU from 0.1 to 0.5",
  double: "a box that another detection has",
  background: "no box",
  ignored: "a crowd or difficult box",
  missed: "boxes without a detection",
};

export async function showErrors(dialog, set, state) {
  const { cells, kinds } = await get(`/api/errors?${state.query()}`);
  const conf = state.get("conf") || "0.25";
  dialog.querySelector("span").textContent = `of all images, detections from a score of ${conf} on`;
  const to = (changes) => state.link({ cell: "", error: "", class: "", sort: "-score", panel: "", n: "", ...changes });
  const rows = kinds.map(({ kind, count }) => [kind, count, MEANINGS[kind]]);
  const kindTable = table(["detections", "number", ""], rows, (value, i, j) =>
    j === 1 ? link(to({ error: rows[i][0] }), value.toLocaleString()) : value,
  );
  kindTable.className = "kinds";
  const names = [...set.classes.map(({ name }) => name), "background"];
  const matrix = names.length - 1 <= MOST ? asMatrix(cells, names, to) : asList(cells, names, to);
  dialog.querySelector(".content").replaceChildren(heading("Kinds"), kindTable, heading("True class, and class detected"), matrix);
}

function asMatrix(cells, names, to) {
  const counts = names.map(() => names.map(() => 0));
  for (const { true: truth, found, count } of cells) counts[truth][found] = count;
  const rows = counts.map((row, truth) => [names[truth], ...row]);
  const element = table(["true \\ detected", ...names], rows, (value, i, j) =>
    j && value ? link(to({ cell: `${i},${j - 1}` }), value.toLocaleString()) : j ? "" : value,
  );
  element.className = "matrix";
  const bodyRows = element.tBodies[0].rows;
  counts.forEach((row, i) => {
    const sum = row.reduce((total, count) => total + count, 0);
    row.forEach((count, j) => {
      const cell = bodyRows[i].cells[j + 1];
      cell.style.setProperty("--share", count / (sum || 1));
      cell.classList.toggle("right", i === j);
      cell.title = `${names[i]}, detected as ${names[j]}: ${count} of ${sum}`;
    });
  });
  return wide(element);
}

function asList(cells, names, to) {
  const wrong = cells.filter(({ true: truth, found }) => truth !== found).sort((a, b) => b.count - a.count);
  const rows = wrong.slice(0, LISTED).map(({ true: truth, found, count }) => [names[truth], names[found], count]);
  const element = table(["true", "detected as", "number"], rows, (value, i, j) =>
    j === 2 ? link(to({ cell: `${wrong[i].true},${wrong[i].found}` }), value.toLocaleString()) : value,
  );
  const more = wrong.length - rows.length;
  if (more > 0) element.createCaption().textContent = `${more} rarer ones are not listed`;
  return element;
}
