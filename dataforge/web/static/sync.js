// Edits on their way to the server. An edit lies in localStorage from the moment it is made until the server has
// confirmed it; a request that got no answer is sent again under the same name, which the server applies once.

import { post, Refusal } from "./api.js";

const WAIT_MS = [300, 1000, 3000, 5000]; // before the 1st, 2nd, .. try again; then the last one for ever
const MOST = 10_000; // edits in a request; the server takes 20,000
const SPACE = "dataforge-edits";

/** A name for this tab that survives a reload, and no other tab's: a copied tab finds it locked. */
async function clientName() {
  const name = sessionStorage.getItem("client") ?? crypto.randomUUID();
  if (await hold(name)) {
    sessionStorage.setItem("client", name);
    return name;
  }
  sessionStorage.removeItem("client");
  return clientName();
}

const held = new Set();

/** Whether no other living tab holds `name`; this one does from now on. */
function hold(name) {
  if (held.has(name)) return true;
  return new Promise((resolve) => {
    navigator.locks.request(`${SPACE}:${name}`, { ifAvailable: true }, (lock) => {
      if (lock) held.add(name);
      resolve(Boolean(lock));
      return lock ? new Promise(() => {}) : null;
    });
  });
}

/** Edits in which later ones on the same box are joined with earlier ones where nothing lies between. */
function joined(edits, more) {
  for (const edit of more) {
    const last = edits.at(-1);
    if (edit.op === "set" && last?.id === edit.id && last.op !== "delete") edits[edits.length - 1] = { ...last, ...edit, op: last.op };
    else edits.push(edit);
  }
  return edits;
}

export class Sync {
  #entries = new Map(); // storage key -> {n, revision, sending: {request, edits, seconds} | null, waiting: [edit]}
  #running = null;
  #wake = () => {};

  /**
   * set: the name of the set, so that edits of another one on the same port stay apart;
   * clock: gives seconds() worked since it was last asked;
   * onstatus(word, text): "saved" | "saving" | "not saved"; onsaved(n, revision);
   * onconflict(n, edits, answer): resolves to the edits that the user wants on top of answer.boxes;
   * onrefused(n, text): resolves when the user has read why the server does not take an edit.
   */
  constructor({ set, clock, onstatus, onsaved, onconflict, onrefused }) {
    Object.assign(this, { set, clock, onstatus, onsaved, onconflict, onrefused });
    addEventListener("online", () => this.#wake());
    addEventListener("beforeunload", (event) => {
      if (!this.stored && this.#entries.size) event.preventDefault(); // they would be lost
    });
  }

  /** Take the edits that this tab, or a tab that is gone, left unconfirmed; send them. */
  async start() {
    this.client = await clientName();
    const left = Object.keys(localStorage).filter((key) => key.startsWith(`${SPACE}:${this.set}:`));
    for (const key of left) {
      const client = key.split(":").at(-2);
      if (client === this.client || (await hold(client))) this.#entries.set(key, JSON.parse(localStorage.getItem(key)));
    }
    this.stored = true;
    const count = this.#entries.size;
    if (count) await this.#run();
    else this.onstatus("saved", "");
    return count;
  }

  /** Resolves when all edits are confirmed. */
  async idle() {
    await this.#running;
  }

  pending(n) {
    return [...this.#entries.values()].some((entry) => entry.n === n);
  }

  push(n, revision, edits) {
    const key = `${SPACE}:${this.set}:${this.client}:${n}`;
    const entry = this.#entries.get(key) ?? { n, revision, sending: null, waiting: [] };
    joined(entry.waiting, edits);
    this.#entries.set(key, entry);
    this.#keep(key, entry);
    this.#run();
  }

  #keep(key, entry) {
    try {
      if (entry) localStorage.setItem(key, JSON.stringify(entry));
      else localStorage.removeItem(key);
      this.stored = true;
    } catch {
      this.stored = false; // full or forbidden: closing the tab asks first
    }
  }

  #run() {
    this.#running ??= this.#send();
    return this.#running;
  }

  async #send() {
    let failures = 0;
    for (const [key, entry] of this.#entries) {
      while (entry.sending || entry.waiting.length) {
        if (!failures) this.onstatus("saving", "");
        if (!entry.sending) {
          entry.sending = { request: crypto.randomUUID(), edits: entry.waiting.splice(0, MOST), seconds: this.clock.seconds() };
          this.#keep(key, entry);
        }
        try {
          const { revision } = await post(`/api/images/${entry.n}`, {
            ...entry.sending,
            revision: entry.revision,
            client: this.client,
          });
          Object.assign(entry, { revision, sending: null });
          failures = 0;
          this.onsaved(entry.n, revision);
        } catch (refusal) {
          if (!(refusal instanceof Refusal)) throw refusal;
          if (refusal.status === 409 || refusal.status === 400) {
            await this.#settle(entry, refusal);
          } else {
            this.onstatus("not saved", refusal.message);
            const wait = WAIT_MS[Math.min(failures++, WAIT_MS.length - 1)];
            await new Promise((resolve) => {
              this.#wake = resolve;
              setTimeout(resolve, wait);
            });
          }
        }
        this.#keep(key, entry.sending || entry.waiting.length ? entry : null);
      }
      this.#entries.delete(key);
    }
    this.#running = null; // at once: an edit that is made before the next await starts a new run
    this.onstatus("saved", "");
  }

  /** A stale revision: the user chooses. A wrong value: it is dropped, after the user was told. */
  async #settle(entry, { status, message, answer }) {
    this.onstatus("not saved", message);
    const edits = [...entry.sending.edits, ...entry.waiting];
    if (status === 409) entry.waiting = await this.onconflict(entry.n, edits, answer);
    else {
      await this.onrefused(entry.n, message);
      entry.waiting = [];
    }
    entry.sending = null;
    entry.revision = answer.revision ?? entry.revision;
  }
}
