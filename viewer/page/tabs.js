// The tabs Interpolate, Camera and Scene.

import { $, button, item } from "./dom.js";
import { frustum } from "./view.js";

export class WalkTab {
  constructor(app) {
    this.app = app;
    const names = app.about.scenes;
    this.stops = names.length > 1 ? [names[0], names[Math.floor(names.length / 2)]] : [];
    this.playing = 0;
    for (const option of [...$("mode").options]) if (!app.about.modes.includes(option.value)) option.remove();
    $("add-stop").addEventListener("click", () => this.add($("stop-name").value.trim()));
    $("stop-name").addEventListener("keydown", (event) => { if (event.key === "Enter") this.add($("stop-name").value.trim()); });
    $("add-current").addEventListener("click", () => this.addCurrent());
    $("play").addEventListener("click", () => this.toggle());
    $("time").addEventListener("input", () => { this.pause(); this.show(Number($("time").value), true); });
    $("mode").addEventListener("change", () => this.show(Number($("time").value), false));
    $("walk-export").addEventListener("click", () => {
      const side = Number($("walk-size").value);
      const wide = app.about.has_camera ? 1 : app.about.aspect;
      const size = wide > 1 ? [Math.round(side / wide), side] : [side, Math.round(side * wide)];
      app.jobs.start($("walk-jobs"), "morph", {
        what: "walk", walk: this.stops, mode: $("mode").value, suffix: $("walk-suffix").value,
        frames: Number($("walk-frames").value), orbit: $("walk-orbit").checked, size,
        timing: $("walk-even").checked ? "even" : "linear",
      });
    });
    this.draw();
  }

  text() { return this.stops.map((stop) => (typeof stop === "string" ? encodeURIComponent(stop) : `*${stop.key}`)).join("|"); }

  read(text) {
    const stops = text.split("|").slice(0, 32).map((part) => (part.startsWith("*") ? { key: part.slice(1) } : decodeURIComponent(part)));
    this.stops = stops.filter((stop) => typeof stop !== "string" || this.known(stop));
    this.draw();
  }

  // A scene, or a sum of scenes, A - B + C.
  known(text) {
    const { number } = this.app.thumbs;
    return number.has(text) || text.split(/\s[+-]\s/).every((name) => number.has(name.trim()));
  }

  add(name) {
    if (!name) return;
    const names = this.app.about.scenes;
    const scene = this.known(name) ? name : names.find((n) => n.toLowerCase().includes(name.toLowerCase()));
    if (!scene) return this.app.note($("notice"), `${name}: no such scene`);
    $("stop-name").value = "";
    this.push(scene);
  }

  addCurrent() { if (this.app.now) this.push(this.app.now.scene ?? { key: this.app.now.key }); }

  push(stop) {
    if (this.stops.length >= 32) return this.app.note($("notice"), "a walk has 32 stops at most");
    this.stops.push(stop);
    this.draw();
    this.app.write();
  }

  draw() {
    $("stops").replaceChildren(...this.stops.map((stop, i) => {
      const name = typeof stop === "string" ? stop : "a blend";
      const pick = this.app.thumbs.button(name, `${i + 1}`, () => { this.pause(); this.show(this.stops.length > 1 ? i / (this.stops.length - 1) : 0, false); });
      const earlier = button("‹", `${name} earlier`, () => this.swap(i - 1));
      earlier.disabled = i === 0;
      return item(pick, earlier, button("×", `remove ${name}`, () => { this.stops.splice(i, 1); this.draw(); this.app.write(); }));
    }));
    for (const id of ["play", "walk-export", "time"]) $(id).disabled = this.stops.length < 2;
  }

  swap(i) {
    [this.stops[i], this.stops[i + 1]] = [this.stops[i + 1], this.stops[i]];
    this.draw();
    this.app.write();
  }

  show(time, moving) {
    if (this.stops.length < 2) return;
    $("time").value = time;
    $("time-text").textContent = `${Math.round(100 * time)} %`;
    this.app.latent = { walk: this.stops, time, mode: $("mode").value };
    this.app.request(moving);
  }

