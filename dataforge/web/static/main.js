// The page of `dataforge annotate`: its parts, what they tell each other, and the keys and buttons.

import { get } from "./api.js";
import { actions } from "./actions.js";
import { Bulk } from "./bulk.js";
import { Classes } from "./classes.js";
import { Documents } from "./documents.js";
import { Stage } from "./draw.js";
import { Ghosts } from "./ghosts.js";
import { InView } from "./in_view.js";
import { bound, keymap, keyOf, listKeys, shown } from "./keys.js";
import { ImageList } from "./list.js";
import { Panels, saving, say, tell } from "./panels.js";
import { Pictures } from "./pictures.js";
import { Pointer } from "./pointer.js";
import { Review } from "./review.js";
import { Speed } from "./speed.js";
import { Sync } from "./sync.js";
import { applyTheme } from "./theme.js";

const $ = (selector) => document.querySelector(selector);
const dialogs = () => document.querySelector("dialog[open]");
const [set, defaults] = await Promise.all([get("/api/set"), get("/static/keys.json")]);
const bindings = bound(defaults, set.keys);
const keys = keymap(defaults, set.keys);
document.title = $("#title").textContent = set.title;

// ---- the parts, and what they tell each other

const boxes = () => inView.boxes;
const speed = new Speed();
const stage = new Stage($("#stage"), (label) => classes.look(label));
const classes = new Classes({ classes: set.classes, choose: (label) => setClass(label) });
const list = new ImageList({
  root: $("#images"),
  set,
  classes: set.classes,
  open(n) {
    stage.root.focus();
    return inView.open(n);
  },
});
const pictures = new Pictures(() => ({ width: stage.size.width * stage.dpr, height: stage.size.height * stage.dpr }));
const tabs = new BroadcastChannel(`dataforge ${set.id}`);
const panels = new Panels({
  images: set.images,
  boxes,
  classes,
  speed,
  choose(id) {
    boxes().select([id]);
    stage.reveal(boxes().current.box);
    stage.root.focus();
  },
});

const sync = new Sync({
  set: set.id,
  clock: speed,
  onstatus: saving,
  async onsaved(n, revision) {
    if (documents.has(n)) (await documents.get(n)).revision = revision;
    tabs.postMessage(n);
  },
  onconflict: (n, edits, saved) => inView.settle(n, edits, saved),
  async onrefused(n, text) {
    await tell(`The server refused a change of image ${n + 1}: ${text}. The image is shown as it was saved.`);
    await inView.restore(n);
  },
});

const documents = new Documents({
  pending: (n) => sync.pending(n),
  onload(loaded) {
    loaded.onchange = (edits, places) => {
      if (edits.length) {
        sync.push(loaded.n, loaded.revision, edits);
        speed.count(loaded.n, edits);
        list.update(loaded);
      }
      if (loaded === boxes()) {
        stage.redraw(places);
        panels.later();
        if (edits.length) review.refresh();
      }
    };
  },
});

const pointer = new Pointer(stage, {
  boxes,
  draw: (box) => add([box]),
  change: (box) => boxes().edit([{ op: "set", id: boxes().current.id, box }]),
  select(id, more) {
    const { selected } = boxes();
    if (id === null) {
      if (!more) boxes().select([]);
    } else if (!more) boxes().select([id]);
    else boxes().select(selected.has(id) ? [...selected].filter((other) => other !== id) : [...selected, id]);
  },
});
stage.onpaint = () => pointer.follow();

const ghosts = new Ghosts({
  slider: $("#least"),
  say,
  onchange(shown) {
    $("#proposals output").textContent = `${$("#least").value}: ${shown.length}`;
    if (review.on) return review.refresh();
    stage.ghosts = shown;
    stage.redraw();
  },
});
const inView = new InView({
  stage,
  pointer,
  list,
  documents,
  pictures,
  proposed: (loaded) => set.proposals && ghosts.show(loaded),
  look: classes.look,
  later: () => panels.later(),
  say,
});
const review = new Review({
  set: set.id,
  ghosts,
  tell(text) {
    $("#review").textContent = text;
    $("#review").hidden = !text;
    say(text || "review ended");
  },
  look: classes.look,
  boxes,
  show(ghost) {
    stage.ghosts = [ghost].filter(Boolean);
    stage.redraw();
  },
  async next() {
    const row = list.beside(1);
    await inView.go(row);
    return Boolean(row);
  },
});
$("#proposals").hidden = !set.proposals;

const bulk = new Bulk({ classes, load: (n) => documents.get(n), flush: () => sync.idle(), keymap: keys });

classes.onchange = async (change) => {
  list.classes(classes.all);
  if (change.op === "merge") {
    documents.clear();
    await list.load();
    if (boxes().n >= 0) await inView.open(boxes().n);
  }
  stage.redraw();
  panels.later();
};

tabs.onmessage = async ({ data: n }) => {
  const other = await documents.refresh(n);
  if (other) list.update(other);
};

const { run, add, setClass } = actions({
  inView,
  stage,
  pointer,
  classes,
  list,
  documents,
  later: () => panels.later(),
  ghosts,
  review,
  bulk,
  speed,
  proposes: set.proposals,
});

// ---- keys and buttons

addEventListener("keydown", (event) => {
  if (dialogs() || event.defaultPrevented) return;
  const { target } = event;
  const panel = target.closest("header, #images, #side");
  if (panel) {
    if (event.key === "Escape") return stage.root.focus();
    if (target.closest("input, select") && event.key !== "F6") {
      if (event.key === "Enter") stage.root.focus();
      return;
    }
    if (event.key.endsWith("Tab") || (["Enter", " "].includes(event.key) && target.closest("button, a"))) return;
  }
  if (event.key === " ") {
    event.preventDefault();
    pointer.panning = true;
    return;
  }
  const action = keys.get(keyOf(event));
  if (!action) return;
  event.preventDefault();
  inView.act(action, run[action]);
});
addEventListener("keyup", (event) => {
  if (event.key === " ") pointer.panning = false;
});
addEventListener("blur", () => (pointer.panning = false));
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-action]");
  if (!button) return;
  inView.act(button.dataset.action, run[button.dataset.action]);
  if (event.detail && !dialogs()) stage.root.focus(); // by mouse or touch: keys go to the image again
});
for (const button of document.querySelectorAll("[data-action]")) {
  const action = bindings.find(({ id }) => id === button.dataset.action);
  button.title = `${action.text} (${action.keys.map(shown).join(", ")})`;
  button.ariaLabel ??= action.text;
  button.setAttribute("aria-keyshortcuts", action.keys.map((key) => key.replace("Ctrl", "Control")).join(" "));
}

// ---- begin

listKeys($("#help-keys"), bindings);
applyTheme();
await list.load();
const resent = await sync.start();
if (resent) say(`unsaved changes of ${resent} images were sent again`);
if (set.images) {
  const asked = Number(location.hash.slice(1)) - 1;
  const first = list.rows.find(({ state }) => state !== "done") ?? list.rows[0];
  await inView.open(asked in list.rows ? asked : first.n);
} else $("#wrong").textContent = "This set has no images.";
stage.root.focus();
document.documentElement.dataset.ready = "";

/** For tests and measurements: the boxes in view, the actions, and where boxes are on the screen. */
export const inside = { boxes, actions: Object.keys(run), stage, pending: () => sync.pending(boxes().n) };
