// @ts-check
// The plane of the two largest principal axes: scenes at their places, and a ring to drag.

import { color } from "./dom.js";

export class LatentMap {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {{scenes: string[], places: number[][]}} hello
   * @param {import("./thumbs.js").Thumbs} thumbs
   * @param {(place: number[], moving: boolean) => void} drag called when the ring was moved
   */
  constructor(canvas, hello, thumbs, drag) {
    this.canvas = canvas;
    this.thumbs = thumbs;
    this.drag = drag;
    this.names = hello.scenes;
    this.places = hello.places;
    this.at = [0, 0];
    this.hover = -1;
    /** @type {[string, number][]} names and distances of the nearest scenes */
    this.near = [];
    const farthest = (/** @type {number} */ axis) => Math.max(1e-3, ...this.places.map((p) => Math.abs(p[axis])));
    this.extent = [farthest(0) * 1.2, farthest(1) * 1.25];
    this.zoom = 1;
    this.center = [0, 0];
    this.queued = false;
    thumbs.changed = () => this.draw();
    new ResizeObserver(() => this.draw()).observe(canvas);
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      canvas.focus();
      this.go(this.place(event), true);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (canvas.hasPointerCapture(event.pointerId)) return this.go(this.place(event), true);
      const hover = this.scene(event);
      if (hover !== this.hover) { this.hover = hover; this.draw(); }
      canvas.title = hover < 0 ? "" : this.names[hover];
    });
    canvas.addEventListener("pointerup", (event) => {
      const hit = this.scene(event);
      const near = hit >= 0 && Math.hypot(...this.pixel(this.places[hit]).map((v, i) => v - this.pixel(this.at)[i])) < 7;
      if (near) this.go(this.places[hit], false); // let go on a scene: exactly that scene
      else this.drag(this.at, false);
    });
    canvas.addEventListener("pointerleave", () => { this.hover = -1; this.draw(); });
    canvas.addEventListener("dblclick", () => { this.zoom = 1; this.center = [0, 0]; this.draw(); });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const before = this.place(event);
      this.zoom = Math.min(Math.max(this.zoom * Math.exp(-event.deltaY * 0.0015), 1), 30);
      const after = this.place(event);
      this.center = this.zoom === 1 ? [0, 0] : this.center.map((v, i) => v + before[i] - after[i]);
      this.draw();
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const step = /** @type {Record<string, number[]>} */ ({ ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] })[event.key];
      if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      event.stopPropagation();
      const far = event.shiftKey ? 0.2 : 0.04;
      this.go(this.at.map((v, i) => v + step[i] * far * this.extent[i] / this.zoom), true);
    });
  }

  /** @param {number[]} place @param {boolean} moving */
  go(place, moving) {
    this.at = place.map((v, i) => Math.min(Math.max(v, -1.1 * this.extent[i]), 1.1 * this.extent[i]));
    this.draw();
    this.drag(this.at, moving);
  }

  /**
   * The server says where a latent lies.
   * @param {{nearest: [string, number][], place: number[]}} latent
   * @param {boolean} follow whether the ring goes there
   */
  show(latent, follow) {
    this.near = latent.nearest;
    if (follow) this.at = latent.place;
    this.draw();
  }

  /** @param {MouseEvent} event @returns {number[]} */
  place(event) {
    const box = this.canvas.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * 2 - 1, y = 1 - (event.clientY - box.top) / box.height * 2;
    return [this.center[0] + x * this.extent[0] / this.zoom, this.center[1] + y * this.extent[1] / this.zoom];
  }

  /** @param {number[]} place @returns {number[]} */
  pixel([x, y]) {
    const { clientWidth: w, clientHeight: h } = this.canvas;
    return [
      (1 + (x - this.center[0]) * this.zoom / this.extent[0]) / 2 * w,
      (1 - (y - this.center[1]) * this.zoom / this.extent[1]) / 2 * h,
    ];
  }

  side() {
    const { clientWidth: w, clientHeight: h } = this.canvas;
    const room = Math.sqrt(w * h / Math.max(this.places.length, 1)) * 0.8 * Math.sqrt(this.zoom);
    return Math.min(Math.max(room, 12), 48);
  }

  /** The scene under the mouse, or -1. @param {MouseEvent} event */
  scene(event) {
    const box = this.canvas.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    let best = -1, least = this.side() / 2 + 2;
    this.places.forEach((place, i) => {
      const [px, py] = this.pixel(place);
      const away = Math.max(Math.abs(px - x), Math.abs(py - y));
      if (away < least) { least = away; best = i; }
    });
    return best;
  }

  draw() {
    if (this.queued) return;
    this.queued = true;
    requestAnimationFrame(() => { this.queued = false; this.paint(); });
  }

  paint() {
    const { clientWidth: w, clientHeight: h } = this.canvas;
    if (!w || !h) return;
    const ratio = window.devicePixelRatio || 1;
    if (this.canvas.width !== Math.round(w * ratio) || this.canvas.height !== Math.round(h * ratio)) {
      this.canvas.width = Math.round(w * ratio);
      this.canvas.height = Math.round(h * ratio);
    }
    const pen = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, w, h);
    pen.strokeStyle = color("--line");
    pen.lineWidth = 1;
    const [ox, oy] = this.pixel([0, 0]);
    pen.beginPath();
    pen.moveTo(ox, 0); pen.lineTo(ox, h); pen.moveTo(0, oy); pen.lineTo(w, oy);
    pen.stroke();
    const side = this.side();
    const [x, y] = this.pixel(this.at);
    pen.strokeStyle = color("--accent");
    for (const [name, distance] of this.near.slice(0, 3)) { // from what the blend is made
      if (distance < 1e-3) break;
      const place = this.places[this.thumbs.number.get(name) ?? -1];
      if (!place) continue;
      const [px, py] = this.pixel(place);
      pen.beginPath(); pen.moveTo(x, y); pen.lineTo(px, py); pen.stroke();
    }
    const order = this.places.map((_, i) => i);
    if (this.hover >= 0) order.push(this.hover);
    order.forEach((i, n) => {
      const [px, py] = this.pixel(this.places[i]);
      if (px < -side || py < -side || px > w + side || py > h + side) return;
      const thumb = this.thumbs.find(i), big = n === this.places.length ? 1.5 : 1, s = side * big;
      if (thumb) {
        const [image, sx, sy, from] = thumb;
        pen.save();
        pen.beginPath();
        pen.roundRect(px - s / 2, py - s / 2, s, s, 0.16 * s);
        pen.clip();
        pen.drawImage(image, sx, sy, from, from, px - s / 2, py - s / 2, s, s);
        pen.restore();
        pen.lineWidth = big > 1 ? 2 : 1;
        pen.strokeStyle = color(big > 1 ? "--accent" : "--line");
        pen.beginPath();
        pen.roundRect(px - s / 2, py - s / 2, s, s, 0.16 * s);
        pen.stroke();
      } else {
        pen.fillStyle = color("--muted");
        pen.beginPath(); pen.arc(px, py, 3, 0, 7); pen.fill();
      }
    });
    for (const [ink, width] of /** @type {[string, number][]} */ ([[color("--panel"), 6], [color("--mark"), 3]])) { // a ring, seen on any ground
      pen.strokeStyle = ink;
      pen.lineWidth = width;
      pen.beginPath(); pen.arc(x, y, 9, 0, 7); pen.stroke();
    }
  }
}