  toggle() { if (this.playing) { this.pause(); this.app.request(); } else this.play(); }

  play() {
    if (this.stops.length < 2) return;
    $("play").textContent = "❚❚ Pause";
    let time = Number($("time").value), way = time >= 1 ? -1 : 1, last = performance.now();
    const step = (now) => {
      const pace = Math.max(Number($("pace").value) || 2, 0.1) * (this.stops.length - 1);
      time += way * (now - last) / 1000 / pace; // there and back again
      last = now;
      if (time >= 1 || time <= 0) { time = Math.min(Math.max(time, 0), 1); way = -way; }
      this.show(time, true);
      this.playing = requestAnimationFrame(step);
    };
    this.playing = requestAnimationFrame(step);
  }

  pause() {
    if (!this.playing) return;
    cancelAnimationFrame(this.playing);
    this.playing = 0;
    $("play").textContent = "▶ Play";
  }
}

export class CameraTab {
  constructor(app) {
    this.app = app;
    this.keys = []; // {matrix, fov in degrees}
    this.frames = [];
    this.line = []; // points of the path, for the 3-D view
    this.overview = false;
    this.playing = 0;
    const click = (id, act) => $(id).addEventListener("click", act);
    click("add-key", () => this.add());
    click("circle", () => this.circle());
    click("clear-keys", () => { this.keys = []; this.changed(); });
    click("home", () => app.home());
    click("preview", () => this.play());
    click("overview", () => this.toggle());
    click("path-render", () => this.render());
    click("path-save", () => this.save());
    click("path-load", () => $("path-file").click());
    click("zoom-in", () => app.zoom(0.7));
    click("zoom-out", () => app.zoom(1 / 0.7));
    click("zoom-fit", () => app.home());
    for (const id of ["seconds", "fps", "path-size", "loop"]) $(id).addEventListener("change", () => this.changed());
    $("path-time").addEventListener("input", () => { this.stop(); this.show(Number($("path-time").value)); });
    $("path-file").addEventListener("change", async () => {
      const file = $("path-file").files[0];
      $("path-file").value = "";
      if (file && file.size > 900000) return app.note($("notice"), `${file.name}: too large for a camera path`);
      if (!file) return;
      this.loading = true;
      app.link.send({ type: "path", path: await file.text() });
    });
    this.draw();
  }

  get flat() { return !this.app.about.has_camera; }

  // The path from outside, for the 3-D view: its line, its keyframes, and where we look from.
  lines(matrix, mark, accent, faint) {
    const edges = (pairs, color, width) => pairs.map((ends) => ({ ends, color, width }));
    const side = [-1, 1], box = [0, 1, 2].flatMap((axis) => side.flatMap((a) => side.map((b) => side.map((c) => {
      const corner = [a, b];
      corner.splice(axis, 0, c);
      return corner;
    }))));
    const way = this.line.slice(1).map((point, i) => [this.line[i], point]);
    const keys = this.keys.flatMap((key) => frustum(key.matrix, key.fov * Math.PI / 180, 1, 0.3));
    const ours = frustum(matrix, this.app.path?.fov ?? this.app.camera.fov, 1, 0.4);
    return [...edges(box, faint, 1), ...edges(way, accent, 2.5), ...edges(keys, mark, 2.5), ...edges(ours, accent, 2.5)];
  }

  add() {
    if (this.flat) return;
    this.app.open("camera");
    this.keys.push({ matrix: this.app.camera.matrix(), fov: this.app.camera.fov * 180 / Math.PI, aspect: 1 });
    this.changed();
  }

  circle() {
    const camera = this.app.camera;
    this.keys = Array.from({ length: 8 }, () => {
      const key = { matrix: camera.matrix(), fov: camera.fov * 180 / Math.PI, aspect: 1 };
      camera.turn(Math.PI / 4, 0);
      return key;
    });
    $("loop").checked = true;
    this.changed();
  }

