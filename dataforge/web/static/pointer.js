// Mouse, pen and touch on the stage. Drawing is always armed; a press on the selected box moves or resizes it.

import { area, around, between, contains, edgesAt, isBox, moved, resized, snapped } from "./geometry.js";

const DRAG = 4; // CSS pixels that the pointer moves before a press is a drag
const REACH = 7; // from an edge, in CSS pixels
const SNAP = 5; // to the image's edge, in CSS pixels
const CURSORS = { "": "move", 0: "ew-resize", 2: "ew-resize", 1: "ns-resize", 3: "ns-resize", "0,1": "nwse-resize", "2,3": "nwse-resize" };

export class Pointer {
  four = false; // draw by four extreme points
  panning = false; // space is held
  place = null; // in image pixels, or null when the pointer is elsewhere or keys were used since

  #touches = new Map();
  #press = null; // {x, y, at, kind, edges}
  #first = null; // first corner of a box by two clicks, in image pixels
  #points = []; // of the four extreme points

  /** `act`: {boxes(), draw(box), select(id or null, add), change(box)}. */
  constructor(stage, act) {
    Object.assign(this, { stage, act });
    const { root } = stage;
    this.draft = root.querySelector(".draft");
    this.lines = [...root.querySelectorAll(".line")];
    this.dots = root.querySelector(".dots");
    root.addEventListener("pointerdown", (event) => this.#down(event));
    root.addEventListener("pointermove", (event) => this.#move(event));
    root.addEventListener("pointerup", (event) => this.#up(event));
    root.addEventListener("pointercancel", (event) => this.#drop(event));
    root.addEventListener("pointerleave", () => this.rest());
    root.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    root.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  /** Whether an unfinished box was dropped. */
  cancel() {
    const any = Boolean(this.#first || this.#points.length || this.#press);
    this.#first = this.#press = null;
    this.#points = [];
    this.#sketch();
    return any;
  }

  /** The pointer no longer counts: it left, or keys took over. */
  rest() {
    this.place = null;
    for (const line of this.lines) line.hidden = true;
  }

  #at(event) {
    const { left, top } = this.stage.root.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  }

  #down(event) {
    const { root } = this.stage;
    root.focus({ preventScroll: true });
    root.setPointerCapture(event.pointerId);
    const [x, y] = this.#at(event);
    if (event.pointerType === "touch") {
      this.#touches.set(event.pointerId, [x, y]);
      if (this.#touches.size > 1) {
        this.cancel();
        return;
      }
    }
    const at = this.stage.toImage(x, y);
    this.#press = { x, y, at, far: false, ...this.#meaning(event, at) };
  }

  /** What a press at a place does when it becomes a drag. */
  #meaning(event, at) {
    if (this.panning || event.button === 1 || event.button === 2) return { kind: "pan" };
    const { current, selected } = this.act.boxes();
    if (current && selected.size === 1 && !event.ctrlKey && !event.metaKey && !this.#first && !this.#points.length) {
      const edges = edgesAt(current.box, ...at, REACH / this.stage.view.scale);
      if (edges.length) return { kind: "resize", edges, box: current.box };
      if (contains(current.box, ...at)) return { kind: "move", box: current.box };
    }
    return { kind: "draw" };
  }

  #move(event) {
    const [x, y] = this.#at(event);
    if (this.#touches.size > 1) {
      this.#pinch(event.pointerId, [x, y]);
      return;
    }
    const press = this.#press;
    this.place = this.stage.toImage(x, y);
    this.#cross(x, y, event);
    if (!press) {
      if (this.#first) this.#sketch(this.#between(this.#first, this.place));
      return;
    }
    press.far ||= Math.hypot(x - press.x, y - press.y) > DRAG;
    if (!press.far) return;
    if (press.kind === "pan") {
      this.stage.pan(x - (press.panX ?? press.x), y - (press.panY ?? press.y));
      [press.panX, press.panY] = [x, y];
      this.#sketch();
    } else if (!this.four || press.kind !== "draw") this.#sketch(this.#result(press));
  }

  /** The box that a drag makes or changes. */
  #result({ kind, at, box, edges }) {
    const { width, height } = this.act.boxes();
    const [dx, dy] = [this.place[0] - at[0], this.place[1] - at[1]];
    if (kind === "draw") return this.#between(at, this.place);
    return kind === "move" ? moved(box, dx, dy, width, height) : resized(box, edges, dx, dy, width, height);
  }

  #between(a, b) {
    const { width, height } = this.act.boxes();
    return snapped(between(...a, ...b, width, height), width, height, SNAP / this.stage.view.scale);
  }

  #up(event) {
    const pinched = this.#touches.size > 1;
    this.#touches.delete(event.pointerId);
    const press = this.#press;
    this.#press = null;
    if (pinched || !press || press.kind === "pan") return;
    this.place = this.stage.toImage(...this.#at(event));
    if (press.far && (!this.four || press.kind !== "draw")) {
      const box = this.#result(press);
      this.#first = null;
      this.#sketch();
      if (press.kind === "draw") this.#draw(box);
      else this.act.change(box);
    } else this.#click(press, event);
    if (event.pointerType === "touch") this.rest();
  }

  #draw(box) {
    if (isBox(box)) this.act.draw(box);
  }

