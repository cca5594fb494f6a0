// Decoded pictures: the one in view, and those that are likely to be next.

const KEEP = 6;

export class Pictures {
  #cache = new Map(); // n -> Promise of {full, small}; oldest first

  /** `room()` gives width and height of the stage in device pixels: larger pictures also get a copy of that size. */
  constructor(room) {
    this.room = room;
  }

  /** {full, small or null}, ImageBitmaps turned as EXIF says. Rejects if the browser cannot decode it. */
  get(n) {
    const cached = this.#cache.get(n);
    this.#cache.delete(n);
    const picture = cached ?? this.#decode(n);
    this.#cache.set(n, picture);
    picture.catch(() => this.#cache.delete(n));
    return picture;
  }

  /** Decode images that will be wanted; forget those that were asked for longest ago. */
  prefetch(numbers) {
    for (const n of numbers) this.get(n).catch(() => {});
    for (const [n, picture] of [...this.#cache].slice(0, -KEEP)) {
      this.#cache.delete(n);
      picture.then(({ full, small }) => [full, small].forEach((bitmap) => bitmap?.close())).catch(() => {});
    }
  }

  async #decode(n) {
    const response = await fetch(`/image/${n}`);
    if (!response.ok) throw new Error(`status ${response.status}`);
    const full = await createImageBitmap(await response.blob());
    const room = this.room();
    const ratio = Math.min(room.width / full.width, room.height / full.height);
    const size = { resizeWidth: Math.round(full.width * ratio), resizeHeight: Math.round(full.height * ratio) };
    const small = ratio < 0.75 ? await createImageBitmap(full, { ...size, resizeQuality: "medium" }) : null;
    return { full, small };
  }
}
