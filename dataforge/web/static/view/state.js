// What is asked for, in the address after "#", so that a link shows the same again.

const OF_PAGE = ["n", "panel", "seed", "tile"]; // what the server is not asked

export class State {
  /** `onchange()` is called for every change, also by the browser's buttons. */
  constructor(classes, onchange) {
    this.onchange = onchange;
    this.labels = new Map(classes.map(({ id, name }) => [name, id]));
    addEventListener("hashchange", () => this.#read());
    this.values = new URLSearchParams(location.hash.slice(1));
  }

  #read() {
    this.values = new URLSearchParams(location.hash.slice(1));
    this.onchange();
  }

  get(name) {
    return this.values.get(name) ?? "";
  }

  all(name) {
    return this.values.getAll(name);
  }

  /** The address of other values: "" and null remove one, a list repeats it. */
  link(changes) {
    const values = new URLSearchParams(this.values);
    for (const [name, given] of Object.entries(changes)) {
      values.delete(name);
      for (const value of [given].flat()) if (value !== "" && value !== null) values.append(name, value);
    }
    return `#${values}`;
  }

  /** Change values; with `quietly`, without an entry in the browser's history. */
  set(changes, quietly = false) {
    const link = this.link(changes);
    if (link === `#${this.values}`) return;
    history[quietly ? "replaceState" : "pushState"](null, "", link);
    this.#read();
  }

  /** Take the filter away. */
  clear() {
    this.set(Object.fromEntries([...this.values.keys()].filter((name) => !OF_PAGE.includes(name)).map((name) => [name, ""])));
  }

  /** The filter as the server is asked; classes go by their labels, unknown ones by one that no box has. */
  query(more = {}) {
    const values = new URLSearchParams(more);
    for (const [name, value] of this.values) {
      if (!OF_PAGE.includes(name)) values.append(name, name === "class" ? this.labels.get(value) ?? this.labels.size : value);
    }
    return values.toString();
  }
}
