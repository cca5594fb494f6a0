// What each action does; keys.json has their keys.

import { newId } from "./boxes.js";
import { editing } from "./editing.js";
import { between, isBox, snapped } from "./geometry.js";
import { say } from "./panels.js";
import { nextTheme } from "./theme.js";

const SNAP = 0.05; // of the image's side
const $ = (selector) => document.querySelector(selector);

/** action -> function. `proposes`: whether a model does. */
export function actions({ inView, stage, pointer, classes, list, documents, later, ghosts, review, bulk, speed, proposes }) {
  const boxes = () => inView.boxes;
  const left = () => inView.left;
  const edits = editing({ boxes, left, stage, pointer, classes, list, documents, say, later });
  const { add, setClass, search, change, move, edge, flag, walk, split, duplicate, insert, copy } = edits;

  function accept(all) {
    if (!proposes) return say("no model proposes boxes");
    if (review.on) return review.accept();
    const taken = ghosts.take(pointer.place, all);
    const { width, height } = inView.boxes;
    const added = taken.map(({ box, label }) => ({ op: "add", id: newId(), box: between(...box, width, height), label, flags: 0 }));
    inView.boxes.edit(added.filter(({ box }) => isBox(box)));
  }

  function setState(state) {
    if (inView.boxes.state !== state && !inView.boxes.wrong) inView.boxes.edit([{ op: "state", state }]);
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
    reject: () => proposes && (review.on ? review.dismiss() : ghosts.take(pointer.place)),
    async review() {
      if (!proposes) return say("no model proposes boxes");
      if (!review.on && list.order.value === "errors" && list.wanted.length) await inView.open(list.wanted[0].n);
      review.toggle();
    },
    delete: () => inView.boxes.edit([...inView.boxes.selected].map((id) => ({ op: "delete", id }))),
    undo: () => inView.boxes.undo() || say("nothing to undo"),
    redo: () => inView.boxes.redo() || say("nothing to redo"),
    cancel: () => pointer.cancel() || inView.boxes.select([]),
    "next-box": () => walk(1),
    "previous-box": () => walk(-1),
    "select-all": () => inView.boxes.select(inView.boxes.order().map(({ id }) => id)),
    "class-search": () => search(),
    difficult: () => flag("difficult"),
    crowd: () => flag("crowd"),
    truncated: () => flag("truncated"),
    snap: () => {
      const { width, height } = inView.boxes;
      change(({ box }) => ({ box: snapped(box, width, height, SNAP * Math.max(width, height)) }));
    },
    done() {
      setState("done");
      return inView.go(list.beside(1));
    },
    reopen: () => setState(inView.boxes.state === "done" ? "edited" : "done"),
    next: () => inView.go(list.beside(1)),
    previous: () => inView.go(list.beside(-1)),
    "next-unlabelled": () => inView.go(list.beside(1, (row) => !row.boxes && row.state !== "done")),
    filter: () => $("#by-text").focus(),
    "zoom-box": () => (inView.boxes.current && stage.isWhole() ? stage.zoomTo(inView.boxes.current.box) : stage.fit()),
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
    bulk: () => bulk.open(inView.boxes.current?.label ?? classes.current),
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
  return { run, add, setClass };
}
