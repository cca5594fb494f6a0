// Two versions of one image, drawn side by side; the user chooses one, or both together.

import { same } from "./geometry.js";

function draw(canvas, { width, height }, picture, items, others, look) {
  const scale = Math.min(canvas.width / width, canvas.height / height);
  const pen = canvas.getContext("2d");
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.setTransform(scale, 0, 0, scale, (canvas.width - width * scale) / 2, (canvas.height - height * scale) / 2);
  if (picture) pen.drawImage(picture.small ?? picture.full, 0, 0, width, height);
  pen.fillStyle = "rgba(0,0,0,.35)";
  pen.fillRect(0, 0, width, height);
  const known = new Map(others.map((item) => [item.id, item]));
  for (const { id, box, label, flags } of items) {
    const other = known.get(id);
    const equal = other && same(other.box, box) && other.label === label && other.flags === flags;
    pen.globalAlpha = equal ? 0.5 : 1;
    pen.lineWidth = (equal ? 1.5 : 4) / scale;
    pen.strokeStyle = look(label).colour;
    pen.strokeRect(box[0], box[1], box[2] - box[0], box[3] - box[1]);
  }
  pen.globalAlpha = 1;
}

/** Resolves to "theirs", "mine" or "both". */
export function choose({ image, picture, theirs, mine, look }) {
  const dialog = document.querySelector("#conflict");
  dialog.querySelector("#conflict-key").textContent = image.key;
  const [left, right] = dialog.querySelectorAll("canvas");
  draw(left, image, picture, theirs.boxes, mine.boxes, look);
  draw(right, image, picture, mine.boxes, theirs.boxes, look);
  const about = ({ boxes, state }) => `${boxes.length} ${boxes.length === 1 ? "box" : "boxes"}, ${state}`;
  dialog.querySelector("#theirs-count").textContent = about(theirs);
  dialog.querySelector("#mine-count").textContent = about(mine);
  dialog.oncancel = (event) => event.preventDefault(); // Escape is no choice
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue || "both"), { once: true });
  });
}
