// The boxes of one image, and their past: each step is a list of edits and the edits that take it back.
// Edits are those of the server: {op: "add" | "set" | "delete" | "state", ..}.

import { readingOrder, same } from "./geometry.js";
import { Grid } from "./grid.js";

export const FLAGS = { crowd: 1, difficult: 2, truncated: 4 };
const MERGE_MS = 700; // repeats of one key within this time are one step

export class Boxes {
  selected = new Set(); // ids; the last one is the one that keys measure by
  onchange = () => {}; // (edits, boxes whose place has to be drawn anew)

  #steps = [];
  #undone = [];
  #order = null;
  #next = 0;

  /** `image`: the answer of GET /api/images/{n}. */
  constructor(image) {
    this.n = image.n;
    this.key = image.key;
    this.width = image.width;
    this.height = image.height;
    this.polygons = new Map((image.polygons ?? []).map((polygon) => [polygon.id, polygon]));
    this.reset(image);
  }

  /** The rings of a box's polygon; none if it has no polygon, or was moved: the polygon is of the box that was there. */
  rings({ id, box }) {
    const polygon = this.polygons.get(id);
    return polygon && same(polygon.box, box) ? polygon.rings : [];
  }

  /** How many boxes have lost their polygon. */
  get leftOut() {
    const kept = ({ id, box }) => !this.items.has(id) || same(box, this.items.get(id).box);
    return [...this.polygons.values()].filter((polygon) => !kept(polygon)).length;
  }

  /** Take the server's boxes; forget steps, which may be about boxes that are no longer there. */
  reset({ revision, state, boxes }) {
    this.revision = revision;
    this.state = state;
    this.items = new Map();
    this.grid = new Grid(Math.max(this.width, this.height));
    this.#steps = [];
    this.#undone = [];
    for (const item of boxes) this.#add(item);
    for (const id of this.selected) if (!this.items.has(id)) this.selected.delete(id);
  }

  #add({ id, box, label, flags, faint }) {
    this.items.set(id, { id, box, label, flags, faint, z: this.#next++ });
    this.grid.add(id, box);
    this.#order = null;
  }

  #delete(id) {
    this.items.delete(id);
    this.grid.delete(id);
    this.selected.delete(id);
    this.#order = null;
  }

  #set(item, { box, label, flags }) {
    if (box !== undefined) {
      this.grid.delete(item.id);
      this.grid.add(item.id, box);
      item.box = box;
      this.#order = null;
    }
    item.label = label ?? item.label;
    item.flags = flags ?? item.flags;
  }

  /** Apply edits in order; return the edits that take them back. */
  #apply(edits) {
    const back = [];
    const places = [];
    for (const edit of edits) {
      const item = this.items.get(edit.id);
      if (item) places.push(item.box);
      if (edit.op === "add") {
        this.#add(edit);
        back.push({ op: "delete", id: edit.id });
      } else if (edit.op === "delete") {
        const { id, box, label, flags } = item;
        this.#delete(id);
        back.push({ op: "add", id, box, label, flags });
      } else if (edit.op === "set") {
        const before = { op: "set", id: edit.id };
        for (const name of ["box", "label", "flags"]) if (edit[name] !== undefined) before[name] = item[name];
        this.#set(item, edit);
        back.push(before);
      } else {
        back.push({ op: "state", state: this.state });
        this.state = edit.state;
      }
      const after = this.items.get(edit.id);
      if (after) places.push(after.box);
    }
    if (this.state === "new") this.state = "edited";
    this.onchange(edits, places);
    return back.reverse();
  }

  /** Make a step of edits. Steps with the same `repeat` ("move b3") in quick succession are taken back as one. */
  edit(edits, repeat = null) {
    if (!edits.length) return;
    const back = this.#apply(edits);
    const last = this.#steps.at(-1);
    const now = performance.now();
    if (repeat && last?.repeat === repeat && now - last.time < MERGE_MS && !this.#undone.length) last.time = now;
    else this.#steps.push({ back, repeat, time: now });
    this.#undone = [];
  }

  #turn(from, to) {
    const step = from.pop();
    if (!step) return false;
    const back = this.#apply(step.back);
    to.push({ back, repeat: null, time: 0 });
    const ids = step.back.filter(({ id, op }) => id && op !== "delete").map(({ id }) => id);
    this.select(ids);
    return true;
  }

  undo() {
    return this.#turn(this.#steps, this.#undone);
  }

  redo() {
    return this.#turn(this.#undone, this.#steps);
  }

  get steps() {
    return [this.#steps.length, this.#undone.length];
  }

  select(ids) {
    const before = [...this.selected].map((id) => this.items.get(id));
    this.selected = new Set(ids);
    const after = [...this.selected].map((id) => this.items.get(id));
    this.onchange([], [...before, ...after].filter(Boolean).map(({ box }) => box));
  }

  /** The box that was selected last, or undefined. */
  get current() {
    return this.items.get([...this.selected].at(-1));
  }

  order() {
    this.#order ??= readingOrder(this.items.values());
    return this.#order;
  }

  /** What lies in localStorage and on the server: plain values. */
  plain() {
    return [...this.items.values()].map(({ id, box, label, flags }) => ({ id, box, label, flags }));
  }
}

export const newId = () => crypto.randomUUID();

const equal = (a, b) => same(a.box, b.box) && a.label === b.label && a.flags === b.flags;

/** The edits that make `to` of `from`, both {boxes, state}. */
export function difference(from, to) {
  const before = new Map(from.boxes.map((item) => [item.id, item]));
  const after = new Set(to.boxes.map(({ id }) => id));
  const edits = from.boxes.filter(({ id }) => !after.has(id)).map(({ id }) => ({ op: "delete", id }));
  for (const item of to.boxes) {
    const old = before.get(item.id);
    const { id, box, label, flags } = item;
    if (!old) edits.push({ op: "add", id, box, label, flags });
    else if (!equal(old, item)) edits.push({ op: "set", id, box, label, flags });
  }
  if (from.state !== to.state) edits.push({ op: "state", state: to.state });
  return edits;
}

/** Both versions of an image in one: where they disagree about a box, theirs and a copy of mine. */
export function both(theirs, mine) {
  const known = new Map(theirs.boxes.map((item) => [item.id, item]));
  const added = mine.boxes
    .filter((item) => !known.has(item.id) || !equal(known.get(item.id), item))
    .map((item) => (known.has(item.id) ? { ...item, id: newId() } : item));
  return { state: theirs.state, boxes: [...theirs.boxes, ...added] };
}

/** Edits on boxes that have changed since: those on boxes that are no longer there are left out. */
export function rebased({ boxes, state }, edits) {
  const items = new Map(boxes.map((item) => [item.id, item]));
  for (const edit of edits) {
    if (edit.op === "state") state = edit.state;
    else if (edit.op === "delete") items.delete(edit.id);
    else if (edit.op === "add" || items.has(edit.id)) items.set(edit.id, { ...items.get(edit.id), ...edit, op: undefined });
  }
  return { boxes: [...items.values()], state };
}
