// The image and its boxes on two canvases. The image is painted when the view changes; of the boxes, only what lies in
// the changed rectangles. Everything waits for the next frame.

const HANDLE = 4; // half the side of a corner's handle, in units
const NAMES_UP_TO = 250; // boxes in view; with more, class names would hide the image
const SMALLER = 1.5; // how much larger than the view an image is before a scaled copy is painted instead

export class Stage {
  view = { scale: 1, x: 0, y: 0 }; // CSS pixels = image pixels * scale + (x, y)
  names = true;
  hidden = false;
  bare = false; // only ghosts are drawn
  ghosts = []; // {box, label}, drawn dashed: of a model; with {text} that stands at it
  first = true; // whether the first ghost is the one that is accepted next
  onpaint = () => {};

  #boxes = null;
  #picture = null;
  #frame = 0;
  #dirty = null; // "all", or rectangles in CSS pixels
  #imageDirty = false;
  #widths = new Map();
  #named = true;

  /** `look(label)` gives {name, colour}. */
  constructor(root, look) {
    this.root = root;
    this.look = look;
    [this.image, this.ink] = [...root.querySelectorAll("canvas")].map((canvas) => canvas.getContext("2d"));
    new ResizeObserver(() => this.#resize()).observe(root);
    this.#resize();
  }

  #resize() {
    const { width, height } = this.root.getBoundingClientRect();
    const whole = this.#boxes && this.isWhole();
    this.size = { width, height };
    this.dpr = devicePixelRatio;
    this.text = Math.max(11, parseFloat(getComputedStyle(this.root).fontSize) - 2); // of class names
    this.tag = Math.round(this.text * 1.5);
    this.unit = Math.max(1, this.text / 12); // lines are thicker where text is larger
    this.#widths.clear();
    for (const { canvas } of [this.image, this.ink]) {
      canvas.width = Math.round(width * this.dpr);
      canvas.height = Math.round(height * this.dpr);
    }
    if (whole) this.fit();
    else this.all();
  }

  /** Show boxes, over a picture of Pictures.get or over nothing. */
  show(boxes, picture) {
    const other = boxes !== this.#boxes;
    this.#boxes = boxes;
    this.#picture = picture;
    if (other) this.fit();
    else this.all();
  }

  get hasPicture() {
    return Boolean(this.#picture);
  }

  // ---- the view

  #whole() {
    const { width, height } = this.#boxes;
    const margin = 12;
    const scale = Math.min((this.size.width - 2 * margin) / width, (this.size.height - 2 * margin) / height);
    return { scale, x: (this.size.width - width * scale) / 2, y: (this.size.height - height * scale) / 2 };
  }

  isWhole() {
    const { scale, x, y } = this.#whole();
    return Math.abs(scale - this.view.scale) < 1e-6 && Math.abs(x - this.view.x) < 0.5 && Math.abs(y - this.view.y) < 0.5;
  }

  fit() {
    this.view = this.#whole();
    this.all();
  }

