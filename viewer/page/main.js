// The page: one state, which is also in the address; whatever changes it asks for a picture.

import { Jobs } from "./jobs.js";
import { Link } from "./link.js";
import { LatentMap } from "./map.js";
import { CameraTab, SceneTab, WalkTab } from "./tabs.js";
import { Thumbs } from "./thumbs.js";
import { Camera, Zoom } from "./view.js";

export const $ = (id) => document.getElementById(id);
const TABS = ["latent", "walk", "camera", "scene"];
const STILL = 160; // milliseconds without a change until all is still
const LONGEST = { images: 768, shapes: 512, views: 512 }; // pixels of a finished picture

class App {
  constructor() {
    this.latent = null;
    this.tab = "latent";
    this.channel = "rgb";
    this.truth = false;
    this.photograph = null;
    this.mesh = false;
    this.sent = 0;
    this.drawn = 0;
    this.log = new Map(); // number of a look -> when it was asked for; also for measuring
    this.timer = 0;
    this.theme(localStorage.getItem("theme") || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
    this.link = new Link((message, blob) => this.hear(message, blob), (good, text) => this.linked(good, text));
    this.jobs = new Jobs(this.link);
    addEventListener("hashchange", () => { if (location.hash !== this.hash) { this.read(); this.look(); } });
    addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.look()).observe($("stage"));
    $("theme").addEventListener("click", () => this.theme(this.dark ? "light" : "dark"));
    $("help").addEventListener("click", () => $("keys-help").showModal());
    for (const tab of document.querySelectorAll("[role=tab]")) tab.addEventListener("click", () => this.open(tab.dataset.tab));
    document.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      this.open(TABS[(TABS.indexOf(this.tab) + step + 4) % 4]);
      document.querySelector("[role=tab][aria-selected=true]").focus();
    });
  }

  get dark() { return document.documentElement.dataset.theme === "dark"; }

  theme(name) {
    document.documentElement.dataset.theme = name;
    localStorage.setItem("theme", name);
    this.map?.draw();
    this.look();
  }

  linked(good, text) {
    $("link").textContent = text;
    $("link").classList.toggle("good", good);
    if (!good) this.jobs?.lost();
  }

  // What the server says ---------------------------------------------------------------------------------------

  hear(message, blob) {
    if (message.type === "hello") return this.hello(message);
    if (message.type === "picture") return this.draw(message, blob);
    if (message.type === "path") return this.cameraTab.take(message.path);
    if (message.type === "mesh") return this.solid(message);
    if (message.type === "no truth") return this.note($("truth-note"), message.text, message.views);
    if (message.job !== undefined) return this.jobs.hear(message);
    if (message.type === "error") {
      this.cameraTab.loading = false;
      this.note($("notice"), message.text);
    }
  }

  note(box, text, views) {
    box.textContent = text;
    box.hidden = !text;
    if (views) $("photograph").max = views;
    if (box === $("notice")) { clearTimeout(this.fade); this.fade = setTimeout(() => { box.hidden = true; }, 6000); }
  }

  hello(hello) {
    const again = this.about !== undefined;
    this.about = hello;
    document.title = `${hello.run} · hyperfields`;
    $("run").textContent = `${hello.run} · ${hello.scenes.length.toLocaleString("en")} ${hello.kind} · codes of ${hello.latent_size} · ${hello.bytes.toLocaleString("en")} bytes a scene`;
    if (again) { this.frame?.remove(); this.frame = null; return this.look(); }
    for (const element of document.querySelectorAll(".spatial")) element.hidden = hello.kind === "images";
    for (const element of document.querySelectorAll(".flat")) element.hidden = hello.kind !== "images";
    for (const element of document.querySelectorAll(".shapes")) element.hidden = hello.kind !== "shapes";
    this.mesh = hello.kind === "shapes";
    this.camera = hello.kind === "images" ? new Zoom(hello.aspect) : new Camera(hello.camera);
    this.thumbs = new Thumbs(hello.thumbs, hello.scenes);
    this.map = new LatentMap($("map"), hello, this.thumbs, (at, moving) => {
      this.walkTab.pause();
      this.latent = { at };
      this.look(moving);
    });
    $("names").replaceChildren(...hello.scenes.slice(0, 2000).map((name) => new Option(name)));
    this.sliders();
    this.walkTab = new WalkTab(this);
    this.cameraTab = new CameraTab(this);
    this.sceneTab = new SceneTab(this);
    $("random").addEventListener("click", () => this.random());
    $("reset").addEventListener("click", () => this.reset());
    this.mouse($("picture"));
    this.latent = { scene: hello.scenes[0] };
    this.read();
    this.look();
  }

  // Pictures ---------------------------------------------------------------------------------------------------

  // Ask for a picture: once a frame of the browser at most, and for a finished one when nothing moves any more.
  look(moving = false) {
    if (!this.latent) return;
    clearTimeout(this.timer);
    this.moving = moving;
    this.changed = performance.now();
    $("picture").classList.remove("through");
    document.body.dataset.level = "asked";
    if (!this.asked) {
      this.asked = true;
      requestAnimationFrame(() => { this.asked = false; this.ask(); });
    }
    if (moving) this.timer = setTimeout(() => this.look(false), STILL);
    else this.timer = setTimeout(() => this.write(), 60);
  }

  ask() {
    const box = $("result").getBoundingClientRect();
    if (box.width < 8 || box.height < 8) return;
    const ratio = Math.min(LONGEST[this.about.kind] / Math.max(box.width, box.height), window.devicePixelRatio || 1);
    const size = [Math.max(Math.round(box.height * ratio), 8), Math.max(Math.round(box.width * ratio), 8)];
    this.number = ++this.sent;
    const view = this.path ?? this.camera.view(box.width / box.height);
    if (this.path) view.fov = this.path.fov;
    this.log.set(this.number, { changed: this.changed, sent: performance.now() });
    if (this.log.size > 600) this.log.delete(this.log.keys().next().value);
    if (!this.moving && this.mesh && this.frame && !this.cameraTab.overview) this.place(view);
    this.link.send({
      type: "look", id: this.number, latent: this.latent, view, size, channel: this.channel,
      background: this.dark ? 0.094 : 1, moving: this.moving, truth: this.truth,
      mesh: (this.mesh && this.channel === "rgb" && !this.photograph && !this.truth) || this.cameraTab.overview,
      ...(this.photograph ? { photograph: this.photograph - 1 } : {}),
    });
  }

  async draw(message, blob) {
    const entry = this.log.get(message.id);
    const image = await createImageBitmap(blob);
    if (message.level !== "truth" && message.id < this.drawn) return; // a newer one is there already
    const canvas = message.level === "truth" ? $("truth-picture") : $("picture");
    if (message.level === "truth") {
      $("truth-note").hidden = true;
      if (message.views) $("photograph").max = message.views;
    } else this.drawn = message.id;
    fit(canvas, image);
    if (message.level === "truth") return;
    $("readout").textContent = `${message.size[1]}×${message.size[0]} · ${message.ms.toFixed(0)} ms`;
    if (entry) entry[message.level] ??= performance.now();
    document.body.dataset.level = message.id === this.number ? message.level : "moving";
    document.body.dataset.pictures = Number(document.body.dataset.pictures || 0) + 1;
    this.describe(message.latent);
    if (message.level === "still") {
      this.thumbs.load();
      if ((this.mesh || this.cameraTab.overview) && !this.frame) this.openSolid();
    }
  }

  // What a latent is called, where it lies, what is near.
  describe(latent) {
    this.now = latent;
    const [near, second] = latent.nearest;
    const title = latent.scene ?? (second ? `between ${near[0]} and ${second[0]}` : "a blend");
    $("caption").textContent = title;
    $("map-name").textContent = latent.scene ?? "a blend";
    this.map.show(latent, !("at" in this.latent));
    const key = JSON.stringify(latent.nearest);
    if (key !== this.nearKey) {
      this.nearKey = key;
      $("nearest").replaceChildren(...latent.nearest.map(([name, distance]) => {
        const item = document.createElement("li");
        item.append(this.thumbs.button(name, distance < 1e-3 ? "here" : distance.toFixed(2), () => this.go(name)));
        return item;
      }));
    }
    this.bars.forEach(({ input, output }, i) => {
      if (document.activeElement !== input || !this.sliding) input.value = latent.coordinates[i];
      output.textContent = Number(latent.coordinates[i]).toFixed(2);
    });
    this.sceneTab.describe(latent);
  }

  // The mesh in viser's scene, below the picture ---------------------------------------------------------------

  openSolid() {
    this.frame = document.createElement("iframe");
    this.frame.title = "Mesh and camera path in 3-D";
    this.frame.tabIndex = -1;
    this.frame.src = `/viser/${this.about.session}/${this.dark ? "?darkMode" : ""}`;
    this.frame.addEventListener("load", () => {
      const style = this.frame.contentDocument.createElement("style");
      style.textContent = ".mantine-Paper-root,.mantine-Notifications-root,.mantine-Notification-root,.mantine-Affix-root{display:none!important}";
      this.frame.contentDocument.head.append(style);
    });
    $("result").prepend(this.frame);
    this.place(this.camera.view($("result").clientWidth / $("result").clientHeight));
  }

  // Where viser looks from: as we do, or from farther away where the path is to be seen.
  place(view) {
    if (this.cameraTab.overview) {
      const far = Object.assign(Object.create(Object.getPrototypeOf(this.camera)), this.camera);
      far.radius *= 2.4;
      far.turn(0.35, 0.3);
      view = far.view($("result").clientWidth / $("result").clientHeight);
    }
    this.link.send({ type: "stage", view, dark: this.dark, overview: this.cameraTab.overview });
  }

  solid(message) {
    if (message.id !== this.number || this.moving || !this.frame || this.cameraTab.overview) return;
    clearTimeout(this.through);
    this.through = setTimeout(() => {
      const shown = this.frame?.contentDocument?.querySelector("canvas");
      if (message.id === this.number && shown && this.mesh) $("picture").classList.add("through");
      else if (message.id === this.number && this.mesh) this.solid(message);
    }, 700);
  }

  // Latents ----------------------------------------------------------------------------------------------------

  go(name) {
    this.walkTab.pause();
    this.latent = { scene: name };
    this.look();
  }

  step(by) {
    const names = this.about.scenes;
    const here = names.indexOf(this.now?.scene ?? this.now?.nearest[0][0]);
    this.go(names[(here + by + names.length) % names.length]);
  }

  random() {
    this.walkTab.pause();
    this.latent = { seed: Math.floor(Math.random() * 2 ** 31) };
    this.look();
  }

  reset() { this.go(this.about.scenes[0]); }

  sliders() {
    this.bars = [];
    for (let i = 0; i < this.about.axes; i++) {
      const label = document.createElement("label");
      const input = document.createElement("input");
      const output = document.createElement("output");
      label.textContent = `axis ${i + 1}`;
      label.htmlFor = input.id = `axis-${i + 1}`;
      Object.assign(input, { type: "range", min: -3, max: 3, step: 0.02, value: 0 });
      input.addEventListener("input", () => {
        if (!this.now) return;
        this.walkTab.pause();
        if (!this.sliding) this.sliding = { key: this.now.key };
        const coordinates = this.bars.map((bar) => Number(bar.input.value));
        this.latent = { key: this.sliding.key, coordinates };
        this.look(true);
      });
      input.addEventListener("change", () => { this.sliding = null; });
      $("sliders").append(label, input, output);
      this.bars.push({ input, output });
    }
  }

  // The address ------------------------------------------------------------------------------------------------

  write() {
    if (!this.now || this.moving) return;
    const hash = new URLSearchParams();
    if (this.now.scene) hash.set("scene", this.now.scene);
    else hash.set("key", this.now.key);
    hash.set("tab", this.tab);
    hash.set(this.about.kind === "images" ? "window" : "camera", this.camera.text());
    if (this.channel !== "rgb") hash.set("channel", this.channel);
    if (this.truth) hash.set("truth", "1");
    if (this.photograph) hash.set("view", this.photograph);
    if (this.about.kind === "shapes" && !this.mesh) hash.set("mesh", "0");
    const stops = this.walkTab.text();
    if (stops) hash.set("walk", stops);
    this.hash = `#${hash}`;
    history.replaceState(null, "", this.hash);
  }

  read() {
    const hash = new URLSearchParams(location.hash.slice(1));
    if (hash.get("key")) this.latent = { key: hash.get("key") };
    else if (this.thumbs.number.has(hash.get("scene"))) this.latent = { scene: hash.get("scene") };
    else if (hash.get("scene")) this.note($("notice"), `${hash.get("scene")}: no such scene here`);
    const view = hash.get("camera") ?? hash.get("window");
    if (view) this.camera.read(view);
    if (this.about.channels.includes(hash.get("channel"))) this.channel = hash.get("channel");
    this.truth = hash.get("truth") === "1";
    this.photograph = Number(hash.get("view")) || null;
    this.mesh = this.about.kind === "shapes" && hash.get("mesh") !== "0";
    if (hash.get("walk")) this.walkTab.read(hash.get("walk"));
    this.sceneTab.sync();
    this.open(TABS.includes(hash.get("tab")) ? hash.get("tab") : this.tab);
  }

  open(tab) {
    this.tab = tab;
    for (const name of TABS) {
      $(name).hidden = name !== tab;
      const button = document.querySelector(`[data-tab=${name}]`);
      button.setAttribute("aria-selected", String(name === tab));
      button.tabIndex = name === tab ? 0 : -1;
    }
    this.map?.draw();
    if (this.about) { clearTimeout(this.timer); this.timer = setTimeout(() => this.moving ? this.look() : this.write(), 80); }
  }

  // Mouse and keys ---------------------------------------------------------------------------------------------

  // The camera was moved by hand.
  moved() {
    this.path = null;
    if (this.photograph) { this.photograph = null; this.sceneTab.sync(); }
    this.look(true);
  }

  mouse(canvas) {
    const flat = this.about.kind === "images";
    const aspect = () => canvas.clientWidth / canvas.clientHeight;
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
      if (fingers.size === 2) {
        const other = [...fingers].find(([id]) => id !== event.pointerId)[1];
        const apart = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
        const factor = apart(before) / apart([event.clientX, event.clientY]);
        if (flat) this.camera.zoom(factor, aspect());
        else this.camera.zoom(factor);
      } else if (flat) this.camera.pan(dx / canvas.clientWidth, dy / canvas.clientHeight, aspect());
      else if (event.shiftKey || event.buttons & 6) {
        const scale = 2 * Math.tan(this.camera.fov / 2) / Math.min(canvas.clientHeight, canvas.clientWidth);
        this.camera.move(-dx * scale, dy * scale, 0);
      } else this.camera.turn(-dx * 0.008, dy * 0.008);
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
      this.moved();
    });
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => { if (fingers.delete(event.pointerId)) this.look(); });
    }
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const box = canvas.getBoundingClientRect();
      const at = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
      this.zoom(Math.exp(event.deltaY * 0.0012), at);
    }, { passive: false });
    this.held = new Set();
    canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const turn = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      if (turn) {
        event.preventDefault();
        const step = event.shiftKey ? 4 : 1;
        if (flat) this.camera.pan(turn[0] * 0.03 * step, turn[1] * 0.03 * step, aspect());
        else this.camera.turn(-turn[0] * 0.06 * step, turn[1] * 0.06 * step);
        this.moved();
      } else if (!flat && "wasdqe".includes(event.key.toLowerCase()) && event.key.length === 1) {
        event.preventDefault();
        this.held.add(event.key.toLowerCase());
        this.fly();
      }
    });
    canvas.addEventListener("keyup", (event) => this.held.delete(event.key.toLowerCase()));
    canvas.addEventListener("blur", () => this.held.clear());
  }

  fly() {
    if (this.flying) return;
    let last = performance.now();
    const step = (now) => {
      const t = Math.min((now - last) / 1000, 0.1) * 0.5;
      last = now;
      const key = (name) => (this.held.has(name) ? t : 0);
      this.camera.move(key("d") - key("a"), key("e") - key("q"), key("w") - key("s"));
      this.moved();
      this.flying = this.held.size ? requestAnimationFrame(step) : 0;
    };
    this.flying = requestAnimationFrame(step);
  }

  zoom(factor, at) {
    const canvas = $("picture");
    if (this.about.kind === "images") this.camera.zoom(factor, canvas.clientWidth / canvas.clientHeight, at);
    else this.camera.zoom(factor);
    this.moved();
  }

  home() {
    this.camera.reset();
    this.moved();
    this.look();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || $("keys-help").open || !this.about) return;
    const field = event.target.closest("input, select, textarea");
    if (field && !["range", "checkbox", "radio"].includes(field.type)) {
      if (event.key === "Escape") field.blur();
      return;
    }
    const actions = {
      1: () => this.open("latent"), 2: () => this.open("walk"), 3: () => this.open("camera"), 4: () => this.open("scene"),
      "[": () => this.step(-1), "]": () => this.step(1), r: () => this.random(), 0: () => this.reset(),
      m: () => { this.open("latent"); $("map").focus(); }, c: () => $("picture").focus(), h: () => this.home(),
      "+": () => this.zoom(0.85), "=": () => this.zoom(0.85), "-": () => this.zoom(1 / 0.85),
      t: () => this.theme(this.dark ? "light" : "dark"), "?": () => $("keys-help").showModal(),
      "/": () => { this.open("scene"); $("search").focus(); }, " ": () => this.walkTab.toggle(),
      k: () => this.cameraTab.add(), p: () => this.cameraTab.play(), v: () => this.cameraTab.toggle(),
    };
    if (event.key === " " && event.target.closest("button:not([role=tab]), [type=checkbox], [type=radio]")) return;
    const act = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }
}

// Draw an image as large as the canvas holds it.
function fit(canvas, image) {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
  if (!width || !height) return;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const pen = canvas.getContext("2d");
  const scale = Math.min(width / image.width, height / image.height);
  const full = Math.abs(width / height - image.width / image.height) < 0.03;
  const w = full ? width : image.width * scale, h = full ? height : image.height * scale;
  pen.clearRect(0, 0, width, height);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(image, (width - w) / 2, (height - h) / 2, w, h);
}

window.viewer = new App();
