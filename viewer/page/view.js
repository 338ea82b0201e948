// @ts-check
// Viewpoints: an orbit camera with +Z up, or a window on a picture. Angles in radians. No DOM: tests run this in node.

/** @typedef {number[]} Vector three numbers */
/** @typedef {{position: Vector, target: Vector, fov: number}} OrbitView */
/** @typedef {{matrix: number[], fov: number}} MatrixView nerfstudio's matrix: row by row, OpenGL axes */

/** @param {Vector} a @param {Vector} b */
export const add = (a, b, s = 1) => a.map((v, i) => v + s * b[i]);
/** @param {Vector} a @param {Vector} b */
export const dot = (a, b) => a.reduce((sum, v, i) => sum + v * b[i], 0);
/** @param {Vector} a @param {Vector} b */
export const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
/** @param {Vector} a */
export const unit = (a) => { const l = Math.hypot(...a) || 1; return a.map((v) => v / l); };
/** @param {number} v @param {number} low @param {number} high */
export const clamp = (v, low, high) => Math.min(Math.max(v, low), high);

/** An OpenGL camera's pose, row by row. @param {Vector} position @param {Vector} back @returns {number[]} */
function pose(position, back) {
  const right = unit(cross([0, 0, 1], back)), up = cross(back, right);
  return [0, 1, 2].flatMap((i) => [right[i], up[i], back[i], position[i]]).concat([0, 0, 0, 1]);
}

/** The pose of a view, row by row, OpenGL axes. @param {OrbitView | MatrixView} view @returns {number[]} */
export const matrixOf = (view) => ("matrix" in view ? view.matrix : pose(view.position, unit(add(view.position, view.target, -1))));

/**
 * World to clip space, column by column as WebGL wants it.
 * @param {OrbitView | MatrixView} view its fov is vertical
 * @param {number} aspect width over height
 */
export function clipMatrix(view, aspect, near = 0.01, far = 100) {
  const m = matrixOf(view), f = 1 / Math.tan(view.fov / 2);
  const axis = (/** @type {number} */ i) => [m[i], m[4 + i], m[8 + i]]; // right, up, back, position
  const rows = [0, 1, 2].map((i) => [...axis(i), -dot(axis(i), axis(3))]); // world to camera
  const depth = (far + near) / (near - far), shift = (2 * far * near) / (near - far);
  const clip = [rows[0].map((v) => v * f / aspect), rows[1].map((v) => v * f), rows[2].map((v, i) => v * depth + (i === 3 ? shift : 0)), rows[2].map((v) => -v)];
  return new Float32Array([0, 1, 2, 3].flatMap((c) => clip.map((row) => row[c])));
}

/**
 * The edges of a camera's pyramid, and a mark above it: pairs of points.
 * @param {number[]} matrix row by row, OpenGL axes
 * @param {number} fov vertical
 * @param {number} aspect width over height
 * @param {number} depth of the pyramid
 * @returns {[Vector, Vector][]}
 */
export function frustum(matrix, fov, aspect, depth) {
  const y = depth * Math.tan(fov / 2), x = y * aspect;
  const world = (/** @type {Vector} */ p) => [0, 1, 2].map((i) => dot(matrix.slice(4 * i, 4 * i + 3), p) + matrix[4 * i + 3]);
  const corners = [[-x, -y], [x, -y], [x, y], [-x, y]].map(([a, b]) => world([a, b, -depth]));
  const mark = [[-0.5 * x, 1.1 * y], [0.5 * x, 1.1 * y], [0, 1.6 * y]].map(([a, b]) => world([a, b, -depth]));
  /** @type {(points: Vector[]) => [Vector, Vector][]} */
  const ring = (points) => points.map((p, i) => [p, points[(i + 1) % points.length]]);
  const eye = world([0, 0, 0]);
  return [...corners.map((corner) => /** @type {[Vector, Vector]} */ ([eye, corner])), ...ring(corners), ...ring(mark)];
}

export class Camera {
  /** @param {OrbitView} home */
  constructor(home) {
    this.home = home;
    this.fov = home.fov; // of the shorter side
    this.radius = this.yaw = this.pitch = 0;
    /** @type {Vector} */
    this.target = [0, 0, 0];
    this.reset();
  }

  reset() { this.set(this.home.position, this.home.target); this.fov = this.home.fov; }

  /** @param {Vector} position @param {Vector} target */
  set(position, target) {
    const away = add(position, target, -1);
    this.radius = clamp(Math.hypot(...away), 0.05, 50);
    this.yaw = Math.atan2(away[1], away[0]);
    this.pitch = Math.asin(clamp(away[2] / (Math.hypot(...away) || 1), -1, 1));
    this.target = [...target];
    this.turn(0, 0);
  }

