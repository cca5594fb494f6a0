// What stands around the image: its name and state, its boxes, the classes, and messages.

import { FLAGS } from "./boxes.js";
import { part, Rows } from "./rows.js";

const LATER_MS = 60;
const $ = (selector) => document.querySelector(selector);
const flagNames = (flags) => Object.keys(FLAGS).filter((name) => flags & FLAGS[name]);

export function say(text) {
  $("#say").textContent = text;
}

export function tell(text) {
  const dialog = $("#tell");
  dialog.querySelector("p").textContent = text;
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
}

/** Show how much is saved, in a word and perhaps a text. */
export function saving(word, text) {
  const status = $("#status");
  const full = text ? `${word}: ${text}` : word;
  if (status.textContent !== full) status.textContent = full;
  status.title = full;
  status.dataset.word = word;
}

export class Panels {
  #timer = null;
  #said = null; // the box that was read out last

  /** `images`: their number; boxes() gives those in view; choose(id) shows one of them. */
  constructor({ images, boxes, classes, speed, choose }) {
    Object.assign(this, { images, boxes, classes, speed });
    this.rows = new Rows($("#box-rows"), { fill: (row, item) => this.#fill(row, item), choose: ({ id }) => choose(id) });
  }

  /** Bring the panels up to date, once for many changes and after the image is painted. */
  later() {
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      this.#show();
    }, LATER_MS);
  }

  #fill(row, { label, box, flags, id }) {
    const { name, colour } = this.classes.look(label);
    part(row, "swatch").style.background = colour;
    part(row, "name").textContent = name;
    part(row, "flags").textContent = flagNames(flags).map((word) => word[0].toUpperCase()).join("");
    part(row, "flags").title = flagNames(flags).join(", ");
    part(row, "count").textContent = `${Math.round(box[2] - box[0])}×${Math.round(box[3] - box[1])}`;
    row.classList.toggle("chosen", this.boxes().selected.has(id));
  }

  #show() {
    const { classes } = this;
    const boxes = this.boxes();
    const order = boxes.order();
    const { current, selected } = boxes;
    const at = order.indexOf(current);
    this.rows.set(order, at);
    $("#box-count").textContent = order.length;
    const { leftOut } = boxes;
    const which = leftOut > 1 ? `${leftOut} boxes were moved or resized: their polygons are` : "A box was moved or resized: its polygon is";
    $("#left-out").textContent = leftOut ? `${which} left out.` : "";
    classes.show(order);
    $("#position").textContent = `${boxes.n + 1} / ${this.images}`;
    $("#key").textContent = boxes.key;
    $("#key").title = boxes.key;
    $("#state").textContent = boxes.state;
    $("#state").dataset.state = boxes.state;
    const [steps, undone] = boxes.steps;
    for (const button of document.querySelectorAll("[data-action=undo]")) button.disabled = !steps;
    for (const button of document.querySelectorAll("[data-action=redo]")) button.disabled = !undone;
    for (const button of document.querySelectorAll("[data-needs-box]")) button.disabled = !current;
    $("#about").textContent = current ? this.#about(current, at, order.length, selected.size) : "";
    if (current && this.#said !== current) say($("#about").textContent);
    this.#said = current;
    const { name, colour } = classes.look(classes.current);
    $("#next-class").textContent = name;
    $("#next-swatch").style.background = colour;
    this.speed.show();
  }

  #about({ label, box, flags }, at, count, selected) {
    const [x1, y1, x2, y2] = box.map((value) => Math.round(value * 10) / 10);
    const size = `${(x2 - x1).toFixed(1)} × ${(y2 - y1).toFixed(1)} px at ${x1}, ${y1}`;
    const more = selected > 1 ? `${selected} selected · ` : "";
    return [`${more}box ${at + 1} of ${count}`, this.classes.look(label).name, size, ...flagNames(flags)].join(" · ");
  }
}
