// One image of the grid: its picture, and its boxes drawn over it.

import { colour } from "../colours.js";

export class Tile {
  #size = 0;
  #source = "";

  constructor(parent) {
    this.root = document.createElement("a");
    this.root.className = "tile";
    this.root.setAttribute("role", "option");
    this.root.tabIndex = -1;
    this.image = document.createElement("img");
    this.image.alt = "";
    this.image.decoding = "async";
    this.image.addEventListener("error", () => this.root.classList.add("broken"));
    this.canvas = document.createElement("canvas");
    this.pen = this.canvas.getContext("2d");
    this.name = document.createElement("span");
    this.root.append(this.image, this.canvas, this.name);
    parent.append(this.root);
  }

  /** Show a picture's address; "" for none yet. */
  picture(source) {
    if (source === this.#source) return;
    this.#source = source;
    this.root.classList.remove("broken");
    if (source) this.image.src = source;
    else this.image.removeAttribute("src");
  }

  /** Draw the boxes of a row of the API into a square of `side` CSS pixels; no row draws nothing. */
  draw(row, side, { boxes, found, correct }) {
    const { pen, canvas } = this;
    const ratio = devicePixelRatio;
    if (this.#size !== side * ratio) canvas.width = canvas.height = this.#size = side * ratio;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, side, side);
    if (!row) return;
    const scale = Math.min(side / row.width, side / row.height);
    const left = (side - row.width * scale) / 2;
    const top = (side - row.height * scale) / 2;
    const stroke = ([x1, y1, x2, y2]) =>
      pen.strokeRect(left + x1 * scale, top + y1 * scale, Math.max((x2 - x1) * scale, 1), Math.max((y2 - y1) * scale, 1));
    pen.lineWidth = 1.5;
    if (boxes) {
      for (const [x1, y1, x2, y2, label, flags, fits] of row.boxes) {
        pen.globalAlpha = fits ? 1 : 0.25;
        pen.setLineDash(flags ? [5, 2] : []);
        pen.strokeStyle = colour(label);
        stroke([x1, y1, x2, y2]);
      }
    }
    pen.globalAlpha = 1;
    if (boxes) {
      pen.setLineDash([8, 5]);
      for (const [x1, y1, x2, y2, label] of row.others) {
        pen.strokeStyle = colour(label);
        stroke([x1, y1, x2, y2]);
      }
    }
    pen.setLineDash([2, 2]);
    if (found) {
      for (const [x1, y1, x2, y2, label, , kind] of row.found) {
        pen.globalAlpha = kind === correct ? 0.5 : 1;
        pen.lineWidth = kind === correct ? 1.5 : 2.5;
        pen.strokeStyle = colour(label);
        stroke([x1, y1, x2, y2]);
      }
    }
  }
}
