// The boxes of each image that was opened, with their steps, and whether another tab has changed them since.

import { get } from "./api.js";
import { Boxes } from "./boxes.js";

export class Documents {
  #cache = new Map(); // n -> Promise of Boxes

  /** onload(boxes) is called once for each; pending(n): whether edits are under way. */
  constructor({ onload, pending }) {
    Object.assign(this, { onload, pending });
  }

  has(n) {
    return this.#cache.has(n);
  }

  get(n) {
    if (!this.#cache.has(n)) {
      const loaded = get(`/api/images/${n}`).then((image) => {
        const boxes = new Boxes(image);
        this.onload(boxes);
        return boxes;
      });
      loaded.catch(() => this.#cache.delete(n));
      this.#cache.set(n, loaded);
    }
    return this.#cache.get(n);
  }

  /** Take what another tab has saved, unless this one has edits of its own: then the server answers with a conflict. */
  async refresh(n) {
    if (!this.has(n) || this.pending(n)) return;
    const [boxes, image] = await Promise.all([this.get(n), get(`/api/images/${n}`)]);
    if (image.revision <= boxes.revision || this.pending(n)) return;
    boxes.reset(image);
    boxes.select([...boxes.selected]);
    return boxes;
  }

  clear() {
    this.#cache.clear();
  }
}
