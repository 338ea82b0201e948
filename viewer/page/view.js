// Where we look from: an orbit camera with +Z up, or a window on a picture. Angles in radians.

const add = (a, b, s = 1) => a.map((v, i) => v + s * b[i]);
const dot = (a, b) => a.reduce((sum, v, i) => sum + v * b[i], 0);
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const unit = (a) => { const l = Math.hypot(...a) || 1; return a.map((v) => v / l); };
const clamp = (v, low, high) => Math.min(Math.max(v, low), high);

export class Camera {
  constructor(home) {
    this.home = home;
    this.reset();
  }

  reset() { this.set(this.home.position, this.home.target); this.fov = this.home.fov; }

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

  turn(yaw, pitch) {
    this.yaw += yaw;
    this.pitch = clamp(this.pitch + pitch, -1.55, 1.55);
  }

  zoom(factor) { this.radius = clamp(this.radius * factor, 0.2, 30); }

  axes() {
    const back = this.back;
    const right = unit(cross([0, 0, 1], back));
    return { right, up: cross(back, right), back };
  }

  move(right, up, forward) { // in radii
    const axes = this.axes();
    const step = add(add(axes.right.map((v) => v * right), axes.up, up), axes.back, -forward);
    this.target = add(this.target, step, this.radius).map((v) => clamp(v, -20, 20));
  }

  // A picture that is higher than wide keeps the angle of its width.
  angle(aspect) { return aspect >= 1 ? this.fov : 2 * Math.atan(Math.tan(this.fov / 2) / aspect); }

  view(aspect) {
    return { position: this.position, target: this.target, fov: clamp(this.angle(aspect), 0.02, 3) };
  }

  matrix() { // nerfstudio's: row by row, OpenGL axes
    const { right, up, back } = this.axes();
    const p = this.position;
    return [0, 1, 2].flatMap((i) => [right[i], up[i], back[i], p[i]]).concat([0, 0, 0, 1]);
  }

  goTo(matrix) {
    const position = [matrix[3], matrix[7], matrix[11]];
    const back = unit([matrix[2], matrix[6], matrix[10]]);
    const ahead = dot(position, back); // the target is the point of the axis next to the origin
    this.set(position, add(position, back, -Math.max(ahead, 0.3)));
  }

  text() { return [...this.position, ...this.target].map((v) => +v.toFixed(3)).join(","); }

  read(text) {
    const numbers = text.split(",").map(Number);
    if (numbers.length === 6 && numbers.every(Number.isFinite)) this.set(numbers.slice(0, 3), numbers.slice(3));
  }
}

export class Zoom { // a window on a picture; `height` is the share of the picture's height that is seen
  constructor(aspect) { this.aspect = aspect; this.reset(); }

  reset() { this.x = 0.5; this.y = 0.5; this.height = 1.08; this.fit = true; }

  span(aspect) { // [width, height] that is seen, in pictures
    const fitted = this.fit && aspect < this.aspect ? this.height * this.aspect / aspect : this.height;
    return [fitted * aspect / this.aspect, fitted];
  }

  zoom(factor, aspect, at = [0.5, 0.5]) {
    const [w, h] = this.span(aspect);
    this.fit = false;
    const height = clamp(h * factor, 0.01, 6);
    const k = 1 - height / h;
    this.x += (at[0] - 0.5) * w * k;
    this.y += (at[1] - 0.5) * h * k;
    this.height = height;
  }

  pan(dx, dy, aspect) { // in panes
    const [w, h] = this.span(aspect);
    this.x = clamp(this.x - dx * w, -1, 2);
    this.y = clamp(this.y - dy * h, -1, 2);
  }

  view(aspect) {
    const [w, h] = this.span(aspect);
    return { window: [this.x - w / 2, this.y - h / 2, this.x + w / 2, this.y + h / 2] };
  }

  text() { return [this.x, this.y, this.height].map((v) => +v.toFixed(4)).join(","); }

  read(text) {
    const [x, y, height] = text.split(",").map(Number);
    if ([x, y, height].every(Number.isFinite) && height > 0.005 && height < 10) Object.assign(this, { x, y, height, fit: height === 1.08 });
  }
}
