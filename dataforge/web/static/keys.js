// Which key does what: the defaults of keys.json with the user's bindings over them, and the list of them.

/** "Ctrl+Shift+z" of a keyboard event. Shift is not named with a sign that it makes ("?"). */
export function keyOf(event) {
  const sign = event.key.length === 1;
  const letter = sign && event.key.toLowerCase() !== event.key.toUpperCase();
  return [
    (event.ctrlKey || event.metaKey) && "Ctrl+",
    event.altKey && "Alt+",
    event.shiftKey && (!sign || letter) && "Shift+",
    letter ? event.key.toLowerCase() : event.key,
  ]
    .filter(Boolean)
    .join("");
}

/** Actions [{group, id, keys, text}] with the user's keys in place of the defaults. */
export function bound(actions, keys) {
  return actions.map((action) => ({ ...action, keys: keys[action.id] ?? action.keys }));
}

/** Map of key -> action id. A key that the user gave to one action is taken from the others. */
export function keymap(actions, keys) {
  const map = new Map();
  for (const { id, keys: defaults } of actions) if (!keys[id]) for (const key of defaults) map.set(key, id);
  for (const { id } of actions) for (const key of keys[id] ?? []) map.set(key, id);
  return map;
}

const SIGNS = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", Escape: "Esc" };
export const shown = (key) => key.replace(/Arrow\w+|Escape/, (name) => SIGNS[name]);

/** Fill `element` with one table of keys a group. */
export function listKeys(element, actions) {
  element.replaceChildren();
  for (const group of new Set(actions.map((action) => action.group))) {
    const table = document.createElement("table");
    const caption = table.createCaption();
    caption.textContent = group;
    for (const { keys, text } of actions.filter((action) => action.group === group)) {
      const row = table.insertRow();
      const cell = row.insertCell();
      for (const key of keys) cell.append(Object.assign(document.createElement("kbd"), { textContent: shown(key) }), " ");
      row.insertCell().textContent = text;
    }
    element.append(table);
  }
}
