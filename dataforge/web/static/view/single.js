// One image: with its boxes, what a model detected, and what lint says.

import { get } from "../api.js";
import { Boxes, FLAGS } from "../boxes.js";
import { Stage } from "../draw.js";
import { Pictures } from "../pictures.js";
import { part, Rows } from "../rows.js";

const $ = (selector) => document.querySelector(selector);
const WORDS = { class: "wrong class", place: "wrong place", double: "twice", background: "background" };

export class Single {
  facts = null; // of the image that is shown
  shown = { boxes: true, found: true };

  #wanted = null;
  #boxes = null;
  #chosen = null;

  /** look(label) gives {name, colour}; about(code) what a finding's code means. */
  constructor(set, { look, about }) {
    Object.assign(this, { set, look, about });
    this.root = $("#single");
    this.stage = new Stage($("#stage"), look);
    this.stage.first = false;
    this.image = $("#stage img");
    const { stage } = this;
    this.pictures = new Pictures(() => ({ width: stage.size.width * stage.dpr, height: stage.size.height * stage.dpr }));
    this.rows = new Rows($("#box-rows"), { fill: (row, item) => this.#fill(row, item), choose: (item) => this.#choose(item) });
    this.#listen(stage);
  }

  #listen(stage) {
    let from = null;
    const pointers = stage.root;
    pointers.addEventListener("wheel", (event) => {
      event.preventDefault();
      const { left, top } = pointers.getBoundingClientRect();
      stage.zoom(2 ** (-event.deltaY / 300), event.clientX - left, event.clientY - top);
    });
    pointers.addEventListener("pointerdown", (event) => {
      from = [event.clientX, event.clientY];
      pointers.setPointerCapture(event.pointerId);
    });
    pointers.addEventListener("pointermove", ({ clientX, clientY }) => {
      if (!from) return;
      stage.pan(clientX - from[0], clientY - from[1]);
      from = [clientX, clientY];
    });
    for (const end of ["pointerup", "pointercancel"]) pointers.addEventListener(end, () => (from = null));
  }

  close() {
    this.#wanted = null;
    this.root.hidden = true;
    this.facts = null;
  }

  /** Show image n among those of a query; `augmented` is the address of a picture to show instead, or "". */
  async open(n, query, augmented) {
    const wanted = (this.#wanted = {});
    this.root.hidden = false;
    const picture = this.pictures.get(n).catch((error) => error);
    let facts;
    try {
      facts = await get(`/api/images/${n}?${query}`);
    } catch (error) {
      if (this.#wanted === wanted) $("#facts").textContent = `This image cannot be shown: ${error.message}`;
      return;
    }
    if (this.#wanted !== wanted) return;
    const other = this.facts?.n !== n;
    this.facts = facts;
    const items = facts.boxes.map(([x1, y1, x2, y2, label, flags, fits], i) => ({ id: `${i}`, box: [x1, y1, x2, y2], label, flags, faint: !fits }));
    if (other) this.#chosen = null;
    const polygons = facts.polygons.map((rings, i) => ({ ...items[i], rings })).filter(({ rings }) => rings.length);
    this.#boxes = new Boxes({ ...facts, boxes: items, polygons, revision: 0, state: "new" });
    this.image.hidden = !augmented;
    if (augmented) this.image.src = augmented;
    else this.image.removeAttribute("src");
    this.#panel(facts, items);
    const loaded = await picture;
    if (this.#wanted !== wanted) return;
    if (loaded instanceof Error) $("#facts").textContent += ` · the browser cannot show this picture: ${loaded.message}`;
    this.stage.show(this.#boxes, loaded instanceof Error ? null : loaded);
    this.draw();
    this.pictures.prefetch([facts.before, facts.after, n].filter((near) => near !== null));
  }

  draw() {
    const { stage, facts } = this;
    stage.hidden = !this.shown.boxes && !this.shown.found;
    stage.root.querySelectorAll("canvas")[1].hidden = stage.hidden || !this.image.hidden;
    if (!facts || !this.#boxes) return;
    const found = facts.found.map(([x1, y1, x2, y2, label, score, kind], i) => ({
      box: [x1, y1, x2, y2],
      label,
      text: `${this.look(label).name} ${score.toFixed(2)} ${WORDS[this.set.kinds[kind]] ?? ""}`.trim(),
      chosen: this.#chosen === `found ${i}`,
    }));
    const others = facts.others.map(([x1, y1, x2, y2, label, text], i) => ({
      box: [x1, y1, x2, y2],
      label,
      text,
      chosen: this.#chosen === `other ${i}`,
    }));
    stage.ghosts = [...(this.shown.boxes ? others : []), ...(this.shown.found ? found : [])];
    stage.bare = !this.shown.boxes;
    this.#boxes.selected = new Set(this.#boxes.items.has(this.#chosen) ? [this.#chosen] : []);
    stage.redraw();
  }

  #panel(facts, items) {
    const { before, after, position, total } = facts;
    $("#position").textContent = position < 0 ? "not in the filter" : `${(position + 1).toLocaleString()} / ${total.toLocaleString()}`;
    $("#previous").disabled = before === null;
    $("#next").disabled = after === null;
    $("#key").textContent = facts.key;
    const id = facts.id < 0 ? "" : ` · id ${facts.id}`;
    $("#facts").textContent = `${facts.split} · ${facts.width}×${facts.height} · ${Math.ceil(facts.bytes / 1000)} kB · record ${facts.n}${id}`;
    $("#finding-rows").replaceChildren(
      ...facts.findings.map(({ code, text, box }) => {
        const row = document.createElement(box ? "button" : "p");
        row.className = "finding";
        row.append(Object.assign(document.createElement("b"), { textContent: code }), ` ${[this.about(code), text].filter(Boolean).join(": ")}`);
        if (box) row.addEventListener("click", () => this.stage.zoomTo(box));
        return row;
      }),
    );
    const truth = items.map((item, i) => ({ ...item, missed: facts.missed[i], change: facts.changes[i] }));
    const others = facts.others.map(([x1, y1, x2, y2, label, change], i) => ({ id: `other ${i}`, box: [x1, y1, x2, y2], label, change }));
    const found = facts.found.map(([x1, y1, x2, y2, label, score, kind], i) => ({
      id: `found ${i}`,
      box: [x1, y1, x2, y2],
      label,
      score,
      kind: this.set.kinds[kind],
    }));
    this.rows.set([...truth, ...others, ...found], -1);
  }

  #fill(row, { id, box, label, flags = 0, score, kind, missed, change }) {
    const { name, colour } = this.look(label);
    const other = id.startsWith("other");
    part(row, "swatch").style.background = colour;
    row.classList.toggle("found", score !== undefined || other);
    part(row, "name").textContent = other ? change : name;
    const words = Object.keys(FLAGS).filter((flag) => flags & FLAGS[flag]);
    part(row, "flags").textContent = score === undefined ? [...words, missed ? "missed" : "", other ? "" : change].filter(Boolean).join(", ") : WORDS[kind] ?? kind;
    part(row, "count").textContent = score === undefined ? `${Math.round(box[2] - box[0])}×${Math.round(box[3] - box[1])}` : score.toFixed(2);
    row.classList.toggle("wrong", Boolean(missed || WORDS[kind]));
    row.classList.toggle("chosen", id === this.#chosen);
  }

  #choose({ id, box }) {
    this.#chosen = this.#chosen === id ? null : id;
    this.stage.reveal(box);
    this.draw();
    this.rows.refresh();
  }
}