  file() {
    const side = Number($("path-size").value);
    return {
      keyframes: this.keys, camera_type: "perspective", render_height: side, render_width: side,
      fps: Number($("fps").value), seconds: Number($("seconds").value), is_cycle: $("loop").checked, smoothness_value: 0,
      camera_path: [],
    };
  }

  changed() {
    this.stop();
    this.draw();
    this.frames = [];
    this.line = [];
    if (this.keys.length) this.app.link.send({ type: "path", path: this.file() });
    else if (this.overview) this.app.drawSolid();
  }

  // The server has read a path: ours, with its frames, or one from a file.
  take(path, line) {
    this.frames = path.camera_path;
    this.line = line;
    this.saved = path;
    if (this.waiting) this.play();
    if (this.overview) this.app.drawSolid();
    if (!this.loading) return; // our own fields may have changed meanwhile
    this.loading = false;
    this.keys = path.keyframes;
    $("seconds").value = path.seconds;
    $("fps").value = path.fps;
    $("loop").checked = path.is_cycle;
    const side = String(path.render_height);
    if (![...$("path-size").options].some((option) => option.value === side)) $("path-size").add(new Option(side));
    $("path-size").value = side;
    this.draw();
  }

  draw() {
    $("keys").replaceChildren(...this.keys.map((key, i) => item(
      button("go", `look from keyframe ${i + 1}`, () => { this.stop(); this.app.camera.goTo(key.matrix); this.app.moved(); }),
      " ",
      button("set", `move keyframe ${i + 1} here`, () => {
        this.keys[i] = { matrix: this.app.camera.matrix(), fov: this.app.camera.fov * 180 / Math.PI, aspect: 1 };
        this.changed();
      }),
      " ",
      button("×", `remove keyframe ${i + 1}`, () => { this.keys.splice(i, 1); this.changed(); }),
      ` at ${[3, 7, 11].map((n) => key.matrix[n].toFixed(1)).join(", ")}`,
    )));
    for (const id of ["preview", "path-render", "path-save", "path-time"]) $(id).disabled = !this.keys.length;
  }

  show(time) {
    if (!this.frames.length) return;
    const frame = this.frames[Math.min(Math.round(time * (this.frames.length - 1)), this.frames.length - 1)];
    $("path-time").value = time;
    this.app.path = { matrix: frame.camera_to_world, fov: frame.fov * Math.PI / 180 };
    this.app.request(true);
  }

  play() {
    if (this.flat || !this.keys.length) return;
    if (this.playing) return this.stop();
    this.waiting = !this.frames.length; // until the server has read the path
    if (this.waiting) return;
    $("preview").textContent = "❚❚ Stop";
    const began = performance.now(), length = 1000 * Number($("seconds").value);
    const step = (now) => {
      const time = (now - began) / length;
      this.show(Math.min(time, 1));
      if (time >= 1 && !$("loop").checked) return this.stop();
      this.playing = requestAnimationFrame(time >= 1 ? () => { this.playing = 0; this.play(); } : step);
    };
    this.playing = requestAnimationFrame(step);
  }

  stop() {
    cancelAnimationFrame(this.playing);
    this.playing = 0;
    $("preview").textContent = "▶ Preview";
  }

  toggle() {
    if (this.flat || !this.app.solid) return;
    this.overview = !this.overview;
    if (this.overview) this.app.outside = this.app.camera.outside();
    $("overview").setAttribute("aria-pressed", String(this.overview));
    this.app.request();
  }

  render() {
    this.app.jobs.start($("path-jobs"), "path", {
      what: "path", path: this.file(), latent: this.app.latent, channel: this.app.channel,
      background: this.app.background, suffix: $("path-suffix").value,
    });
  }

  save() {
    if (!this.saved) return;
    const anchor = document.createElement("a");
    anchor.href = URL.createObjectURL(new Blob([JSON.stringify(this.saved, null, 1)], { type: "application/json" }));
    anchor.download = "camera_path.json";
    anchor.click();
    setTimeout(() => URL.revokeObjectURL(anchor.href), 5000);
  }
}

const CHANNELS = { rgb: "colour", depth: "depth", normals: "normals" };

