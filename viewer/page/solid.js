// @ts-check
// The mesh of a scene, the camera path and its keyframes, drawn by WebGL: no library, nothing from elsewhere.

import { clipMatrix } from "./view.js";

/** @typedef {import("./view.js").OrbitView | import("./view.js").MatrixView} View */
/** @typedef {{ends: [number[], number[]], color: number[], width: number}} Segment a line in the scene: colour in [0, 1], width in pixels */

const MESH_VERTEX = `#version 300 es
uniform mat4 clip; in vec3 position; in vec3 normal; in vec4 paint; out vec3 x, n; out vec4 own;
void main() { x = position; n = normal; own = paint; gl_Position = clip * vec4(position, 1.0); }`;

// The light of rendering/shading.py without ambient occlusion, or colours of the mesh's own, in which light is already:
// so a mesh looks like the picture that it covers.
const MESH_FRAGMENT = `#version 300 es
precision highp float;
uniform vec3 eye; in vec3 x, n; in vec4 own; out vec4 color;
float lit(vec3 normal, vec3 light, float wrap) { return max((dot(normal, normalize(light)) + wrap) / (1.0 + wrap), 0.0); }
void main() {
  vec3 normal = normalize(n);
  float up = 0.5 + 0.5 * normal.z, facing = max(dot(normal, normalize(eye - x)), 0.0);
  vec3 light = mix(vec3(0.13, 0.12, 0.12), vec3(0.30, 0.33, 0.38), up);
  light += lit(normal, vec3(-0.6, -0.7, 0.6), 0.1) * vec3(0.58, 0.52, 0.44);
  light += lit(normal, vec3(0.9, -0.2, 0.3), 0.3) * vec3(0.10, 0.13, 0.18);
  light += pow(1.0 - facing, 4.0) * up * vec3(0.12, 0.13, 0.15);
  vec3 grey = pow(clamp(light * vec3(0.70, 0.72, 0.75), 0.0, 1.0), vec3(1.0 / 2.2));
  color = vec4(mix(grey, own.rgb, own.a), 1.0);
}`;

// A line as a rectangle of some pixels, as WebGL's own lines are one pixel wide. Ends behind the eye are cut off.
const LINE_VERTEX = `#version 300 es
uniform mat4 clip; uniform vec2 size; in vec3 a, b; in vec4 ink; out vec3 shade;
void main() {
  vec4 p = clip * vec4(a, 1.0), q = clip * vec4(b, 1.0);
  const float near = 0.01;
  if (p.w < near) p = mix(p, q, clamp((near - p.w) / (q.w - p.w), 0.0, 1.0));
  if (q.w < near) q = mix(q, p, clamp((near - q.w) / (p.w - q.w), 0.0, 1.0));
  vec2 way = (q.xy / q.w - p.xy / p.w) * size;
  vec2 side = length(way) > 0.0 ? normalize(vec2(-way.y, way.x)) : vec2(0.0);
  vec4 end = (gl_VertexID & 1) == 0 ? p : q;
  gl_Position = end + vec4(((gl_VertexID & 2) == 0 ? side : -side) * ink.w / size * end.w, 0.0, 0.0); // clip space is two wide
  shade = ink.xyz;
}`;
const LINE_FRAGMENT = `#version 300 es
precision highp float;
in vec3 shade; out vec4 color;
void main() { color = vec4(shade, 1.0); }`;

export class Solid {
  /**
   * @param {HTMLCanvasElement} canvas
   * @throws {Error} where the browser has no WebGL 2
   */
  constructor(canvas) {
    this.canvas = canvas;
    const gl = canvas.getContext("webgl2", { antialias: true, alpha: false });
    if (!gl) throw new Error("this browser has no WebGL 2");
    this.gl = gl;
    /** @type {{vertices: number, faces: number, bytes: Uint8Array} | null} */
    this.mesh = null;
    /** @type {Segment[]} */
    this.lines = [];
    this.gpu = this.prepare();
    canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    canvas.addEventListener("webglcontextrestored", () => { this.gpu = this.prepare(); this.show(this.mesh); this.draw(...this.last); });
  }

  /** Programs and buffers of the graphics card; they are lost with the context. */
  prepare() {
    const gl = this.gl;
    return {
      meshProgram: this.program(MESH_VERTEX, MESH_FRAGMENT),
      lineProgram: this.program(LINE_VERTEX, LINE_FRAGMENT),
      meshArray: gl.createVertexArray(),
      lineArray: gl.createVertexArray(),
      vertices: gl.createBuffer(),
      faces: gl.createBuffer(),
      lines: gl.createBuffer(),
    };
  }

