// A list that makes elements only for the rows in view: thousands of images, boxes or classes.

const MORE = 4; // rows above and below those in view

export class Rows {
  items = [];
  active = -1;

  #made = [];
  #height = 0;
  #frame = 0;

  /** fill(row, item, index) writes a row's content, by textContent; choose(item) is called for a click and for Enter. */
  constructor(element, { fill, choose }) {
    Object.assign(this, { element, fill, choose });
    this.sizer = document.createElement("div");
    this.sizer.className = "sizer";
    element.append(this.sizer);
    element.tabIndex = 0;
    element.setAttribute("role", "listbox");
    element.addEventListener("scroll", () => this.refresh(), { passive: true });
    element.addEventListener("keydown", (event) => this.#key(event));
    element.addEventListener("click", ({ target }) => {
      const row = target.closest("[role=option]");
      if (row) this.choose(row.item);
    });
    new ResizeObserver(() => this.refresh()).observe(element);
  }

  set(items, active = this.active) {
    this.items = items;
    this.#size(); // else a longer list could not scroll to its active row
    this.mark(active);
  }

  /** Make a row the active one, and scroll to it. */
  mark(active) {
    this.active = active;
    if (active >= 0 && this.#height) {
      const top = active * this.#height;
      const { scrollTop, clientHeight } = this.element;
      if (top < scrollTop) this.element.scrollTop = top;
      else if (top + this.#height > scrollTop + clientHeight) this.element.scrollTop = top + this.#height - clientHeight;
    }
    this.refresh();
  }

  #size() {
    const content = `${this.items.length * this.#height}px`;
    this.sizer.style.height = content;
    this.element.style.setProperty("--content", content);
  }

  refresh() {
    this.#frame ||= requestAnimationFrame(() => this.#paint());
  }

  #paint() {
    this.#frame = 0;
    if (!this.#height) {
      this.#row(0).hidden = false;
      this.#height = this.#made[0].offsetHeight;
      if (!this.#height) return; // not shown yet
      this.#size();
      this.mark(this.active);
    }
    const { scrollTop, clientHeight } = this.element;
    const first = Math.max(0, Math.floor(scrollTop / this.#height) - MORE);
    const last = Math.min(this.items.length, Math.ceil((scrollTop + clientHeight) / this.#height) + MORE);
    for (let i = first; i < last; i += 1) {
      const row = this.#row(i - first);
      row.hidden = false;
      Object.assign(row, { index: i, item: this.items[i] });
      row.style.transform = `translateY(${i * this.#height}px)`;
      row.setAttribute("aria-selected", i === this.active);
      row.setAttribute("aria-posinset", i + 1);
      row.setAttribute("aria-setsize", this.items.length);
      this.fill(row, this.items[i], i);
    }
    for (const row of this.#made.slice(Math.max(0, last - first))) row.hidden = true;
    const active = this.#made.find((row) => !row.hidden && row.index === this.active);
    this.element.setAttribute("aria-activedescendant", active?.id ?? "");
  }

  #row(i) {
    if (!this.#made[i]) {
      const row = document.createElement("div");
      row.setAttribute("role", "option");
      row.id = `${this.element.id}-${i}`;
      this.sizer.append(row);
      this.#made[i] = row;
    }
    return this.#made[i];
  }

  #key(event) {
    const page = Math.max(1, Math.floor(this.element.clientHeight / (this.#height || 1)) - 1);
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity }[event.key];
    if (event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return;
    if (step) this.mark(Math.min(Math.max(this.active + step, 0), this.items.length - 1));
    else if (event.key === "Enter" && this.items[this.active]) this.choose(this.items[this.active]);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}

/** The part of a row with a class name, made once. */
export function part(row, name, tag = "span") {
  let element = row.querySelector(`.${name}`);
  if (!element) {
    element = document.createElement(tag);
    element.className = name;
    row.append(element);
  }
  return element;
}
