// The codes of lint as a filter. The set is checked when somebody asks for them.

import { get } from "../api.js";

const POLL_MS = 400;

export class Lint {
  codes = new Map(); // code -> {severity, meaning, ..}
  #asked = false;

  /** onfinish() is called once the set has been checked. */
  constructor({ field, note, onfinish }) {
    Object.assign(this, { field, note, onfinish });
    field.addEventListener("pointerdown", () => this.check());
    field.addEventListener("focus", () => this.check());
  }

  async check() {
    if (this.#asked) return;
    this.#asked = true;
    for (;;) {
      const facts = await get("/api/lint").catch(({ message }) => ({ error: message }));
      this.note.textContent = facts.error || (facts.finished ? "" : `Checking the images: ${facts.done} of ${facts.total}`);
      if (facts.finished) return this.#show(facts.codes);
      if (facts.error) return;
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }

  #show(codes) {
    this.codes = new Map(codes.map((code) => [code.code, code]));
    const chosen = this.field.value;
    this.field.replaceChildren(new Option("any finding", ""));
    for (const { code, severity, images } of codes) {
      if (images) this.field.add(new Option(`${code}: ${images} (${severity})`, code));
    }
    if (chosen && !this.codes.has(chosen)) this.field.add(new Option(chosen, chosen));
    this.field.value = chosen;
    if (this.field.options.length === 1) this.note.textContent = "No image has a finding.";
    this.onfinish();
  }
}
