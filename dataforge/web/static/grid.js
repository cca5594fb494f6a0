// Which boxes meet a rectangle, without asking all: a grid for each power of two of box size, so that a box lies in at
// most four cells of its grid.

import { meets } from "./geometry.js";

const LEVELS = 12;

export class Grid {
  #side;
  #cells = new Map();
  #boxes = new Map();

  /** `side`: the image's longer side, in pixels. */
  constructor(side) {
    this.#side = side;
  }

  #level([x1, y1, x2, y2]) {
    const size = Math.max(x2 - x1, y2 - y1, this.#side / 2 ** LEVELS);
    return Math.max(0, Math.min(LEVELS, Math.floor(Math.log2(this.#side / size))));
  }

  *#keys(level, [x1, y1, x2, y2]) {
    const cell = this.#side / 2 ** level;
    for (let row = Math.floor(y1 / cell); row <= Math.floor(y2 / cell); row += 1) {
      for (let column = Math.floor(x1 / cell); column <= Math.floor(x2 / cell); column += 1) {
        yield (level * 8192 + row) * 8192 + column;
      }
    }
  }

  add(id, box) {
    this.#boxes.set(id, box);
    for (const key of this.#keys(this.#level(box), box)) {
      if (!this.#cells.has(key)) this.#cells.set(key, new Set());
      this.#cells.get(key).add(id);
    }
  }

  delete(id) {
    const box = this.#boxes.get(id);
    this.#boxes.delete(id);
    for (const key of this.#keys(this.#level(box), box)) {
      const ids = this.#cells.get(key);
      ids.delete(id);
      if (!ids.size) this.#cells.delete(key);
    }
  }

  /** The ids of all boxes that meet `area`. */
  meeting(area) {
    const clipped = area.map((value) => Math.min(Math.max(value, 0), this.#side));
    const found = new Set();
    for (let level = 0; level <= LEVELS; level += 1) {
      const cell = this.#side / 2 ** level;
      const cells = ((clipped[2] - clipped[0]) / cell + 1) * ((clipped[3] - clipped[1]) / cell + 1);
      if (cells > this.#boxes.size) {
        for (const [id, box] of this.#boxes) if (meets(box, area)) found.add(id);
        break; // asking all boxes is cheaper than the cells of this and finer grids
      }
      for (const key of this.#keys(level, clipped)) {
        for (const id of this.#cells.get(key) ?? []) if (meets(this.#boxes.get(id), area)) found.add(id);
      }
    }
    return found;
  }
}