export class SceneTab {
  constructor(app) {
    this.app = app;
    this.report = null;
    $("search").addEventListener("input", () => this.list());
    $("search").addEventListener("keydown", (event) => {
      if (event.key === "Enter") $("scenes").querySelector("li")?.click();
      if (event.key === "ArrowDown") $("scenes").focus();
    });
    $("scenes").addEventListener("keydown", (event) => {
      const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const all = [...$("scenes").children];
      const here = all.findIndex((li) => li.getAttribute("aria-selected") === "true");
      all[Math.min(Math.max(here + step, 0), all.length - 1)]?.click();
    });
    $("channels").replaceChildren(...app.about.channels.map((channel) => {
      const label = document.createElement("label"), input = document.createElement("input");
      Object.assign(input, { type: "radio", name: "channel", value: channel });
      input.addEventListener("change", () => { app.channel = channel; app.request(); });
      label.append(input, ` ${CHANNELS[channel] ?? channel}`);
      return label;
    }));
    $("channels").hidden = app.about.channels.length < 2;
    $("show-reference").addEventListener("change", () => {
      app.reference = $("show-reference").checked;
      app.photograph = app.reference && app.about.has_splits ? Number($("photograph").value) || 1 : null;
      this.sync();
      app.request();
    });
    $("photograph").addEventListener("change", () => {
      app.photograph = Math.max(Number($("photograph").value) || 1, 1);
      app.request();
    });
    $("show-mesh").addEventListener("change", () => { app.asMesh = $("show-mesh").checked; app.request(); });
    $("measure").addEventListener("click", () => app.jobs.start($("measure-jobs"), "measuring", { what: "measure" }, (report) => {
      this.report = report;
      this.metrics();
    }));
    for (const made of document.querySelectorAll("[data-export]")) {
      made.addEventListener("click", () => app.jobs.start($("export-jobs"), `making ${made.dataset.export}`, {
        what: "export", suffix: made.dataset.export, latent: app.latent, channel: app.channel,
        view: app.path ?? app.camera.view(1), size: [512, 512], background: app.background,
      }));
    }
    this.list();
  }

  list() {
    const query = $("search").value.trim().toLowerCase();
    const names = this.app.about.scenes.filter((name) => name.toLowerCase().includes(query)).slice(0, 120);
    $("scenes").replaceChildren(...names.map((name) => {
      const li = item(this.app.thumbs.element(name), this.app.thumbs.label(name));
      li.setAttribute("role", "option");
      li.dataset.name = name;
      li.title = name;
      li.addEventListener("click", () => this.app.go(name));
      return li;
    }));
    if (!names.length) $("scenes").append(item("no scene of that name"));
    this.mark();
  }

  mark() {
    for (const li of $("scenes").children) {
      const here = li.dataset.name === this.app.now?.scene;
      li.setAttribute("aria-selected", String(here));
      if (here && this.app.tab === "scene") li.scrollIntoView({ block: "nearest" });
    }
  }

  describe(latent) {
    if (latent.scene === this.last) return;
    this.last = latent.scene;
    this.mark();
    this.metrics();
  }

  metrics() {
    if (!this.report) return;
    const { headings, scenes, mean } = this.report, values = scenes[this.app.now?.scene];
    const table = document.createElement("table");
    const row = (kind, ...cells) => {
      const tr = table.insertRow();
      cells.forEach((text) => { const cell = document.createElement(kind); cell.textContent = text; tr.append(cell); });
    };
    row("th", "", "this scene", "mean");
    headings.forEach((heading, i) => row("td", heading, values?.[i] ?? "n/a", mean[i]));
    $("metrics").replaceChildren(table);
  }

  sync() {
    $("show-reference").checked = this.app.reference;
    $("show-mesh").checked = this.app.asMesh;
    $("reference").hidden = !this.app.reference;
    $("photograph-row").hidden = !(this.app.reference && this.app.about.has_splits);
    if (this.app.photograph) $("photograph").value = this.app.photograph;
    for (const input of document.querySelectorAll("[name=channel]")) input.checked = input.value === this.app.channel;
  }
}
