// @ts-check
// Fingers, mouse and arrow keys on a picture.

/**
 * What is moved: an orbit camera, or a window on a picture.
 * @typedef {import("./view.js").Camera | import("./view.js").Zoom} Viewpoint
 */

/**
 * @param {HTMLCanvasElement} canvas
 * @param {() => Viewpoint} viewpoint
 * @param {(moving: boolean) => void} moved called after each change
 */
export function mouse(canvas, viewpoint, moved) {
  const aspect = () => canvas.clientWidth / canvas.clientHeight;
  /** @type {Map<number, number[]>} */
  const fingers = new Map();
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    canvas.focus();
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const dx = event.clientX - before[0], dy = event.clientY - before[1];
    const point = viewpoint(), other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
    if (other) {
      const apart = (/** @type {number[]} */ p) => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
      point.zoom(apart(before) / apart([event.clientX, event.clientY]), aspect());
    } else if ("pan" in point) point.pan(dx / canvas.clientWidth, dy / canvas.clientHeight, aspect());
    else if (event.shiftKey || event.buttons & 6) {
      const scale = 2 * Math.tan(point.fov / 2) / Math.min(canvas.clientHeight, canvas.clientWidth);
      point.move(-dx * scale, dy * scale, 0);
    } else point.drag(dx, dy);
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
    moved(true);
  });
  for (const name of /** @type {const} */ (["pointerup", "pointercancel"])) {
    canvas.addEventListener(name, (event) => { if (fingers.delete(event.pointerId)) moved(false); });
  }
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const box = canvas.getBoundingClientRect();
    const at = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    viewpoint().zoom(Math.exp(event.deltaY * 0.0012), aspect(), at);
    moved(true);
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const turn = /** @type {Record<string, number[]>} */ ({ ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] })[event.key];
    if (!turn) return;
    event.preventDefault();
    const step = event.shiftKey ? 4 : 1, point = viewpoint();
    if ("pan" in point) point.pan(turn[0] * 0.03 * step, turn[1] * 0.03 * step, aspect());
    else point.turn(-turn[0] * 0.06 * step, turn[1] * 0.06 * step);
    moved(true);
  });
  fly(canvas, viewpoint, moved);
}

/**
 * W A S D Q E, as long as they are held.
 * @param {HTMLCanvasElement} canvas
 * @param {() => Viewpoint} viewpoint
 * @param {(moving: boolean) => void} moved
 */
function fly(canvas, viewpoint, moved) {
  /** @type {Set<string>} */
  const held = new Set();
  let flying = 0, last = 0;
  const step = (/** @type {number} */ now) => {
    const t = Math.min((now - last) / 1000, 0.1) * 0.5;
    last = now;
    const key = (/** @type {string} */ name) => (held.has(name) ? t : 0);
    const point = viewpoint();
    if ("move" in point) point.move(key("d") - key("a"), key("e") - key("q"), key("w") - key("s"));
    moved(true);
    flying = held.size ? requestAnimationFrame(step) : 0;
  };
  canvas.addEventListener("keydown", (event) => {
    const key = event.key.toLowerCase();
    if (event.ctrlKey || event.metaKey || event.altKey || key.length !== 1 || !"wasdqe".includes(key) || !("move" in viewpoint())) return;
    event.preventDefault();
    held.add(key);
    last = performance.now();
    flying ||= requestAnimationFrame(step);
  });
  canvas.addEventListener("keyup", (event) => held.delete(event.key.toLowerCase()));
  canvas.addEventListener("blur", () => held.clear());
}