  get back() {
    return [Math.cos(this.pitch) * Math.cos(this.yaw), Math.cos(this.pitch) * Math.sin(this.yaw), Math.sin(this.pitch)];
  }

  get position() { return add(this.target, this.back, this.radius); }

  /** @param {number} yaw @param {number} pitch */
  turn(yaw, pitch) {
    this.yaw += yaw;
    this.pitch = clamp(this.pitch + pitch, -1.55, 1.55);
  }

  /** A drag by the mouse turns. @param {number} dx @param {number} dy pixels */
  drag(dx, dy) { this.turn(-dx * 0.008, dy * 0.008); }

  /** @param {number} factor @param {...any} _ where a window needs to know more */
  zoom(factor, ..._) { this.radius = clamp(this.radius * factor, 0.2, 30); }

  /** By parts of the radius. @param {number} right @param {number} up @param {number} forward */
  move(right, up, forward) {
    const back = this.back, side = unit(cross([0, 0, 1], back));
    const step = add(add(side.map((v) => v * right), cross(back, side), up), back, -forward);
    this.target = add(this.target, step, this.radius).map((v) => clamp(v, -20, 20));
  }

  /** A picture that is higher than wide keeps the angle of its width. @param {number} aspect */
  angle(aspect) { return aspect >= 1 ? this.fov : 2 * Math.atan(Math.tan(this.fov / 2) / aspect); }

  /** @param {number} aspect @returns {OrbitView} */
  view(aspect) {
    return { position: this.position, target: this.target, fov: clamp(this.angle(aspect), 0.02, 3) };
  }

  matrix() { return pose(this.position, this.back); }

  /** A camera farther away that sees this one. */
  outside() {
    const outside = new Camera({ position: this.position, target: this.target, fov: this.fov });
    outside.radius = clamp(2.4 * this.radius, 0.2, 30);
    outside.turn(0.35, 0.3);
    return outside;
  }

  /** @param {number[]} matrix */
  goTo(matrix) {
    const position = [matrix[3], matrix[7], matrix[11]];
    const back = unit([matrix[2], matrix[6], matrix[10]]);
    const ahead = dot(position, back); // the target is the point of the axis next to the origin
    this.set(position, add(position, back, -Math.max(ahead, 0.3)));
  }

  text() { return [...this.position, ...this.target].map((v) => +v.toFixed(3)).join(","); }

  /** @param {string} text */
  read(text) {
    const values = text.split(",").map(Number);
    if (values.length === 6 && values.every(Number.isFinite)) this.set(values.slice(0, 3), values.slice(3));
  }
}

export class Zoom { // a window on a picture; `height` is the share of the picture's height that is seen
  /** @param {number} aspect of the picture */
  constructor(aspect) {
    this.aspect = aspect;
    this.x = this.y = 0.5;
    this.height = 1.08;
    this.fit = true;
  }

  reset() { this.x = 0.5; this.y = 0.5; this.height = 1.08; this.fit = true; }

  /** [width, height] that is seen, in pictures. @param {number} aspect of the pane */
  span(aspect) {
    const fitted = this.fit && aspect < this.aspect ? this.height * this.aspect / aspect : this.height;
    return [fitted * aspect / this.aspect, fitted];
  }

  /** @param {number} factor @param {number} aspect @param {number[]} at place in the pane */
  zoom(factor, aspect, at = [0.5, 0.5]) {
    const [w, h] = this.span(aspect);
    this.fit = false;
    const height = clamp(h * factor, 0.01, 6);
    const k = 1 - height / h;
    this.x += (at[0] - 0.5) * w * k;
    this.y += (at[1] - 0.5) * h * k;
    this.height = height;
  }

  /** @param {number} dx @param {number} dy in panes @param {number} aspect */
  pan(dx, dy, aspect) {
    const [w, h] = this.span(aspect);
    this.x = clamp(this.x - dx * w, -1, 2);
    this.y = clamp(this.y - dy * h, -1, 2);
  }

  /** @param {number} aspect */
  view(aspect) {
    const [w, h] = this.span(aspect);
    return { window: [this.x - w / 2, this.y - h / 2, this.x + w / 2, this.y + h / 2] };
  }

  text() { return [this.x, this.y, this.height].map((v) => +v.toFixed(4)).join(","); }

  /** @param {string} text */
  read(text) {
    const [x, y, height] = text.split(",").map(Number);
    if ([x, y, height].every(Number.isFinite) && height > 0.005 && height < 10) Object.assign(this, { x, y, height, fit: height === 1.08 });
  }
}
