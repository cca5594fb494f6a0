// Where a model and the boxes disagree: likely mistakes of the annotation, the surest first, one key each.

import { between, isBox, iou } from "./geometry.js";
import { newId } from "./boxes.js";

const SAME = 0.5; // IoU from which a proposal and a box are one object
const TIGHT = 0.75; // IoU below which a box is loose
const CROWD = 1;
const WORDS = { missing: "missing", class: "wrong class", loose: "loose", extra: "extra" };

/**
 * Disagreements {kind, box, label, score, id}, the highest scores first and boxes that no proposal meets last.
 * `box` and `label` are what the model says; of an extra box, its own.
 */
export function disagreements(items, proposals) {
  const free = new Set(items);
  const found = [];
  const best = (proposal, test) => {
    const fitting = [...free].filter((item) => test(item) && iou(item.box, proposal.box) >= SAME);
    return fitting.sort((a, b) => iou(b.box, proposal.box) - iou(a.box, proposal.box))[0];
  };
  const ranked = [...proposals].sort((a, b) => b.score - a.score);
  const pairs = new Map();
  for (const proposal of ranked) {
    const item = best(proposal, ({ label }) => label === proposal.label);
    if (item) pairs.set(proposal, item) && free.delete(item);
  }
  for (const proposal of ranked) {
    const item = pairs.get(proposal) ?? best(proposal, () => true);
    if (!item) {
      const known = items.some((other) => other.label === proposal.label && iou(other.box, proposal.box) >= SAME);
      if (!known) found.push({ ...proposal, kind: "missing" });
    } else if (item.label !== proposal.label) found.push({ ...proposal, kind: "class", id: item.id });
    else if (iou(item.box, proposal.box) < TIGHT) found.push({ ...proposal, kind: "loose", id: item.id });
    free.delete(item);
  }
  for (const { id, box, label, flags } of free) {
    if (!(flags & CROWD) && !ranked.some((proposal) => iou(proposal.box, box) >= 0.1)) found.push({ kind: "extra", id, box, label, score: 0 });
  }
  return found;
}

/** The edits that make the boxes as the model says. */
export function correction({ kind, id, box, label }, { width, height }) {
  if (kind === "extra") return [{ op: "delete", id }];
  if (kind === "class") return [{ op: "set", id, label }];
  const inside = between(...box, width, height);
  if (!isBox(inside)) return [];
  return kind === "loose" ? [{ op: "set", id, box: inside }] : [{ op: "add", id: newId(), box: inside, label, flags: 0 }];
}

export class Review {
  on = false;
  list = [];

  #current = "";
  #advancing = false;

  /**
   * `set`: the id of the set, for what was dismissed in this browser; ghosts: of Ghosts; look(label); boxes() gives those in
   * view; show(ghost) draws it; next() shows the next image, or resolves to false; tell(text) says what is reviewed, "" for
   * the end.
   */
  constructor({ set, ghosts, look, boxes, show, next, tell }) {
    Object.assign(this, { ghosts, look, boxes, show, next, tell, key: `dismissed ${set}` });
    this.dismissed = new Set(JSON.parse(localStorage.getItem(this.key) ?? "[]"));
  }

  /** Begin or end. */
  toggle() {
    this.on = !this.on;
    this.#current = "";
    this.tell(this.on ? "review: y accepts, x dismisses" : "");
    if (this.on) this.refresh();
    else this.ghosts.update();
  }

  #name({ kind, id, box, label }) {
    return `${this.boxes().n} ${kind} ${id ?? box.map(Math.round).join(",")} ${label}`;
  }

  /** Boxes or proposals have changed: show the first disagreement, or go on to the next image. */
  refresh() {
    if (!this.on) return;
    const boxes = this.boxes();
    const proposals = this.ghosts.ready(boxes);
    if (!proposals) {
      this.tell("review: waiting for the model");
      return this.show(null);
    }
    this.list = disagreements([...boxes.items.values()], proposals).filter((one) => !this.dismissed.has(this.#name(one)));
    const [first] = this.list;
    if (!first) return this.#advance();
    const text = `${WORDS[first.kind]}: ${this.look(first.label).name}${first.score ? ` ${first.score.toFixed(2)}` : ""}`;
    this.show({ ...first, text, chosen: true });
    const name = this.#name(first);
    if (name === this.#current) return;
    this.#current = name;
    this.tell(`${text}, ${this.list.length} in this image`);
    boxes.select(first.id ? [first.id] : []);
  }

  async #advance() {
    if (this.#advancing) return;
    this.#advancing = true;
    this.#current = "";
    this.show(null);
    const further = await this.next();
    this.#advancing = false;
    if (further) this.refresh();
    else this.toggle();
  }

  accept() {
    const [first] = this.list;
    if (!first || !this.ghosts.ready(this.boxes())) return;
    const edits = correction(first, this.boxes());
    if (edits.length) this.boxes().edit(edits);
    else this.dismiss();
  }

  dismiss() {
    const [first] = this.list;
    if (!first || !this.ghosts.ready(this.boxes())) return;
    this.dismissed.add(this.#name(first));
    localStorage.setItem(this.key, JSON.stringify([...this.dismissed]));
    this.refresh();
  }
}
