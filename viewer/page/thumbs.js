// @ts-check
// Small pictures of the scenes, from sheets of 64.

export class Thumbs {
  /**
   * @param {{side: number, sheet: number, count: number}} spec pixels a side, thumbnails on a sheet and in all
   * @param {string[]} names of the scenes
   */
  constructor(spec, names) {
    this.spec = spec;
    this.number = new Map(names.map((name, i) => [name, i]));
    /** @type {Map<number, HTMLImageElement>} */
    this.sheets = new Map();
    this.ready = false;
    /** @type {() => void} called when a sheet has come */
    this.changed = () => {};
  }

  // After the first picture, so that nothing waits for them.
  async load() {
    if (this.ready) return;
    this.ready = true;
    for (let first = 0; first < this.spec.count; first += this.spec.sheet) {
      const image = new Image();
      image.src = `/thumbs/${first / this.spec.sheet}`;
      try { await image.decode(); } catch { continue; }
      this.sheets.set(first / this.spec.sheet, image);
      for (const span of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll(`.thumb[data-sheet="${first / this.spec.sheet}"]`))) this.paint(span);
      this.changed();
    }
  }

  /** Place of a thumbnail: [sheet, x, y, side]. @param {number} index of the scene @returns {[HTMLImageElement, number, number, number] | null} */
  find(index) {
    const image = this.sheets.get(Math.floor(index / this.spec.sheet));
    const place = index % this.spec.sheet;
    return image ? [image, (place % 8) * this.spec.side, Math.floor(place / 8) * this.spec.side, this.spec.side] : null;
  }

  /** @param {HTMLElement} span */
  paint(span) {
    const place = Number(span.dataset.place);
    span.style.backgroundImage = `url(/thumbs/${span.dataset.sheet})`;
    span.style.backgroundPosition = `${-36 * (place % 8)}px ${-36 * Math.floor(place / 8)}px`;
  }

  /** @param {string} name */
  element(name) {
    const span = document.createElement("span");
    span.className = "thumb";
    span.setAttribute("aria-hidden", "true");
    const index = this.number.get(name);
    if (index !== undefined && index < this.spec.count) {
      span.dataset.sheet = String(Math.floor(index / this.spec.sheet));
      span.dataset.place = String(index % this.spec.sheet);
      if (this.sheets.has(Number(span.dataset.sheet))) this.paint(span);
    }
    return span;
  }

  /** @param {string} name */
  label(name, note = "") {
    const text = document.createElement("span");
    text.className = "name";
    text.textContent = name;
    if (note) {
      const small = document.createElement("small");
      small.textContent = note;
      text.append(small);
    }
    return text;
  }

  /** @param {string} name @param {string} note @param {() => void} pick */
  button(name, note, pick) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "pick";
    button.title = name;
    button.append(this.element(name), this.label(name, note));
    button.addEventListener("click", pick);
    return button;
  }
}
