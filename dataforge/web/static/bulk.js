// Boxes of one class as crops in a grid: choose those that are something else, and one key changes them.

import { get } from "./api.js";
import { keyOf } from "./keys.js";

const PAGE = 200;

export class Bulk {
  #crops = []; // {n, id, box}
  #chosen = new Set(); // indices
  #focus = 0;
  #from = 0; // where a range that Shift extends began
  #past = []; // the images of each change
  #turn = 0; // changes when other crops are to be shown, so that late answers for earlier ones are dropped

  /**
   * classes: Classes; load(n) resolves to Boxes, whose edits are sent; flush() resolves when they are saved;
   * keymap: key -> action.
   */
  constructor({ classes, load, flush, keymap }) {
    Object.assign(this, { classes, load, flush, keymap });
    this.dialog = document.querySelector("#bulk");
    this.grid = this.dialog.querySelector(".crops");
    this.field = this.dialog.querySelector("select");
    this.field.addEventListener("input", () => this.#show());
    this.dialog.querySelector("#bulk-more").addEventListener("click", () => this.#more());
    this.dialog.addEventListener("keydown", (event) => this.#key(event));
    this.grid.addEventListener("focusin", ({ target }) => (this.#focus = [...this.grid.children].indexOf(target)));
    this.grid.addEventListener("click", ({ target, shiftKey }) => {
      const cell = target.closest("[role=option]");
      if (!cell) return;
      const i = [...this.grid.children].indexOf(cell);
      if (shiftKey) this.#range(this.#from, i);
      else this.#toggle(i);
      this.#move(i);
    });
  }

  async open(label) {
    this.#past = [];
    this.field.replaceChildren(...this.classes.all.map(({ id, name }) => new Option(name, id)));
    this.field.value = label;
    this.dialog.showModal();
    await this.#show();
  }

  async #show() {
    this.#turn += 1;
    const turn = this.#turn;
    await this.flush(); // the server's list of crops is that of saved boxes
    if (turn !== this.#turn) return;
    this.#crops = [];
    this.#chosen.clear();
    this.#focus = this.#from = 0;
    this.grid.replaceChildren();
    await this.#more();
    if (turn === this.#turn) this.#move(0);
  }

  async #more() {
    const [turn, from] = [this.#turn, this.#crops.length];
    const { crops } = await get(`/api/crops?label=${this.field.value}&from=${from}&count=${PAGE}`);
    if (turn !== this.#turn || from !== this.#crops.length) return;
    for (const crop of crops) {
      const cell = document.createElement("div");
      cell.setAttribute("role", "option");
      cell.tabIndex = -1;
      cell.setAttribute("aria-label", `image ${crop.n + 1}`);
      const image = new Image(96, 96);
      image.loading = "lazy";
      image.alt = "";
      image.src = `/crop/${crop.n}?box=${crop.box.join(",")}&size=96`;
      cell.append(image);
      this.grid.append(cell);
    }
    this.#crops.push(...crops);
    this.dialog.querySelector("#bulk-more").hidden = crops.length < PAGE;
    this.#mark();
  }

  #mark() {
    [...this.grid.children].forEach((cell, i) => cell.setAttribute("aria-selected", this.#chosen.has(i)));
    const { length } = this.#crops;
    this.dialog.querySelector("#bulk-count").textContent = length
      ? `${this.#chosen.size} of ${length} selected`
      : "no box has this class";
  }

  #move(i) {
    const { children } = this.grid;
    if (!children.length) return;
    this.#focus = Math.min(Math.max(i, 0), children.length - 1);
    children[this.#focus].focus();
  }

  #toggle(i) {
    if (!this.#chosen.delete(i)) this.#chosen.add(i);
    this.#from = i;
    this.#mark();
  }

  #range(a, b) {
    for (let i = Math.min(a, b); i <= Math.max(a, b); i += 1) this.#chosen.add(i);
    this.#mark();
  }

  #columns() {
    const cells = [...this.grid.children];
    const next = cells.findIndex((cell) => cell.offsetTop > cells[0].offsetTop);
    return next < 0 ? cells.length : next;
  }

  #key(event) {
    const key = keyOf(event);
    const action = this.keymap.get(key);
    const bare = event.key;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.#columns(), ArrowDown: this.#columns() }[bare];
    if (event.target === this.field || (event.target.tagName === "BUTTON" && bare === "Enter")) return;
    const digit = /^class-(\d+)$/.exec(action ?? "");
    if (step && this.#crops.length) {
      const to = Math.min(Math.max(this.#focus + step, 0), this.#crops.length - 1);
      if (event.shiftKey) this.#range(this.#focus, to);
      this.#move(to);
    } else if (bare === " ") this.#toggle(this.#focus);
    else if (action === "select-all") this.#range(0, this.#crops.length - 1);
    else if (action === "undo") this.#undo();
    else if (digit) this.#relabel(this.classes.all[digit[1] - 1]?.id);
    else if (action === "class-search") this.classes.search().then((label) => this.#relabel(label));
    else return;
    event.preventDefault();
  }

  async #relabel(label) {
    if (!this.classes.all.some(({ id }) => id === label)) return;
    const byImage = Map.groupBy([...this.#chosen].map((i) => this.#crops[i]), ({ n }) => n);
    if (!byImage.size || label === Number(this.field.value)) return;
    const changed = [];
    for (const [n, crops] of byImage) {
      const boxes = await this.load(n);
      boxes.edit(crops.filter(({ id }) => boxes.items.has(id)).map(({ id }) => ({ op: "set", id, label })));
      changed.push(boxes);
    }
    this.#past.push(changed);
    const focus = this.#focus;
    await this.#show();
    this.#move(focus);
  }

  async #undo() {
    for (const boxes of this.#past.pop() ?? []) boxes.undo();
    await this.#show();
  }
}
