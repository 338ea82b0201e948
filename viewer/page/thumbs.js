// Small pictures of the scenes, from sheets of 64.

export class Thumbs {
  constructor(spec, names) {
    this.spec = spec;
    this.number = new Map(names.map((name, i) => [name, i]));
    this.sheets = new Map();
    this.ready = false;
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
      for (const span of document.querySelectorAll(`.thumb[data-sheet="${first / this.spec.sheet}"]`)) this.paint(span);
      this.changed();
    }
  }

  find(index) { // [sheet image, x, y, side] or null
    const image = this.sheets.get(Math.floor(index / this.spec.sheet));
    const place = index % this.spec.sheet;
    return image ? [image, (place % 8) * this.spec.side, Math.floor(place / 8) * this.spec.side, this.spec.side] : null;
  }

  paint(span) {
    const place = Number(span.dataset.place);
    span.style.backgroundImage = `url(/thumbs/${span.dataset.sheet})`;
    span.style.backgroundPosition = `${-36 * (place % 8)}px ${-36 * Math.floor(place / 8)}px`;
  }

  element(name) {
    const span = document.createElement("span");
    span.className = "thumb";
    span.setAttribute("aria-hidden", "true");
    const index = this.number.get(name);
    if (index !== undefined && index < this.spec.count) {
      span.dataset.sheet = Math.floor(index / this.spec.sheet);
      span.dataset.place = index % this.spec.sheet;
      if (this.sheets.has(Number(span.dataset.sheet))) this.paint(span);
    }
    return span;
  }

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
