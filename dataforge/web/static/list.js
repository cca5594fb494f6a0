// The images of the set, and which of them are wanted: by text, class, state and split.

import { get } from "./api.js";
import { part, Rows } from "./rows.js";

const PAGE = 1000;
const POLL_MS = 1000;
const COMPARED = { model: "compared by the model's features", hash: "compared by a hash of their pixels" };

export class ImageList {
  rows = []; // by n: {n, key, split, boxes, classes, state}
  wanted = []; // those that pass the filter

  constructor({ root, set, classes, open }) {
    this.root = root;
    this.current = -1;
    this.list = new Rows(root.querySelector("#image-rows"), {
      fill: (row, image) => this.#fill(row, image),
      choose: ({ n }) => open(n),
    });
    this.fields = Object.fromEntries(["text", "class", "state", "split"].map((name) => [name, root.querySelector(`#by-${name}`)]));
    for (const split of set.splits) this.fields.split.add(new Option(split, split));
    this.fields.split.hidden = set.splits.length < 2;
    this.order = root.querySelector("#by-order");
    this.note = root.querySelector("#order-note");
    if (set.proposals) this.order.append(new Option("least sure first", "unsure"), new Option("likely errors first", "errors"));
    this.order.addEventListener("input", () => this.#queue());
    this.values = new Map(); // n -> its value in the order, of those that have one
    this.pending = false; // whether others will have one
    this.classes(classes);
    for (const field of Object.values(this.fields)) field.addEventListener("input", () => this.filter());
    this.total = set.images;
  }

  classes(classes) {
    const { class: field } = this.fields;
    const chosen = field.value;
    field.replaceChildren(new Option("any class", ""), ...classes.map(({ id, name }) => new Option(name, id)));
    field.value = chosen;
  }

  /** Fetch all rows; the first page is there when this resolves. */
  async load() {
    const page = async (from) => {
      const { images } = await get(`/api/images?from=${from}&count=${PAGE}`);
      for (const image of images) this.rows[image.n] = image;
    };
    await page(0);
    this.filter();
    const rest = async () => {
      for (let from = PAGE; from < this.total; from += PAGE) {
        await page(from);
        this.filter();
      }
    };
    rest();
  }

  filter() {
    const text = this.fields.text.value.toLowerCase();
    const label = this.fields.class.value;
    const state = this.fields.state.value;
    const split = this.fields.split.value;
    this.wanted = this.rows.filter(
      (row) =>
        (!text || row.key.toLowerCase().includes(text)) &&
        (!label || row.classes.includes(Number(label))) &&
        (!state || row.state === state) &&
        (!split || row.split === split),
    );
    if (this.order.value) {
      const value = ({ n }) => this.values.get(n) ?? -1;
      this.wanted.sort((a, b) => value(b) - value(a) || a.n - b.n);
    }
    const part = this.wanted.length < this.rows.length;
    const count = part ? `${this.wanted.length} of ${this.total}` : `${this.total}`;
    this.root.querySelector("#image-count").textContent = this.pending ? `${this.values.size} of ${this.total} ranked` : count;
    this.mark(this.current);
  }

  /** Ask for the order until all images have their place. */
  async #queue() {
    const by = this.order.value;
    this.values.clear();
    this.note.textContent = "";
    this.pending = Boolean(by);
    this.filter();
    while (by) {
      const failed = ({ message }) => ({ images: [], pending: false, error: message });
      const { images, pending, by: compared, error } = await get(`/api/queue?by=${by}`).catch(failed);
      if (this.order.value !== by) return;
      this.note.textContent = error ?? COMPARED[compared] ?? "";
      for (const { n, value } of images) this.values.set(n, value);
      this.pending = pending;
      this.filter();
      if (!pending) return;
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }

  mark(n) {
    this.current = n;
    this.list.set(this.wanted, this.wanted.findIndex((row) => row.n === n));
  }

  /** What the list shows of an image has changed. */
  update(boxes) {
    const row = this.rows[boxes.n];
    if (!row) return;
    const labels = new Set();
    for (const { label } of boxes.items.values()) labels.add(label);
    Object.assign(row, { boxes: boxes.items.size, classes: [...labels], state: boxes.state });
    this.list.refresh();
  }

  /** The wanted image `steps` after the current one that passes `test`, or undefined. */
  beside(steps, test = () => true) {
    const place = this.wanted.findIndex(({ n }) => n === this.current);
    const here = place >= 0;
    const from = here ? place : this.order.value ? 0 : this.wanted.findIndex(({ n }) => n >= this.current);
    const at = from < 0 ? this.wanted.length : from;
    const after = this.wanted.slice(here ? at + 1 : at).filter(test);
    const before = this.wanted.slice(0, at).filter(test);
    return steps > 0 ? after[steps - 1] : before.at(steps);
  }

  #fill(row, { key, boxes, state }) {
    part(row, "dot").dataset.state = state;
    part(row, "dot").title = state;
    part(row, "name").textContent = key.split("/").at(-1);
    row.title = key;
    part(row, "count").textContent = boxes || "";
  }
}
