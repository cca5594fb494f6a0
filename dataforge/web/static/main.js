// What each key and button does, and which image is in view.

import { get } from "./api.js";
import { both, Boxes, difference, FLAGS, newId, rebased } from "./boxes.js";
import { Bulk } from "./bulk.js";
import { Classes } from "./classes.js";
import { choose } from "./conflict.js";
import { Documents } from "./documents.js";
import { Stage } from "./draw.js";
import { editing } from "./editing.js";
import { Ghosts } from "./ghosts.js";
import { between, isBox, snapped } from "./geometry.js";
import { bound, keymap, keyOf, listKeys, shown } from "./keys.js";
import { ImageList } from "./list.js";
import { Pictures } from "./pictures.js";
import { Pointer } from "./pointer.js";
import { Review } from "./review.js";
import { part, Rows } from "./rows.js";
import { Speed } from "./speed.js";
import { Sync } from "./sync.js";
import { applyTheme, nextTheme } from "./theme.js";

const SNAP = 0.05; // of the image's side
const LATE_MS = 120; // a picture that takes longer is shown after its boxes

const $ = (selector) => document.querySelector(selector);
const dialogs = () => document.querySelector("dialog[open]");
const [set, defaults] = await Promise.all([get("/api/set"), get("/static/keys.json")]);
const actions = bound(defaults, set.keys);
const keys = keymap(defaults, set.keys);
document.title = $("#title").textContent = set.title;

let boxes = new Boxes({ n: -1, key: "", width: 1, height: 1, revision: 0, state: "new", boxes: [] });
let left = null; // {n, ids}: the image that was in view before, and what was selected in it

// ---- the parts, and what they tell each other

const speed = new Speed();
const stage = new Stage($("#stage"), (label) => classes.look(label));
const classes = new Classes({ classes: set.classes, choose: (label) => setClass(label) });
const list = new ImageList({ root: $("#images"), set, classes: set.classes, open: openFromList });
const pictures = new Pictures(() => ({ width: stage.size.width * stage.dpr, height: stage.size.height * stage.dpr }));
const tabs = new BroadcastChannel(`dataforge ${set.id}`);

const sync = new Sync({
  set: set.id,
  clock: speed,
  onstatus(word, text) {
    const status = $("#status");
    const full = text ? `${word}: ${text}` : word;
    if (status.textContent !== full) status.textContent = full;
    status.title = full;
    status.dataset.word = word;
  },
  async onsaved(n, revision) {
    if (documents.has(n)) (await documents.get(n)).revision = revision;
    tabs.postMessage(n);
  },
  onconflict: settle,
  async onrefused(n, text) {
    await tell(`The server refused a change of image ${n + 1}: ${text}. The image is shown as it was saved.`);
    if (documents.has(n)) take(await documents.get(n), await get(`/api/images/${n}`));
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
      if (loaded === boxes) {
        stage.redraw(places);
        later();
        if (edits.length) review.refresh();
      }
    };
  },
});

const pointer = new Pointer(stage, {
  boxes: () => boxes,
  draw: (box) => add([box]),
  change: (box) => boxes.edit([{ op: "set", id: boxes.current.id, box }]),
  select(id, more) {
    if (id === null) {
      if (!more) boxes.select([]);
    } else if (!more) boxes.select([id]);
    else boxes.select(boxes.selected.has(id) ? [...boxes.selected].filter((other) => other !== id) : [...boxes.selected, id]);
  },
});
stage.onpaint = () => pointer.follow();

