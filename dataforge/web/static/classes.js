// The classes: their colours, the list with digits, the search by typing, and adding, renaming and merging.

import { post } from "./api.js";
import { colour } from "./colours.js";
import { part, Rows } from "./rows.js";

export class Classes {
  current = 0; // label of the next box
  onchange = () => {}; // classes were added, renamed or merged

  #byId = new Map();

  /** choose(label) sets the class of what is selected, and of the next box. */
  constructor({ classes, choose }) {
    this.choose = choose;
    this.rows = new Rows(document.querySelector("#class-rows"), {
      fill: (row, item) => this.#fill(row, item),
      choose: ({ id }) => choose(id),
    });
    this.dialog = document.querySelector("#search");
    this.input = this.dialog.querySelector("input");
    this.found = new Rows(document.querySelector("#search-rows"), {
      fill: (row, item) => this.#fill(row, item),
      choose: (item) => this.#pick(item),
    });
    this.input.addEventListener("input", () => this.#search());
    this.input.addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown" || event.key === "ArrowUp") {
        event.preventDefault();
        this.found.mark(Math.min(Math.max(this.found.active + (event.key === "ArrowDown" ? 1 : -1), 0), this.found.items.length - 1));
      } else if (event.key === "Enter") {
        event.preventDefault();
        if (this.found.items[this.found.active]) this.#pick(this.found.items[this.found.active]);
      }
    });
    this.#editor(document.querySelector("#edit-classes"));
    this.counts = new Map();
    this.set(classes);
  }

  set(classes) {
    this.all = classes;
    this.#byId = new Map(classes.map((item, i) => [item.id, { ...item, digit: i < 10 ? (i + 1) % 10 : "", colour: colour(i) }]));
    if (!this.#byId.has(this.current)) this.current = classes[0]?.id ?? null;
    this.show();
  }

  look = (label) => this.#byId.get(label) ?? { name: `class ${label}`, colour: "#aaa" };

  /** Show how many boxes of each class the image has. */
  show(items = null) {
    if (items) {
      this.counts = new Map();
      for (const { label } of items) this.counts.set(label, (this.counts.get(label) ?? 0) + 1);
    }
    this.rows.set([...this.#byId.values()], this.all.findIndex(({ id }) => id === this.current));
  }

  #fill(row, { name, digit, colour: ink, id }) {
    part(row, "swatch").style.background = ink ?? "transparent";
    part(row, "name").textContent = name;
    part(row, "count").textContent = this.counts.get(id) ?? "";
    part(row, "digit", "kbd").textContent = digit ?? "";
  }

  /** Ask for a class by typing; resolves to its label, or null. */
  search() {
    this.input.value = "";
    this.#search();
    this.dialog.returnValue = "";
    this.dialog.showModal();
    return new Promise((resolve) => {
      this.picked = null;
      this.dialog.addEventListener("close", () => resolve(this.picked), { once: true });
    });
  }

  #search() {
    const text = this.input.value.trim();
    const lower = text.toLowerCase();
    const rank = ({ name }) => {
      const at = name.toLowerCase().indexOf(lower);
      return at < 0 ? Infinity : name.toLowerCase() === lower ? -1 : at;
    };
    const fitting = [...this.#byId.values()].filter((item) => rank(item) < Infinity).sort((a, b) => rank(a) - rank(b));
    if (text && !this.all.some(({ name }) => name === text)) fitting.push({ id: null, name: `Add the class “${text}”`, add: text });
    this.found.set(fitting, 0);
  }

  async #pick({ id, add }) {
    if (add && !(await this.#change({ op: "add", name: add }))) return;
    this.picked = add ? this.all.find(({ name }) => name === add).id : id;
    this.dialog.close();
  }

  async #change(change) {
    const message = document.querySelector("dialog[open] .message");
    try {
      const { classes } = await post("/api/classes", { request: crypto.randomUUID(), ...change });
      message.textContent = "";
      this.set(classes);
      await this.onchange(change);
      return true;
    } catch (refusal) {
      message.textContent = refusal.message;
      return false;
    }
  }

  // ---- rename and merge

  #editor(dialog) {
    const [name, to, op] = ["class-name", "class-to", "class-op"].map((id) => dialog.querySelector(`#${id}`));
    this.edit = () => {
      name.replaceChildren(...this.all.map((item) => new Option(item.name, item.name)));
      name.value = this.look(this.current).name;
      dialog.querySelector("datalist").replaceChildren(...this.all.map((item) => new Option(item.name, item.name)));
      to.value = "";
      dialog.showModal();
    };
    dialog.querySelector("form").addEventListener("submit", async (event) => {
      if (event.submitter.value === "cancel") return;
      event.preventDefault();
      if (await this.#change({ op: op.value, name: name.value, to: to.value.trim() })) dialog.close();
    });
  }
}
