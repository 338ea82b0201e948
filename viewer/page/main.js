// The page: one state, which is also in the address; whatever changes it asks for a picture.

import { $, color } from "./dom.js";
import { Jobs } from "./jobs.js";
import { Link } from "./link.js";
import { LatentMap } from "./map.js";
import { mouse } from "./mouse.js";
import { Solid } from "./solid.js";
import { CameraTab, SceneTab, WalkTab } from "./tabs.js";
import { Thumbs } from "./thumbs.js";
import { Camera, Zoom, matrixOf } from "./view.js";

const TABS = ["latent", "walk", "camera", "scene"];
const STILL = 160; // milliseconds without a change until all is still
const LONGEST = 1024; // pixels of a finished picture

class App {
  constructor() {
    this.latent = null;
    this.tab = "latent";
    this.channel = "";
    this.reference = false;
    this.photograph = null;
    this.asMesh = false;
    this.sent = 0;
    this.drawing = Promise.resolve();
    this.log = new Map(); // number of a request -> when it was made; also for measuring
    this.timer = 0;
    this.finding = 0;
    this.theme(localStorage.getItem("theme") || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
    this.link = new Link((message, bytes) => this.hear(message, bytes), (good, text) => this.linked(good, text));
    this.jobs = new Jobs(this.link);
    addEventListener("hashchange", () => { if (location.hash !== this.hash) { this.read(); this.request(); } });
    addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.request()).observe($("panes"));
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

  get background() { return this.dark ? 0.094 : 1; }

  theme(name) {
    document.documentElement.dataset.theme = name;
    localStorage.setItem("theme", name);
    this.map?.draw();
    this.request();
  }

  linked(good, text) {
    $("link").textContent = text;
    $("link").classList.toggle("good", good);
    if (!good) this.jobs?.lost();
  }

  // What the server says ---------------------------------------------------------------------------------------

  hear(message, bytes) {
    if (message.type === "hello") return this.hello(message);
    if (message.type === "picture") { // decoded one after another: a small one may take longer than the large one after it
      this.drawing = this.drawing.then(() => this.draw(message, new Blob([bytes], { type: "image/jpeg" }))).catch(reportError);
      return;
    }
    if (message.type === "path") return this.cameraTab.take(message.path, message.line);
    if (message.type === "mesh") return this.takeMesh(message, bytes);
    if (message.type === "no reference") return this.note($("reference-note"), message.text, message.views);
    if (message.job !== undefined) return this.jobs.hear(message);
    if (message.type === "notice") return this.linked(true, message.text);
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
    if (again) return this.request();
    document.title = `${hello.run} · hyperfields`;
    $("run").textContent = `${hello.run} · ${hello.scenes.length.toLocaleString("en")} ${hello.kind} · codes of ${hello.latent_size} · ${hello.bytes.toLocaleString("en")} bytes a scene`;
    const there = { camera: hello.has_camera, window: !hello.has_camera, mesh: hello.has_mesh, splits: hello.has_splits };
    for (const element of document.querySelectorAll("[data-needs]")) element.hidden = !there[element.dataset.needs];
    this.channel = hello.channels[0];
    this.camera = hello.has_camera ? new Camera(hello.camera) : new Zoom(hello.aspect);
    if (hello.has_camera) this.openSolid();
    this.thumbs = new Thumbs(hello.thumbs, hello.scenes);
    this.map = new LatentMap($("map"), hello, this.thumbs, (at, moving) => {
      this.walkTab.pause();
      this.latent = { at };
      this.request(moving);
    });
    $("names").replaceChildren(...hello.scenes.slice(0, 2000).map((name) => new Option(name)));
    this.sliders();
    this.walkTab = new WalkTab(this);
    this.cameraTab = new CameraTab(this);
    this.sceneTab = new SceneTab(this);
    $("random").addEventListener("click", () => this.random());
    $("reset").addEventListener("click", () => this.reset());
    mouse($("picture"), () => this.camera, (moving) => this.moved(moving));
    this.latent = { scene: hello.scenes[0] };
    this.read();
    this.request();
  }

  // Pictures ---------------------------------------------------------------------------------------------------

  // Ask for a picture: once a frame of the browser at most, and for a finished one when nothing moves any more.
  request(moving = false) {
    if (!this.latent) return;
    clearTimeout(this.timer);
    this.moving = moving;
    this.changed = performance.now();
    if (!this.covered) document.body.dataset.level = "asked";
    if (!this.asked) {
      this.asked = true;
      requestAnimationFrame(() => { this.asked = false; this.ask(); });
    }
    if (moving) this.timer = setTimeout(() => this.request(false), STILL);
    else this.timer = setTimeout(() => this.write(), 60);
  }

  ask() {
    const box = $("result").getBoundingClientRect();
    if (box.width < 8 || box.height < 8) return;
    this.cover();
    if (this.covered) return this.drawSolid();
    const ratio = Math.min(LONGEST / Math.max(box.width, box.height), window.devicePixelRatio || 1);
    const size = [Math.max(Math.round(box.height * ratio), 8), Math.max(Math.round(box.width * ratio), 8)];
    this.number = ++this.sent;
    this.log.set(this.number, { changed: this.changed, sent: performance.now(), latent: JSON.stringify(this.latent) });
    if (this.log.size > 600) this.log.delete(this.log.keys().next().value);
    if (this.cameraTab.overview) this.drawSolid();
    if (this.latent.mode === "moved") this.finding ||= setTimeout(() => this.note($("notice"), "finding what moves where …"), 500);
    this.link.send({
      type: "view", id: this.number, latent: this.latent, view: this.view(box.width / box.height), size,
      channel: this.channel, background: this.background, moving: this.moving, reference: this.reference,
      mesh: this.showsMesh || (this.cameraTab.overview && this.about.has_mesh),
      ...(this.photograph ? { photograph: this.photograph - 1 } : {}),
    });
  }

  view(aspect) { return this.path ?? this.camera.view(aspect); }

  async draw(message, blob) {
    const entry = this.log.get(message.id);
    clearTimeout(this.finding);
    this.finding = 0;
    const image = await createImageBitmap(blob);
    const canvas = message.level === "reference" ? $("reference-picture") : $("picture");
    if (message.level === "reference") {
      $("reference-note").hidden = true;
      if (message.views) $("photograph").max = message.views;
    }
    fit(canvas, image);
    if (message.level === "reference") return;
    $("readout").textContent = `${message.size[1]}×${message.size[0]} · ${message.ms.toFixed(0)} ms`;
    if (entry) entry[message.level] ??= performance.now();
    document.body.dataset.level = message.id === this.number ? message.level : "moving";
    document.body.dataset.pictures = Number(document.body.dataset.pictures || 0) + 1;
    this.describe(message.latent);
    if (message.level === "still") this.thumbs.load();
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

  // The mesh and the camera path, drawn here -------------------------------------------------------------------

  openSolid() {
    try {
      this.solid = new Solid($("solid"));
    } catch (error) { // without WebGL all else works
      for (const id of ["show-mesh", "overview"]) Object.assign($(id), { disabled: true, title: error.message });
      return;
    }
    const moved = (moving) => { this.moving = moving; requestAnimationFrame(() => this.drawSolid()); };
    mouse($("solid"), () => this.outside, moved);
  }

  // The mesh stands for the picture: nothing else is compared with it or seen in it.
  get showsMesh() {
    return Boolean(this.solid && this.asMesh && this.channel === this.about.channels[0] && !this.photograph && !this.reference);
  }

  get hasMesh() { return Boolean(this.solid?.mesh) && this.meshOf === JSON.stringify(this.latent); }

  takeMesh(message, bytes) {
    const of = this.log.get(message.id)?.latent;
    if (!this.solid || of !== JSON.stringify(this.latent)) return;
    this.meshOf = of;
    this.solid.show({ vertices: message.vertices, faces: message.faces, bytes });
    if (!message.faces) this.note($("notice"), "no surface: this latent has no mesh");
    this.cover();
    this.drawSolid();
  }

  // Whether what is drawn here covers the picture: then the camera moves without the server.
  cover() {
    const overview = Boolean(this.cameraTab?.overview), mesh = this.hasMesh && this.solid.mesh.faces > 0;
    this.covered = (overview && (this.hasMesh || !this.about.has_mesh)) || (mesh && this.showsMesh);
    $("solid").hidden = !(overview || this.covered);
    $("picture").classList.toggle("away", overview);
    $("picture").classList.toggle("through", this.covered && !overview);
    document.body.dataset.covered = String(this.covered);
  }

  drawSolid() {
    const canvas = $("solid");
    if (!this.solid || canvas.hidden) return;
    const aspect = canvas.clientWidth / canvas.clientHeight, overview = this.cameraTab.overview;
    const rgb = (name) => [1, 3, 5].map((i) => parseInt(color(name).slice(i, i + 2), 16) / 255);
    if (overview && !this.hasMesh) this.solid.show(null);
    this.solid.lines = overview ? this.cameraTab.lines(matrixOf(this.view(aspect)), rgb("--mark"), rgb("--accent"), rgb("--line")) : [];
    this.solid.draw(overview ? this.outside.view(aspect) : this.view(aspect), Array(3).fill(this.background));
    if (this.covered) document.body.dataset.level = this.moving ? "moving" : "still";
  }

  // Latents ----------------------------------------------------------------------------------------------------

  go(name) {
    this.walkTab.pause();
    this.latent = { scene: name };
    this.request();
  }

  step(by) {
    const names = this.about.scenes;
    const here = names.indexOf(this.now?.scene ?? this.now?.nearest[0][0]);
    this.go(names[(here + by + names.length) % names.length]);
  }

  random() {
    this.walkTab.pause();
    this.latent = { seed: Math.floor(Math.random() * 2 ** 31) };
    this.request();
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
        this.request(true);
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
    hash.set(this.about.has_camera ? "camera" : "window", this.camera.text());
    if (this.channel !== this.about.channels[0]) hash.set("channel", this.channel);
    if (this.reference) hash.set("reference", "1");
    if (this.photograph) hash.set("view", this.photograph);
    if (this.asMesh) hash.set("mesh", "1");
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
    this.reference = hash.get("reference") === "1";
    this.photograph = Number(hash.get("view")) || null;
    this.asMesh = Boolean(this.solid && this.about.has_mesh) && hash.get("mesh") === "1";
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
    if (this.about) { clearTimeout(this.timer); this.timer = setTimeout(() => this.moving ? this.request() : this.write(), 80); }
  }

  // Mouse and keys ---------------------------------------------------------------------------------------------

  // The camera was moved by hand.
  moved(moving = true) {
    if (moving) {
      this.path = null;
      if (this.photograph) { this.photograph = null; this.sceneTab.sync(); }
    }
    this.request(moving);
  }

  zoom(factor) {
    const canvas = $("picture");
    this.camera.zoom(factor, canvas.clientWidth / canvas.clientHeight);
    this.moved();
  }

  home() {
    this.camera.reset();
    this.moved();
    this.request();
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