const boxRows = new Rows($("#box-rows"), {
  fill(row, { label, box, flags, id }) {
    const { name, colour } = classes.look(label);
    part(row, "swatch").style.background = colour;
    part(row, "name").textContent = name;
    part(row, "flags").textContent = flagNames(flags).map((word) => word[0].toUpperCase()).join("");
    part(row, "flags").title = flagNames(flags).join(", ");
    part(row, "count").textContent = `${Math.round(box[2] - box[0])}×${Math.round(box[3] - box[1])}`;
    row.classList.toggle("chosen", boxes.selected.has(id));
  },
  choose({ id }) {
    boxes.select([id]);
    stage.reveal(boxes.current.box);
    stage.root.focus();
  },
});

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
const review = new Review({
  set: set.id,
  ghosts,
  tell(text) {
    $("#review").textContent = text;
    $("#review").hidden = !text;
    say(text || "review ended");
  },
  look: classes.look,
  boxes: () => boxes,
  show(ghost) {
    stage.ghosts = [ghost].filter(Boolean);
    stage.redraw();
  },
  async next() {
    const row = list.beside(1);
    await go(row);
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
    if (boxes.n >= 0) await open(boxes.n);
  }
  stage.redraw();
  later();
};

tabs.onmessage = async ({ data: n }) => {
  const other = await documents.refresh(n);
  if (other) list.update(other);
};

// ---- which image is in view

const PASSING = ["next", "previous", "next-unlabelled"]; // what need not wait for an image on its way
let opening = null; // names the latest open() under way
const waiting = []; // actions that are for the image under way

async function open(n) {
  const wanted = (opening = Symbol(n));
  list.mark(n); // so that a key pressed meanwhile goes on from there
  try {
    await bring(n, () => opening === wanted);
  } finally {
    if (opening === wanted) {
      opening = null;
      for (const action of waiting.splice(0)) act(action);
    }
  }
}

function act(action) {
  if (opening && (waiting.length || !PASSING.includes(action))) waiting.push(action);
  else run[action]();
}

/** Show an image, as long as it is the one that is wanted. */
async function bring(n, wanted) {
  pointer.cancel();
  const picture = pictures.get(n);
  const [loaded, quick] = await Promise.all([
    documents.get(n),
    Promise.race([picture.catch(() => null), new Promise((resolve) => setTimeout(resolve, LATE_MS, null))]),
  ]).catch((error) => [unreadable(n, error)]);
  if (!wanted()) return;
  if (boxes.n !== n) left = { n: boxes.n, ids: [...boxes.selected] };
  boxes = loaded;
  stage.show(boxes, quick);
  if (set.proposals && !loaded.wrong) ghosts.show(loaded);
  later();
  history.replaceState(null, "", `#${n + 1}`);
  $("#wrong").textContent = loaded.wrong ?? "";
  if (loaded.wrong) return;
  documents.refresh(n).then((other) => other && list.update(other), () => {});
  const near = [list.beside(1), list.beside(2), list.beside(-1)].filter(Boolean).map((row) => row.n);
  for (const other of near) documents.get(other).catch(() => {});
  pictures.prefetch([...near.reverse(), n]);
  if (!quick) showLate(loaded, picture);
}

async function showLate(loaded, picture) {
  const late = await picture.catch((error) => error);
  if (loaded !== boxes) return;
  if (late instanceof Error) $("#wrong").textContent = `The browser cannot show this picture: ${late.message}`;
  else stage.show(boxes, late);
}

/** What stands in for an image that the server cannot give: it can be passed over, not edited. */
function unreadable(n, { message }) {
  const { key } = list.rows[n];
  const blank = new Boxes({ n, key, width: 1, height: 1, revision: 0, state: "new", boxes: [] });
  return Object.assign(blank, { wrong: `This image cannot be opened: ${message}` });
}

function openFromList(n) {
  stage.root.focus();
  return open(n);
}

function go(row) {
  if (row) return open(row.n);
  say("no further image");
}

/** An image was changed on both sides. Resolves to the edits that make the server's version what the user wants. */
async function settle(n, edits, { revision, boxes: saved, state }) {
  const loaded = await documents.get(n);
  const theirs = { boxes: saved, state };
  const mine = loaded.revision < revision ? { boxes: loaded.plain(), state: loaded.state } : rebased(theirs, edits);
  const picture = await pictures.get(n).catch(() => null);
  const choice = await choose({ image: loaded, picture, theirs, mine, look: classes.look });
  const kept = { theirs, mine, both: both(theirs, mine) }[choice];
  take(loaded, { revision, ...kept });
  return difference(theirs, kept);
}

/** Show an image's boxes as they are now on the server, or as the user chose. */
function take(loaded, image) {
  loaded.reset(image);
  loaded.select([...loaded.selected]);
  list.update(loaded);
  if (loaded === boxes) {
    stage.redraw();
    later();
  }
}

// ---- panels

const flagNames = (flags) => Object.keys(FLAGS).filter((name) => flags & FLAGS[name]);

function say(text) {
  $("#say").textContent = text;
}

function tell(text) {
  const dialog = $("#tell");
  dialog.querySelector("p").textContent = text;
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
}

/** Bring the panels up to date, once for many changes and after the image is painted. */
function later() {
  later.timer ??= setTimeout(() => {
    later.timer = null;
    panels();
  }, 60);
}

function panels() {
  const order = boxes.order();
  const { current, selected } = boxes;
  const at = order.indexOf(current);
  boxRows.set(order, at);
  $("#box-count").textContent = order.length;
  classes.show(order);
  $("#position").textContent = `${boxes.n + 1} / ${set.images}`;
  $("#key").textContent = boxes.key;
  $("#key").title = boxes.key;
  $("#state").textContent = boxes.state;
  $("#state").dataset.state = boxes.state;
  const [steps, undone] = boxes.steps;
  for (const button of document.querySelectorAll("[data-action=undo]")) button.disabled = !steps;
  for (const button of document.querySelectorAll("[data-action=redo]")) button.disabled = !undone;
  for (const button of document.querySelectorAll("[data-needs-box]")) button.disabled = !current;
  $("#about").textContent = current ? about(current, at, order.length, selected.size) : "";
  if (current && say.last !== current) say($("#about").textContent);
  say.last = current;
  $("#next-class").textContent = classes.look(classes.current).name;
  $("#next-swatch").style.background = classes.look(classes.current).colour;
  speed.show();
}

function about({ label, box, flags }, at, count, selected) {
  const [x1, y1, x2, y2] = box.map((value) => Math.round(value * 10) / 10);
  const size = `${(x2 - x1).toFixed(1)} × ${(y2 - y1).toFixed(1)} px at ${x1}, ${y1}`;
  const more = selected > 1 ? `${selected} selected · ` : "";
  return [`${more}box ${at + 1} of ${count}`, classes.look(label).name, size, ...flagNames(flags)].join(" · ");
}

// ---- edits

const { add, setClass, search, change, move, edge, flag, walk, split, duplicate, insert, copy } = editing({
  boxes: () => boxes,
  left: () => left,
  stage,
  pointer,
  classes,
  list,
  documents,
  say,
  later,
});

function accept(all) {
  if (!set.proposals) return say("no model proposes boxes");
  if (review.on) return review.accept();
  const taken = ghosts.take(pointer.place, all);
  const { width, height } = boxes;
  const edits = taken.map(({ box, label }) => ({ op: "add", id: newId(), box: between(...box, width, height), label, flags: 0 }));
  boxes.edit(edits.filter(({ box }) => isBox(box)));
}

function setState(state) {
  if (boxes.state !== state && !boxes.wrong) boxes.edit([{ op: "state", state }]);
}

function nextPanel() {
  const panels = [stage.root, $("header"), $("#images"), $("#side")];
  const at = panels.findIndex((panel) => panel.contains(document.activeElement));
  const panel = panels[(at + 1) % panels.length];
  (panel === stage.root ? panel : panel.querySelector("button:enabled, input, [tabindex='0']")).focus();
}

const run = {
  mode() {
    pointer.cancel();
    pointer.four = !pointer.four;
    $("#mode").textContent = pointer.four ? "four extreme points" : "drag or two clicks";
    say(`draw by ${$("#mode").textContent}`);
  },
  insert,
  duplicate,
  "split-x": () => split(0),
  "split-y": () => split(1),
  "copy-selected": () => copy(false),
  "copy-all": () => copy(true),
  accept: () => accept(false),
  "accept-all": () => accept(true),
  reject: () => set.proposals && (review.on ? review.dismiss() : ghosts.take(pointer.place)),
  async review() {
    if (!set.proposals) return say("no model proposes boxes");
    if (!review.on && list.order.value === "errors" && list.wanted.length) await open(list.wanted[0].n);
    review.toggle();
  },
  delete: () => boxes.edit([...boxes.selected].map((id) => ({ op: "delete", id }))),
  undo: () => boxes.undo() || say("nothing to undo"),
  redo: () => boxes.redo() || say("nothing to redo"),
  cancel: () => pointer.cancel() || boxes.select([]),
  "next-box": () => walk(1),
  "previous-box": () => walk(-1),
  "select-all": () => boxes.select(boxes.order().map(({ id }) => id)),
  "class-search": () => search(),
  difficult: () => flag("difficult"),
  crowd: () => flag("crowd"),
  truncated: () => flag("truncated"),
  snap: () => {
    const { width, height } = boxes;
    change(({ box }) => ({ box: snapped(box, width, height, SNAP * Math.max(width, height)) }));
  },
  done() {
    setState("done");
    return go(list.beside(1));
  },
  reopen: () => setState(boxes.state === "done" ? "edited" : "done"),
  next: () => go(list.beside(1)),
  previous: () => go(list.beside(-1)),
  "next-unlabelled": () => go(list.beside(1, (row) => !row.boxes && row.state !== "done")),
  filter: () => $("#by-text").focus(),
  "zoom-box": () => (boxes.current && stage.isWhole() ? stage.zoomTo(boxes.current.box) : stage.fit()),
  "zoom-in": () => stage.zoom(1.25),
  "zoom-out": () => stage.zoom(0.8),
  names() {
    stage.names = !stage.names;
    stage.redraw();
  },
  hide() {
    stage.hidden = !stage.hidden;
    stage.redraw();
    say(stage.hidden ? "boxes hidden" : "boxes shown");
  },
  bulk: () => bulk.open(boxes.current?.label ?? classes.current),
  classes: () => classes.edit(),
  speed: () => speed.open(),
  panels: nextPanel,
  theme: () => say(`theme: ${nextTheme() || "as the system"}`),
  help: () => $("#help").showModal(),
};
for (let i = 1; i <= 10; i += 1) run[`class-${i}`] = () => classes.all[i - 1] && setClass(classes.all[i - 1].id);
for (const [name, dx, dy] of [["left", -1, 0], ["right", 1, 0], ["up", 0, -1], ["down", 0, 1]]) {
  run[name] = () => move(dx, dy, false);
  run[`${name}-px`] = () => move(dx, dy, true);
  run[`edge-${name}`] = () => edge(dx, dy, false);
  run[`edge-${name}-px`] = () => edge(dx, dy, true);
}

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
  act(action);
});
addEventListener("keyup", (event) => {
  if (event.key === " ") pointer.panning = false;
});
addEventListener("blur", () => (pointer.panning = false));
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-action]");
  if (!button) return;
  act(button.dataset.action);
  if (event.detail && !dialogs()) stage.root.focus(); // by mouse or touch: keys go to the image again
});
for (const button of document.querySelectorAll("[data-action]")) {
  const action = actions.find(({ id }) => id === button.dataset.action);
  button.title = `${action.text} (${action.keys.map(shown).join(", ")})`;
  button.ariaLabel ??= action.text;
  button.setAttribute("aria-keyshortcuts", action.keys.map((key) => key.replace("Ctrl", "Control")).join(" "));
}

// ---- begin

listKeys($("#help-keys"), actions);
applyTheme();
await list.load();
const resent = await sync.start();
if (resent) say(`unsaved changes of ${resent} images were sent again`);
if (set.images) {
  const asked = Number(location.hash.slice(1)) - 1;
  const first = list.rows.find(({ state }) => state !== "done") ?? list.rows[0];
  await open(asked in list.rows ? asked : first.n);
} else $("#wrong").textContent = "This set has no images.";
stage.root.focus();
document.documentElement.dataset.ready = "";

/** For tests and measurements: the boxes in view, the actions, and where boxes are on the screen. */
export const inside = { boxes: () => boxes, actions: Object.keys(run), stage, pending: () => sync.pending(boxes.n) };