  zoom(factor, x = this.size.width / 2, y = this.size.height / 2) {
    const least = Math.min(this.#whole().scale, 1) / 2;
    const scale = Math.min(Math.max(this.view.scale * factor, least), 64);
    const ratio = scale / this.view.scale;
    this.view = { scale, x: x - (x - this.view.x) * ratio, y: y - (y - this.view.y) * ratio };
    this.all();
  }

  pan(dx, dy) {
    this.view.x += dx;
    this.view.y += dy;
    this.all();
  }

  /** Show a box with as much around it as it is large. */
  zoomTo([x1, y1, x2, y2]) {
    const { width, height } = this.size;
    const scale = Math.min(width / (2 * (x2 - x1) + 8), height / (2 * (y2 - y1) + 8), 32);
    this.view = { scale, x: width / 2 - ((x1 + x2) / 2) * scale, y: height / 2 - ((y1 + y2) / 2) * scale };
    this.all();
  }

  /** Bring a box into view if it is outside. */
  reveal(box) {
    const [x1, y1, x2, y2] = this.onScreen(box);
    const { width, height } = this.size;
    if (x2 < 0 || y2 < 0 || x1 > width || y1 > height) this.pan(width / 2 - (x1 + x2) / 2, height / 2 - (y1 + y2) / 2);
  }

  toImage(x, y) {
    return [(x - this.view.x) / this.view.scale, (y - this.view.y) / this.view.scale];
  }

  onScreen([x1, y1, x2, y2]) {
    const { scale, x, y } = this.view;
    return [x1 * scale + x, y1 * scale + y, x2 * scale + x, y2 * scale + y];
  }

  /** Width and height of the part of the image that is in view, in image pixels. */
  visible() {
    const { width, height } = this.#boxes;
    const { scale } = this.view;
    return [Math.min(width, this.size.width / scale), Math.min(height, this.size.height / scale)];
  }

  // ---- painting

  all() {
    this.#dirty = "all";
    this.#imageDirty = true;
    this.#ask();
  }

  /** Draw the boxes anew, all of them or those around places [box, ..]. */
  redraw(places = null) {
    const wide = this.#boxes?.polygons.size; // polygons may reach beyond their boxes
    if (!places || places.length > 200 || wide) this.#dirty = "all";
    else if (this.#dirty !== "all") (this.#dirty ??= []).push(...places.map((box) => this.#reach(this.onScreen(box))));
    this.#ask();
  }

  #ask() {
    this.#frame ||= requestAnimationFrame(() => this.#paint());
  }

  /** What a box's outline, handles and name may cover. */
  #reach([x1, y1, x2, y2]) {
    const margin = 8 * this.unit;
    const right = Math.max(x2, x1 + this.#widest());
    return [x1 - margin, y1 - this.tag - margin, right + margin, Math.max(y2, y1 + this.tag) + margin];
  }

  #widest() {
    return Math.max(80, ...this.#widths.values());
  }

  #paint() {
    this.#frame = 0;
    if (!this.#boxes) return;
    if (this.#imageDirty) this.#paintImage();
    if (this.#dirty === "all") this.#paintBoxes([0, 0, this.size.width, this.size.height]);
    else for (const area of this.#dirty ?? []) this.#paintBoxes(area);
    this.#imageDirty = false;
    this.#dirty = null;
    this.onpaint();
  }

  #paintImage() {
    const { image: pen, dpr, view, size } = this;
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, pen.canvas.width, pen.canvas.height);
    if (!this.#picture) return;
    const { full, small } = this.#picture;
    const { width, height } = this.#boxes;
    const bitmap = small && view.scale * dpr * width <= small.width * SMALLER ? small : full;
    const [x1, y1] = this.toImage(0, 0).map((value) => Math.max(value, 0));
    const corner = this.toImage(size.width, size.height);
    const [x2, y2] = [Math.min(corner[0], width), Math.min(corner[1], height)];
    if (x2 <= x1 || y2 <= y1) return;
    pen.setTransform(dpr * view.scale, 0, 0, dpr * view.scale, dpr * view.x, dpr * view.y);
    pen.imageSmoothingEnabled = view.scale * dpr < 4; // from there, show the pixels
    const [across, down] = [bitmap.width / width, bitmap.height / height];
    pen.drawImage(bitmap, x1 * across, y1 * down, (x2 - x1) * across, (y2 - y1) * down, x1, y1, x2 - x1, y2 - y1);
  }

  #paintBoxes(area) {
    const { ink: pen, dpr } = this;
    const [left, top, right, bottom] = [Math.floor(area[0]), Math.floor(area[1]), Math.ceil(area[2]), Math.ceil(area[3])];
    pen.setTransform(dpr, 0, 0, dpr, 0, 0);
    pen.save();
    pen.beginPath();
    pen.rect(left, top, right - left, bottom - top);
    pen.clip();
    pen.clearRect(left, top, right - left, bottom - top);
    if (!this.hidden) {
      const margin = 8 * this.unit;
      const from = this.toImage(left - this.#widest() - margin, top - this.tag - margin);
      const to = this.toImage(right + margin, bottom + this.tag + margin);
      const items = this.bare ? [] : [...this.#boxes.grid.meeting([...from, ...to])].map((id) => this.#boxes.items.get(id));
      items.sort((a, b) => a.z - b.z); // the same order, however much is painted
      if (this.#dirty === "all") this.#named = items.length <= NAMES_UP_TO;
      const { selected } = this.#boxes;
      for (const item of items) if (!selected.has(item.id)) this.#paintBox(item, false);
      for (const item of items) if (selected.has(item.id)) this.#paintBox(item, true);
      this.ghosts.forEach((ghost, i) => this.#paintGhost(ghost, this.first && i === 0));
    }
    pen.restore();
  }

  #paintBox(item, selected) {
    const { ink: pen, unit } = this;
    const { box, label, flags, faint } = item;
    const [x1, y1, x2, y2] = this.onScreen(box);
    const { colour } = this.look(label);
    if (faint && !selected) {
      pen.lineWidth = 1.75 * unit;
      pen.globalAlpha = 0.35;
      pen.strokeStyle = colour;
      pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
      pen.globalAlpha = 1;
      return;
    }
    this.#paintPolygon(this.#boxes.rings(item), colour, selected);
    if (selected) {
      pen.globalAlpha = 0.14;
      pen.fillStyle = colour;
      pen.fillRect(x1, y1, x2 - x1, y2 - y1);
      pen.globalAlpha = 1;
    }
    if (flags) pen.setLineDash([6 * unit, 3 * unit]);
    pen.lineWidth = (selected ? 5 : 3.5) * unit;
    pen.strokeStyle = selected ? "rgba(255,255,255,.95)" : "rgba(0,0,0,.45)"; // seen on any image
    pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
    pen.lineWidth = (selected ? 2.5 : 1.75) * unit;
    pen.strokeStyle = colour;
    pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
    if (flags) pen.setLineDash([]);
    if (selected) {
      const half = HANDLE * unit;
      pen.lineWidth = 1.5 * unit;
      pen.fillStyle = "#fff";
      for (const x of [x1, x2]) {
        for (const y of [y1, y2]) {
          pen.fillRect(x - half, y - half, 2 * half, 2 * half);
          pen.strokeRect(x - half, y - half, 2 * half, 2 * half);
        }
      }
    }
    if (this.names && (selected || (this.#named && x2 - x1 > 24))) this.#paintName(this.look(label).name, x1, y1, colour);
  }

  #paintPolygon(rings, colour, selected) {
    if (!rings.length) return;
    const { ink: pen, unit } = this;
    const { scale, x, y } = this.view;
    pen.beginPath();
    for (const ring of rings) {
      for (let i = 0; i < ring.length; i += 2) pen[i ? "lineTo" : "moveTo"](ring[i] * scale + x, ring[i + 1] * scale + y);
      pen.closePath();
    }
    pen.globalAlpha = selected ? 1 : 0.6;
    pen.lineWidth = 1.25 * unit;
    pen.strokeStyle = colour;
    pen.stroke();
    pen.globalAlpha = 1;
  }

  #paintGhost({ box, label, text, chosen }, first) {
    const { ink: pen, unit } = this;
    const [x1, y1, x2, y2] = this.onScreen(box);
    const { colour } = this.look(label);
    pen.setLineDash([3 * unit, 4 * unit]);
    pen.lineWidth = (first || chosen ? 3 : 1.75) * unit;
    pen.strokeStyle = colour;
    pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
    pen.setLineDash([]);
    if (text && (chosen || this.#named)) this.#paintName(text, x1, y2, colour);
    else if (first) this.#paintName(this.look(label).name, x1, y1, colour);
  }

  #paintName(name, x, y, colour) {
    const { ink: pen } = this;
    pen.font = `600 ${this.text}px system-ui, sans-serif`;
    const text = name.length > 24 ? `${name.slice(0, 23)}…` : name;
    if (!this.#widths.has(text)) this.#widths.set(text, pen.measureText(text).width + this.text * 0.8);
    const top = y >= this.tag ? y - this.tag : y;
    pen.fillStyle = colour;
    pen.fillRect(x - 1, top, this.#widths.get(text), this.tag);
    pen.fillStyle = "#10131a";
    pen.fillText(text, x + this.text * 0.35, top + this.text * 1.1);
  }
}
