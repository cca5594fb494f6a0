// What keys and the pointer do with the boxes in view: add, class, move, resize, walk, split and copy.

import { newId, FLAGS } from "./boxes.js";
import { isBox, moved, nearestEdge, parts, resized } from "./geometry.js";

const STEP = 0.01; // of the visible part

/**
 * boxes() gives those in view, left() the image {n, ids} that was in view before with what was selected in it; later() is
 * called where only the panels change.
 */
export function editing({ boxes, left, stage, pointer, classes, list, documents, say, later }) {
  const chosen = () => [...boxes().selected].map((id) => boxes().items.get(id));

  /** Add boxes [x1, y1, x2, y2], of the current class or as `like` has them, and select them. */
  function add(places, like = []) {
    if (boxes().wrong) return say(boxes().wrong);
    if (classes.current === null) return setClass(null, places);
    const edits = places.map((box, i) => ({
      op: "add",
      id: newId(),
      box,
      label: like[i]?.label ?? classes.current,
      flags: like[i]?.flags ?? 0,
    }));
    boxes().edit(edits);
    boxes().select(edits.map(({ id }) => id));
  }

  function setClass(label, places = []) {
    if (label === null) return search(places);
    classes.current = label;
    const edits = chosen().filter((item) => item.label !== label).map(({ id }) => ({ op: "set", id, label }));
    boxes().edit(edits);
    say(classes.look(label).name);
    later();
    stage.root.focus();
  }

  /** Choose the class by typing. A set without classes asks for one before its first box. */
  async function search(places = []) {
    const label = await classes.search();
    stage.root.focus();
    if (label === null) return;
    setClass(label);
    if (places.length) add(places);
  }

  function change(make, repeat = null) {
    const edits = chosen().map((item) => ({ op: "set", id: item.id, ...make(item) }));
    boxes().edit(edits, repeat && `${repeat} ${[...boxes().selected].join(" ")}`);
    const { current } = boxes();
    if (current) stage.reveal(current.box);
  }

  const steps = (pixel) => (pixel ? [1, 1] : stage.visible().map((side) => side * STEP));

  function move(dx, dy, pixel) {
    const [across, down] = steps(pixel);
    change(({ box }) => ({ box: moved(box, dx * across, dy * down, boxes().width, boxes().height) }), "move");
  }

  /** Move the edge nearest to the pointer; where there is none, the edge on the side that the arrow points to. */
  function edge(dx, dy, pixel) {
    const [across, down] = steps(pixel);
    const axis = dx ? 0 : 1;
    change(({ box }) => {
      const side = pointer.place ? nearestEdge(box, axis, pointer.place) : axis + (dx + dy > 0 ? 2 : 0);
      return { box: resized(box, [side], dx * across, dy * down, boxes().width, boxes().height) };
    }, `edge ${axis}`);
  }

  function flag(name) {
    const on = chosen().every(({ flags }) => flags & FLAGS[name]);
    change(({ flags }) => ({ flags: on ? flags & ~FLAGS[name] : flags | FLAGS[name] }));
  }

  function walk(step) {
    const order = boxes().order();
    if (!order.length) return;
    const at = order.indexOf(boxes().current);
    const next = at < 0 ? (step > 0 ? 0 : order.length - 1) : (at + step + order.length) % order.length;
    pointer.rest();
    boxes().select([order[next].id]);
    stage.reveal(order[next].box);
  }

  function split(axis) {
    const edits = [];
    for (const { id, box, label, flags } of chosen()) {
      const [first, second] = parts(box, axis, pointer.place?.[axis]);
      if (!isBox(first) || !isBox(second)) continue;
      edits.push({ op: "set", id, box: first }, { op: "add", id: newId(), box: second, label, flags });
    }
    boxes().edit(edits);
    boxes().select(edits.map(({ id }) => id));
  }

  function duplicate() {
    const items = chosen();
    const [across, down] = stage.visible();
    const { width, height } = boxes();
    add(items.map(({ box }) => moved(box, across * 0.02, down * 0.02, width, height)), items);
  }

  function insert() {
    const [across, down] = stage.visible();
    const [x, y] = pointer.place ?? stage.toImage(stage.size.width / 2, stage.size.height / 2);
    const half = [across / 10, down / 10];
    add([moved([x - half[0], y - half[1], x + half[0], y + half[1]], 0, 0, boxes().width, boxes().height)]);
  }

  /** Copy boxes of the image that was in view before, or of the one above it in the list; larger ones are cut. */
  async function copy(all) {
    const from = left()?.n >= 0 ? left() : { n: list.beside(-1)?.n, ids: [] };
    if (from.n === undefined) return say("no previous image");
    const to = boxes();
    const source = await documents.get(from.n);
    const items = all ? source.order() : from.ids.map((id) => source.items.get(id)).filter(Boolean);
    const { width, height } = to;
    const cut = items.map((item) => ({ ...item, box: item.box.map((value, i) => Math.min(value, i % 2 ? height : width)) }));
    const inside = cut.filter(({ box }) => isBox(box));
    if (to === boxes()) add(inside.map(({ box }) => box), inside);
    say(`${inside.length} boxes copied`);
  }

  return { add, setClass, search, change, move, edge, flag, walk, split, duplicate, insert, copy };
}
