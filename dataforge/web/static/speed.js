// How long the work takes: seconds a box and an image, in this sitting and since the start.

import { get } from "./api.js";

const IDLE_S = 30; // a longer pause between two inputs is not work

const round = (value) => (value === null || !Number.isFinite(value) ? "–" : value < 10 ? value.toFixed(1) : value.toFixed(0));

export class Speed {
  #last = performance.now();
  #unsent = 0;
  #worked = 0;
  #boxes = new Set();
  #images = new Set();

  constructor() {
    for (const kind of ["keydown", "pointerdown", "pointermove", "wheel"]) {
      addEventListener(kind, () => this.#tick(), { passive: true, capture: true });
    }
    this.element = document.querySelector("#speed");
    this.dialog = document.querySelector("#speeds");
    this.dialog.querySelector("form").method = "dialog";
  }

  #tick() {
    const now = performance.now();
    const gap = (now - this.#last) / 1000;
    this.#last = now;
    if (gap > IDLE_S) return;
    this.#unsent += gap;
    this.#worked += gap;
  }

  /** Seconds worked since the last call. */
  seconds() {
    this.#tick();
    const seconds = this.#unsent;
    this.#unsent = 0;
    return Math.round(seconds * 1000) / 1000;
  }

  count(n, edits) {
    for (const { op, id } of edits) if (op === "add" || op === "set") this.#boxes.add(id);
    this.#images.add(n);
  }

  show() {
    const [boxes, images] = [this.#boxes.size, this.#images.size];
    this.element.textContent = `${round(this.#worked / boxes)} s/box · ${round(this.#worked / images)} s/image`;
  }

  async open() {
    const body = this.dialog.querySelector("tbody");
    this.dialog.showModal();
    const all = await get("/api/speed");
    this.dialog.querySelector("#speed-sum").textContent =
      `Since the start: ${all.boxes} boxes on ${all.images} images in ${round(all.seconds / 60)} minutes: ` +
      `${round(all.seconds_per_box)} s a box, ${round(all.seconds_per_image)} s an image. ` +
      `This sitting: ${this.#boxes.size} boxes on ${this.#images.size} images in ${round(this.#worked / 60)} minutes.`;
    body.replaceChildren();
    for (const { name, boxes, seconds } of all.by_class) {
      const row = body.insertRow();
      for (const text of [name, boxes, round(seconds), round(seconds / boxes)]) row.insertCell().textContent = text;
    }
  }
}