  /** @param {string} vertex @param {string} fragment @returns {WebGLProgram} */
  program(vertex, fragment) {
    const gl = this.gl, program = /** @type {WebGLProgram} */ (gl.createProgram());
    for (const [type, source] of /** @type {[number, string][]} */ ([[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]])) {
      const shader = /** @type {WebGLShader} */ (gl.createShader(type));
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) throw new Error(`WebGL: ${gl.getProgramInfoLog(program)}`);
    return program;
  }

  /**
   * Take the mesh that the server sent (session.mesh_bytes); null for none.
   * @param {{vertices: number, faces: number, bytes: Uint8Array} | null} mesh
   */
  show(mesh) {
    this.mesh = mesh;
    if (!mesh) return;
    const gl = this.gl, program = this.gpu.meshProgram, { vertices, bytes } = mesh;
    gl.bindVertexArray(this.gpu.meshArray);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.gpu.vertices);
    gl.bufferData(gl.ARRAY_BUFFER, bytes.subarray(0, 20 * vertices), gl.STATIC_DRAW);
    for (const [name, size, type, stride, offset] of /** @type {[string, number, number, number, number][]} */ ([
      ["position", 3, gl.FLOAT, 12, 0], ["normal", 3, gl.BYTE, 4, 12 * vertices], ["paint", 4, gl.UNSIGNED_BYTE, 4, 16 * vertices],
    ])) {
      const place = gl.getAttribLocation(program, name);
      gl.enableVertexAttribArray(place);
      gl.vertexAttribPointer(place, size, type, type !== gl.FLOAT, stride, offset);
    }
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, this.gpu.faces);
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, bytes.subarray(20 * vertices), gl.STATIC_DRAW);
    gl.bindVertexArray(null);
  }

  /** @type {[View, number[]]} */
  last = [{ position: [3, 0, 0], target: [0, 0, 0], fov: 0.7 }, [1, 1, 1]];

  /**
   * @param {View} view
   * @param {number[]} background in [0, 1]
   */
  draw(view, background) {
    this.last = [view, background];
    const gl = this.gl, ratio = window.devicePixelRatio || 1;
    const width = Math.max(Math.round(this.canvas.clientWidth * ratio), 1), height = Math.max(Math.round(this.canvas.clientHeight * ratio), 1);
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    gl.viewport(0, 0, width, height);
    gl.clearColor(background[0], background[1], background[2], 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.DEPTH_TEST);
    const clip = clipMatrix(view, width / height);
    if (this.mesh?.faces) {
      gl.useProgram(this.gpu.meshProgram);
      gl.uniformMatrix4fv(gl.getUniformLocation(this.gpu.meshProgram, "clip"), false, clip);
      const eye = "matrix" in view ? [view.matrix[3], view.matrix[7], view.matrix[11]] : view.position;
      gl.uniform3fv(gl.getUniformLocation(this.gpu.meshProgram, "eye"), eye);
      gl.bindVertexArray(this.gpu.meshArray);
      gl.drawElements(gl.TRIANGLES, 3 * this.mesh.faces, gl.UNSIGNED_INT, 0);
    }
    if (this.lines.length) this.drawLines(clip, [width, height], ratio);
    gl.bindVertexArray(null);
  }

  /** @param {Float32Array} clip @param {number[]} size @param {number} ratio pixels of the screen to one of the page */
  drawLines(clip, size, ratio) {
    const gl = this.gl, program = this.gpu.lineProgram;
    gl.useProgram(program);
    gl.uniformMatrix4fv(gl.getUniformLocation(program, "clip"), false, clip);
    gl.uniform2fv(gl.getUniformLocation(program, "size"), size);
    gl.bindVertexArray(this.gpu.lineArray);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.gpu.lines);
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(this.lines.flatMap(({ ends, color, width }) => [...ends[0], ...ends[1], ...color, width * ratio])), gl.DYNAMIC_DRAW);
    ["a", "b", "ink"].forEach((name, i) => {
      const place = gl.getAttribLocation(program, name);
      gl.enableVertexAttribArray(place);
      gl.vertexAttribPointer(place, name === "ink" ? 4 : 3, gl.FLOAT, false, 40, 12 * i);
      gl.vertexAttribDivisor(place, 1);
    });
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, this.lines.length);
  }
}
