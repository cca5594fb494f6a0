// Tables of the panels, made of text alone.

/** A table of a head and rows; cell(value, row index, column index) may give a node instead of text. */
export function table(head, rows, cell = (value) => value) {
  const element = document.createElement("table");
  element.append(line("th", head, (value) => value));
  const body = document.createElement("tbody");
  rows.forEach((row, i) => body.append(line("td", row, (value, j) => cell(value, i, j))));
  element.append(body);
  return element;
}

function line(tag, values, cell) {
  const row = document.createElement("tr");
  values.forEach((value, j) => {
    const element = document.createElement(tag);
    const content = cell(value, j);
    element.append(typeof content === "number" ? content.toLocaleString() : content);
    if (j) element.className = "number";
    row.append(element);
  });
  return row;
}

/** A table in a box of its own to scroll in. */
export function wide(element) {
  const box = document.createElement("div");
  box.className = "scroll";
  box.append(element);
  return box;
}

export function link(address, text) {
  return Object.assign(document.createElement("a"), { href: address, textContent: text });
}

export function heading(text) {
  return Object.assign(document.createElement("h3"), { textContent: text });
}