  #click({ at }, event) {
    const { width, height } = this.act.boxes();
    const force = event.ctrlKey || event.metaKey;
    if (this.four && !event.shiftKey) {
      this.#points.push(at);
      const box = this.#points.length === 4 && around(this.#points, width, height);
      if (box) this.#points = [];
      this.#sketch();
      if (box) this.#draw(box);
    } else if (this.#first) {
      const box = this.#between(this.#first, at);
      this.#first = null;
      this.#sketch();
      this.#draw(box);
    } else {
      const id = force ? null : this.#hit(at);
      if (id !== null) this.act.select(id, event.shiftKey);
      else {
        this.act.select(null, event.shiftKey);
        this.#first = at;
        this.#sketch(this.#between(at, at));
      }
    }
  }

  /** The smallest box under a place; again there, the next larger one. */
  #hit([x, y]) {
    if (this.stage.hidden) return null;
    const { grid, items, selected } = this.act.boxes();
    const reach = 2 / this.stage.view.scale;
    const under = [...grid.meeting([x - reach, y - reach, x + reach, y + reach])].map((id) => items.get(id));
    under.sort((a, b) => area(a.box) - area(b.box));
    const last = under.findIndex(({ id }) => selected.has(id));
    return under.length ? under[(last + 1) % under.length].id : null;
  }

  #pinch(id, to) {
    const [a, b] = [...this.#touches.values()];
    this.#touches.set(id, to);
    const [c, d] = [...this.#touches.values()];
    const span = (p, q) => Math.hypot(p[0] - q[0], p[1] - q[1]);
    const middle = (p, q) => [(p[0] + q[0]) / 2, (p[1] + q[1]) / 2];
    const [from, now] = [middle(a, b), middle(c, d)];
    this.stage.pan(now[0] - from[0], now[1] - from[1]);
    this.stage.zoom(span(c, d) / Math.max(span(a, b), 1), ...now);
  }

  #drop(event) {
    this.#touches.delete(event.pointerId);
    this.cancel();
  }

  #wheel(event) {
    event.preventDefault();
    const pixels = event.deltaMode ? event.deltaY * 30 : event.deltaY;
    if (event.shiftKey || (event.deltaX && !event.deltaY)) this.stage.pan(-(event.deltaX || pixels), 0);
    else this.stage.zoom(Math.exp(-pixels / (event.ctrlKey ? 120 : 400)), ...this.#at(event));
  }

  // ---- what follows the pointer

  #cross(x, y, event) {
    const touch = event.pointerType === "touch";
    for (const line of this.lines) line.hidden = touch || this.panning;
    this.lines[0].style.transform = `translateX(${x}px)`;
    this.lines[1].style.transform = `translateY(${y}px)`;
    const { kind, edges = [] } = this.#press ?? this.#meaning(event, this.place);
    const name = kind === "draw" ? "crosshair" : kind === "pan" ? "grabbing" : (CURSORS[edges] ?? "nesw-resize");
    if (this.stage.root.style.cursor !== name) this.stage.root.style.cursor = name;
  }

  #sketch(box = null) {
    this.draft.hidden = !box;
    if (box) {
      const [x1, y1, x2, y2] = this.stage.onScreen(box);
      this.draft.style.transform = `translate(${x1}px, ${y1}px)`;
      this.draft.style.width = `${x2 - x1}px`;
      this.draft.style.height = `${y2 - y1}px`;
    }
    this.dots.replaceChildren(
      ...this.#points.map(([x, y]) => {
        const [left, top] = this.stage.onScreen([x, y, x, y]);
        const dot = document.createElement("i");
        dot.style.transform = `translate(${left}px, ${top}px)`;
        return dot;
      }),
    );
  }

  /** The view has changed: put what is unfinished where it belongs. */
  follow() {
    if (this.#points.length) this.#sketch();
    else if (this.#first && this.place) this.#sketch(this.#between(this.#first, this.place));
  }
}
