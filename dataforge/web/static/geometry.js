// Pure functions of boxes [x1, y1, x2, y2], in image pixels and edge coordinates. None changes its arguments.

export const LEAST = 1; // the smallest side of a box, in pixels

const limit = (value, low, high) => Math.min(Math.max(value, low), high);
const exact = (box) => box.map(Math.fround); // what float32 storage gives back unchanged

/** The box between two corners, clipped to the image, on a grid of 1/16 pixel. */
export function between(ax, ay, bx, by, width, height) {
  const grid = (value, high) => limit(Math.round(value * 16) / 16, 0, high);
  return [
    grid(Math.min(ax, bx), width),
    grid(Math.min(ay, by), height),
    grid(Math.max(ax, bx), width),
    grid(Math.max(ay, by), height),
  ];
}

/** The box around extreme points [[x, y], ..]. */
export function around(points, width, height) {
  const xs = points.map(([x]) => x);
  const ys = points.map(([, y]) => y);
  return between(Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys), width, height);
}

export const isBox = ([x1, y1, x2, y2]) => x2 - x1 >= LEAST && y2 - y1 >= LEAST;
export const area = ([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1);
export function iou(a, b) {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
  const height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  if (width <= 0 || height <= 0) return 0;
  return (width * height) / (area(a) + area(b) - width * height);
}

export const contains = ([x1, y1, x2, y2], x, y) => x >= x1 && x <= x2 && y >= y1 && y <= y2;
export const meets = (a, b) => a[0] <= b[2] && a[2] >= b[0] && a[1] <= b[3] && a[3] >= b[1];
export const same = (a, b) => a.every((value, i) => value === b[i]);

/** The box moved by (dx, dy), no further than to the image's edge; its size stays. */
export function moved([x1, y1, x2, y2], dx, dy, width, height) {
  const x = limit(dx, Math.min(-x1, 0), Math.max(width - x2, 0));
  const y = limit(dy, Math.min(-y1, 0), Math.max(height - y2, 0));
  return exact([x1 + x, y1 + y, x2 + x, y2 + y]);
}

/** The box with some edges moved: `edges` holds 0 (left), 1 (top), 2 (right), 3 (bottom). */
export function resized(box, edges, dx, dy, width, height) {
  const side = [width, height];
  const to = [...box];
  for (const edge of edges) {
    const axis = edge % 2;
    const other = box[(edge + 2) % 4];
    const value = box[edge] + (axis ? dy : dx);
    to[edge] = edge < 2 ? limit(value, 0, Math.max(other - LEAST, 0)) : limit(value, Math.min(other + LEAST, side[axis]), side[axis]);
  }
  return exact(to);
}

/** Of the two edges across an axis (0: x, 1: y), the one nearest to a point. */
export function nearestEdge(box, axis, point) {
  return Math.abs(point[axis] - box[axis]) <= Math.abs(point[axis] - box[axis + 2]) ? axis : axis + 2;
}

/** The edges of a box within `reach` pixels of a point, at most one an axis. */
export function edgesAt(box, x, y, reach) {
  const [x1, y1, x2, y2] = box;
  if (!contains([x1 - reach, y1 - reach, x2 + reach, y2 + reach], x, y)) return [];
  const point = [x, y];
  return [0, 1].map((axis) => nearestEdge(box, axis, point)).filter((edge) => Math.abs(point[edge % 2] - box[edge]) <= reach);
}

/** The box with every edge that lies within `reach` of the image's edge moved onto it. */
export function snapped([x1, y1, x2, y2], width, height, reach) {
  return [x1 <= reach ? 0 : x1, y1 <= reach ? 0 : y1, x2 >= width - reach ? width : x2, y2 >= height - reach ? height : y2];
}

/** The two parts of a box, cut across an axis (0: side by side) at a coordinate, or in its middle where that is no place. */
export function parts(box, axis, at = NaN) {
  const margin = (box[axis + 2] - box[axis]) / 10;
  const inside = at > box[axis] + margin && at < box[axis + 2] - margin;
  const cut = Math.fround(inside ? at : (box[axis] + box[axis + 2]) / 2);
  const first = [...box];
  const second = [...box];
  first[axis + 2] = cut;
  second[axis] = cut;
  return [first, second];
}

/**
 * Items [{box}] in reading order: rows from the top, each from the left. A box belongs to a row if its middle lies
 * between top and bottom of the row's first box.
 */
export function readingOrder(items) {
  const middle = ({ box }) => box[1] + box[3];
  const sorted = [...items].sort((a, b) => middle(a) - middle(b) || a.box[0] - b.box[0]);
  const order = [];
  for (let start = 0; start < sorted.length; ) {
    const bottom = sorted[start].box[3] * 2;
    let end = start + 1;
    while (end < sorted.length && middle(sorted[end]) < bottom) end += 1;
    order.push(...sorted.slice(start, end).sort((a, b) => a.box[0] - b.box[0] || a.box[1] - b.box[1]));
    start = end;
  }
  return order;
}
