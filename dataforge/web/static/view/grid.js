// The images asked for, as a grid that has elements only for those in view: their number does not matter.

import { get } from "../api.js";
import { Tile } from "./tile.js";

const PAGE = 120; // rows of a request
const KEEP = 60; // pages that are kept
const MORE = 1; // lines of tiles above and below those in view
const SETTLE_MS = 90; // pictures wait while the grid passes faster than a window a frame
const SIZES = [128, 256, 512, 1024];
const NAME = 22; // pixels below a tile

export class Grid {
  total = 0;
  active = 0;
  shown = { boxes: true, found: true, correct: 0 }; // correct: the kind of detection that is drawn faint
  picture = () => ""; // (n, size) gives a picture's address

  #tiles = [];
  #pages = new Map(); // number -> rows, or a promise of them; oldest first
  #query = null;
  #frame = 0;
  #last = 0;
  #settle = 0;

  /** link(row) gives a tile's address; onerror(error) is called where the server refuses. */
  constructor(root, { link, onerror }) {
    Object.assign(this, { root, link, onerror });
    this.sizer = root.querySelector(".sizer");
    this.side = 180;
    root.addEventListener("scroll", () => this.refresh(), { passive: true });
    root.addEventListener("keydown", (event) => this.#key(event));
    root.addEventListener("focus", () => this.refresh());
    new ResizeObserver(() => this.refresh()).observe(root);
  }

  /** Show the images of a filter from the top. Resolves to the first answer, or null if another was asked for since. */
  async ask(query) {
    this.#query = query;
    const first = await get(`/api/images?${query}${query && "&"}from=0&count=${PAGE}`).catch((error) => ({ error }));
    if (this.#query !== query) return null;
    if (first.error) {
      this.onerror(first.error);
      return null;
    }
    this.#pages = new Map([[0, first.images]]);
    this.total = first.total;
    this.active = 0;
    this.root.scrollTop = 0;
    this.refresh();
    return first;
  }

  /** Tiles of another size; the first one in view stays. */
  resize(side) {
    if (side === this.side) return;
    const first = this.#line(this.root.scrollTop) * this.columns;
    this.side = side;
    this.#measure();
    this.root.scrollTop = Math.floor(first / this.columns) * this.height;
    this.refresh();
  }

  refresh() {
    this.#frame ||= requestAnimationFrame(() => this.#paint());
  }

  /** Draw all tiles anew: what is shown in them has changed. */
  refreshAll() {
    for (const tile of this.#tiles) tile.state = null;
    this.refresh();
  }

  #measure() {
    const width = this.root.clientWidth;
    this.columns = Math.max(1, Math.floor(width / (this.side + 8)));
    this.across = width / this.columns;
    this.height = this.side + NAME + 8;
    this.sizer.style.height = `${Math.ceil(this.total / this.columns) * this.height}px`;
  }

  #line(top) {
    return Math.floor(top / (this.height || 1));
  }

  /** The row at a place, if it is there; asks for its page if not, unless the grid is passing. */
  #row(at, fast) {
    const number = Math.floor(at / PAGE);
    const page = this.#pages.get(number);
    if (Array.isArray(page)) return page[at % PAGE];
    if (!page && !fast) this.#fetch(number);
    return undefined;
  }

  #fetch(number) {
    const query = this.#query;
    const pages = this.#pages;
    const asked = get(`/api/images?${query}${query && "&"}from=${number * PAGE}&count=${PAGE}`).then(
      ({ images }) => {
        pages.set(number, images);
        if (pages === this.#pages) this.refresh();
      },
      (error) => {
        pages.delete(number);
        this.onerror(error);
      },
    );
    pages.set(number, asked);
    for (const old of [...pages.keys()].slice(0, -KEEP)) pages.delete(old);
  }

  #paint() {
    this.#frame = 0;
    if (!this.root.clientWidth) return;
    this.#measure();
    const { scrollTop, clientHeight } = this.root;
    const fast = Math.abs(scrollTop - this.#last) > clientHeight;
    this.#last = scrollTop;
    if (fast) {
      clearTimeout(this.#settle);
      this.#settle = setTimeout(() => this.refresh(), SETTLE_MS);
    }
    const first = Math.max(0, this.#line(scrollTop) - MORE) * this.columns;
    const last = Math.min(this.total, (this.#line(scrollTop + clientHeight) + 1 + MORE) * this.columns);
    const size = SIZES.find((known) => known >= this.side * devicePixelRatio) ?? SIZES.at(-1);
    const many = Math.max(last - first, 0);
    while (this.#tiles.length < many) this.#tiles.push(new Tile(this.sizer));
    const used = new Set();
    for (let at = first; at < last; at += 1) {
      const slot = at % this.#tiles.length; // a tile keeps its image while that is in view
      used.add(slot);
      this.#fill(this.#tiles[slot], at, size, fast);
    }
    this.#tiles.forEach(({ root }, slot) => {
      if (root.hidden === used.has(slot)) root.hidden = !root.hidden;
    });
    this.root.setAttribute("aria-activedescendant", `tile-${this.active}`);
  }

  #fill(tile, at, size, fast) {
    const row = this.#row(at, fast);
    const state = [at, row, this.side, this.across, this.total, at === this.active, this.picture];
    if (tile.state?.every((value, i) => value === state[i]) && (fast || tile.pictured)) return;
    const moved = tile.state?.[0] !== at;
    tile.state = state;
    const { root } = tile;
    root.id = `tile-${at}`;
    root.style.transform = `translate(${(at % this.columns) * this.across}px, ${Math.floor(at / this.columns) * this.height}px)`;
    root.style.width = `${this.across - 8}px`;
    root.style.setProperty("--side", `${this.side}px`);
    root.setAttribute("aria-selected", at === this.active);
    root.setAttribute("aria-posinset", at + 1);
    root.setAttribute("aria-setsize", this.total);
    if (row && !fast) tile.picture(this.picture(row.n, size));
    else if (moved) tile.picture("");
    tile.pictured = Boolean(row) && !fast;
    tile.draw(row, this.side, this.picture.plain ? this.shown : {});
    tile.name.textContent = row ? row.key.split("/").at(-1) : "…";
    root.ariaLabel = root.title = row ? `${row.key}, ${row.split}, ${row.width}×${row.height}, ${row.boxes.length} boxes` : "";
    if (row) root.href = this.link(row);
    else root.removeAttribute("href");
  }

  /** Make an image the active one, and scroll to it. */
  mark(at) {
    this.active = Math.min(Math.max(at, 0), Math.max(this.total - 1, 0));
    this.#measure();
    const top = Math.floor(this.active / this.columns) * this.height;
    const { scrollTop, clientHeight } = this.root;
    if (top < scrollTop) this.root.scrollTop = top;
    else if (top + this.height > scrollTop + clientHeight) this.root.scrollTop = top + this.height - clientHeight;
    this.refresh();
  }

  #key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return;
    const page = Math.max(1, Math.floor(this.root.clientHeight / this.height)) * this.columns;
    const { columns } = this;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, PageDown: page, PageUp: -page };
    const step = { ...steps, Home: -Infinity, End: Infinity }[event.key];
    if (step) this.mark(this.active + step);
    else if (event.key === "Enter") document.getElementById(`tile-${this.active}`)?.click();
    else return;
    event.preventDefault();
  }
}
