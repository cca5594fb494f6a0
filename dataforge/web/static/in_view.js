// Which image is in view, what opens another one, and what replaces its boxes from outside.

import { get } from "./api.js";
import { both, Boxes, difference, rebased } from "./boxes.js";
import { choose } from "./conflict.js";

const LATE_MS = 120; // a picture that takes longer is shown after its boxes
const PASSING = ["next", "previous", "next-unlabelled"]; // what need not wait for an image on its way
const NOTHING = { revision: 0, state: "new", boxes: [] };

export class InView {
  boxes = new Boxes({ n: -1, key: "", width: 1, height: 1, ...NOTHING });
  left = null; // {n, ids}: the image that was in view before, and what was selected in it

  #opening = null; // names the latest open() under way
  #waiting = []; // actions that are for the image under way

  /** `proposed(boxes)` asks a model for its boxes; `later()` brings the panels up to date; `look(label)` as for Stage. */
  constructor({ stage, pointer, list, documents, pictures, proposed, look, later, say }) {
    Object.assign(this, { stage, pointer, list, documents, pictures, proposed, look, later, say });
  }

  async open(n) {
    const wanted = (this.#opening = Symbol(n));
    this.list.mark(n); // so that a key pressed meanwhile goes on from there
    try {
      await this.#bring(n, () => this.#opening === wanted);
    } finally {
      if (this.#opening === wanted) {
        this.#opening = null;
        for (const [action, work] of this.#waiting.splice(0)) this.act(action, work);
      }
    }
  }

  /** Do the work of an action, once the image that it is for is there. */
  act(action, work) {
    if (this.#opening && (this.#waiting.length || !PASSING.includes(action))) this.#waiting.push([action, work]);
    else work();
  }

  go(row) {
    if (row) return this.open(row.n);
    this.say("no further image");
  }

  /** Show an image, as long as it is the one that is wanted. */
  async #bring(n, wanted) {
    const { stage, list, documents, pictures } = this;
    this.pointer.cancel();
    const picture = pictures.get(n);
    const [loaded, quick] = await Promise.all([
      documents.get(n),
      Promise.race([picture.catch(() => null), new Promise((resolve) => setTimeout(resolve, LATE_MS, null))]),
    ]).catch((error) => [this.#unreadable(n, error)]);
    if (!wanted()) return;
    if (this.boxes.n !== n) this.left = { n: this.boxes.n, ids: [...this.boxes.selected] };
    this.boxes = loaded;
    stage.show(loaded, quick);
    if (!loaded.wrong) this.proposed(loaded);
    this.later();
    history.replaceState(null, "", `#${n + 1}`);
    this.#tell(loaded.wrong ?? "");
    if (loaded.wrong) return;
    documents.refresh(n).then((other) => other && list.update(other), () => {});
    const near = [list.beside(1), list.beside(2), list.beside(-1)].filter(Boolean).map((row) => row.n);
    for (const other of near) documents.get(other).catch(() => {});
    pictures.prefetch([...near.reverse(), n]);
    if (!quick) this.#showLate(loaded, picture);
  }

  async #showLate(loaded, picture) {
    const late = await picture.catch((error) => error);
    if (loaded !== this.boxes) return;
    if (late instanceof Error) this.#tell(`The browser cannot show this picture: ${late.message}`);
    else this.stage.show(loaded, late);
  }

  #tell(text) {
    document.querySelector("#wrong").textContent = text;
  }

  /** What stands in for an image that the server cannot give: it can be passed over, not edited. */
  #unreadable(n, { message }) {
    const { key } = this.list.rows[n];
    const blank = new Boxes({ n, key, width: 1, height: 1, ...NOTHING });
    return Object.assign(blank, { wrong: `This image cannot be opened: ${message}` });
  }

  /** An image was changed on both sides. Resolves to the edits that make the server's version what the user wants. */
  async settle(n, edits, { revision, boxes: saved, state }) {
    const loaded = await this.documents.get(n);
    const theirs = { boxes: saved, state };
    const mine = loaded.revision < revision ? { boxes: loaded.plain(), state: loaded.state } : rebased(theirs, edits);
    const picture = await this.pictures.get(n).catch(() => null);
    const choice = await choose({ image: loaded, picture, theirs, mine, look: this.look });
    const kept = { theirs, mine, both: both(theirs, mine) }[choice];
    this.#take(loaded, { revision, ...kept });
    return difference(theirs, kept);
  }

  /** Show the boxes that the server has of an image, in place of those that it refused. */
  async restore(n) {
    if (this.documents.has(n)) this.#take(await this.documents.get(n), await get(`/api/images/${n}`));
  }

  /** Show an image's boxes as they are now on the server, or as the user chose. */
  #take(loaded, image) {
    loaded.reset(image);
    loaded.select([...loaded.selected]);
    this.list.update(loaded);
    if (loaded === this.boxes) {
      this.stage.redraw();
      this.later();
    }
  }
}
