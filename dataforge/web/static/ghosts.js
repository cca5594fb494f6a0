// A model's proposals for the image in view: drawn dashed, and no boxes until a key accepts them.

import { get } from "./api.js";
import { area, contains, iou, readingOrder } from "./geometry.js";

const POLL_MS = 400;
const SAME = 0.7; // IoU from which a proposal of a box's class is that box

export class Ghosts {
  #boxes = null;
  #all = [];
  #pending = true;

  /** onchange(ghosts) is called with those to draw, in reading order; say(text) where the model has failed. */
  constructor({ slider, onchange, say }) {
    Object.assign(this, { slider, onchange, say });
    slider.addEventListener("input", () => this.update());
  }

  /** Ask for the proposals of an image, until they are there or another image is shown. */
  async show(boxes) {
    this.#boxes = boxes;
    this.#all = [];
    this.#pending = true;
    this.update();
    for (;;) {
      const answer = await get(`/api/proposals/${boxes.n}`).catch(({ message }) => ({ boxes: [], error: message }));
      if (this.#boxes !== boxes) return;
      if (answer.error) this.say(answer.error);
      this.#all = answer.boxes;
      this.#pending = answer.pending || Boolean(answer.error);
      this.update();
      if (!answer.pending) return;
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }

  /** Those above the slider that are not boxes already. */
  update() {
    const { grid, items } = this.#boxes;
    const known = ({ box, label }) =>
      [...grid.meeting(box)].some((id) => items.get(id).label === label && iou(items.get(id).box, box) > SAME);
    this.shown = readingOrder(this.#all.filter((ghost) => ghost.score >= this.slider.value && !known(ghost)));
    this.onchange(this.shown);
  }

  /** All above the slider, once those of an image are there; else null. */
  ready(boxes) {
    return this.#pending || boxes !== this.#boxes ? null : this.#all.filter(({ score }) => score >= this.slider.value);
  }

  /** Take away and return the one at a place, or the first; or all that are shown. */
  take(place, all = false) {
    const under = place && this.shown.filter(({ box }) => contains(box, ...place)).sort((a, b) => area(a.box) - area(b.box))[0];
    const taken = all ? this.shown : [under ?? this.shown[0]].filter(Boolean);
    this.#all = this.#all.filter((ghost) => !taken.includes(ghost));
    this.update();
    return taken;
  }
}
