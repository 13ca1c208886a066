// Interactive isosurfaces. One hidden WebGL canvas draws for all classes, and each picture is
// copied to the class' own canvas: browsers allow few WebGL contexts, and copies can be printed.
"use strict";

const VERTEX_SHADER = `#version 300 es
in vec3 position;
in vec3 normal;
uniform mat3 rotation;
uniform float scale;
out vec3 turned;
void main() {
  vec3 place = rotation * position * scale;
  turned = rotation * normal;
  gl_Position = vec4(place.xy, -0.02 * place.z, 1.0);
}`;

const FRAGMENT_SHADER = `#version 300 es
precision highp float;
in vec3 turned;
uniform vec3 colour;
out vec4 result;
void main() {
  vec3 n = normalize(turned);
  if (n.z < 0.0) n = -n;
  float key = max(dot(n, normalize(vec3(0.35, 0.55, 0.76))), 0.0);
  float fill = max(dot(n, normalize(vec3(-0.7, -0.1, 0.6))), 0.0);
  float shine = pow(max(dot(n, normalize(vec3(0.2, 0.3, 0.93))), 0.0), 40.0);
  float rim = smoothstep(0.0, 0.55, n.z);
  vec3 shade = colour * (0.22 + 0.72 * key + 0.18 * fill) * mix(0.55, 1.0, rim);
  result = vec4(shade + 0.10 * shine, 1.0);
}`;

class Renderer {
  constructor() {
    this.canvas = document.createElement("canvas");
    const gl = this.canvas.getContext("webgl2", { antialias: true, alpha: true });
    if (!gl) throw new Error("no WebGL 2");
    this.gl = gl;
    const program = gl.createProgram();
    for (const [kind, source] of [
      [gl.VERTEX_SHADER, VERTEX_SHADER],
      [gl.FRAGMENT_SHADER, FRAGMENT_SHADER],
    ]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) {
        throw new Error(gl.getShaderInfoLog(shader));
      }
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    gl.useProgram(program);
    this.place = (name) => gl.getUniformLocation(program, name);
    this.attributes = ["position", "normal"].map((name) => gl.getAttribLocation(program, name));
    gl.enable(gl.DEPTH_TEST);
    gl.clearColor(0, 0, 0, 0);
  }

  upload(surface, held) {
    const gl = this.gl;
    held = held || { array: gl.createVertexArray(), buffers: [0, 1, 2].map(() => gl.createBuffer()) };
    gl.bindVertexArray(held.array);
    [surface.positions, surface.normals].forEach((data, i) => {
      gl.bindBuffer(gl.ARRAY_BUFFER, held.buffers[i]);
      gl.bufferData(gl.ARRAY_BUFFER, data, gl.DYNAMIC_DRAW);
      gl.enableVertexAttribArray(this.attributes[i]);
      gl.vertexAttribPointer(this.attributes[i], 3, gl.FLOAT, false, 0, 0);
    });
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, held.buffers[2]);
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, surface.triangles, gl.DYNAMIC_DRAW);
    held.count = surface.triangles.length;
    return held;
  }

  draw(held, target, view, scale, colour) {
    const gl = this.gl;
    if (this.canvas.width !== target.width || this.canvas.height !== target.height) {
      this.canvas.width = target.width;
      this.canvas.height = target.height;
    }
    gl.viewport(0, 0, target.width, target.height);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.bindVertexArray(held.array);
    gl.uniformMatrix3fv(this.place("rotation"), true, view);
    gl.uniform1f(this.place("scale"), scale);
    gl.uniform3fv(this.place("colour"), colour);
    gl.drawElements(gl.TRIANGLES, held.count, gl.UNSIGNED_INT, 0);
    const context = target.getContext("2d");
    context.clearRect(0, 0, target.width, target.height);
    context.drawImage(this.canvas, 0, 0);
  }
}

function product(a, b) {
  const c = new Array(9).fill(0);
  for (let i = 0; i < 3; i++)
    for (let j = 0; j < 3; j++)
      for (let k = 0; k < 3; k++) c[3 * i + j] += a[3 * i + k] * b[3 * k + j];
  return c;
}

function turnedAbout(x, y, z, angle) {
  const c = Math.cos(angle), s = Math.sin(angle), t = 1 - c;
  return [
    t * x * x + c, t * x * y - s * z, t * x * z + s * y,
    t * x * y + s * z, t * y * y + c, t * y * z - s * x,
    t * x * z - s * y, t * y * z + s * x, t * z * z + c,
  ];
}

// Rounding adds up over many turns; rows are made orthonormal again.
function orthonormal(m) {
  const x = unit(m.slice(0, 3));
  const y0 = m.slice(3, 6), d = dot(x, y0);
  const y = unit(y0.map((v, i) => v - d * x[i]));
  return [...x, ...y, x[1] * y[2] - x[2] * y[1], x[2] * y[0] - x[0] * y[2], x[0] * y[1] - x[1] * y[0]];
}
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const unit = (a) => a.map((v) => v / Math.hypot(...a));

// The z axis up, a little from above.
const FIRST_VIEW = product(turnedAbout(1, 0, 0, -1.15), turnedAbout(0, 0, 1, 0.5));

const rounded = (value, digits) =>
  value.toLocaleString("en", { maximumSignificantDigits: digits });

class Viewer {
  constructor(box, map, renderer, shared) {
    this.map = map;
    this.renderer = renderer;
    this.shared = shared;
    this.canvas = box.querySelector("canvas");
    this.slider = box.querySelector("input[type=range]");
    this.readout = box.querySelector("output");
    this.bar = box.querySelector(".scale-bar");
    this.view = FIRST_VIEW;
    this.zoom = 1;
    this.moved = false;
    const text = atob(map.data);
    this.values = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) this.values[i] = text.charCodeAt(i);
    this.slider.addEventListener("input", () => {
      this.moved = true;
      this.later(true);
      this.shared.changed();
    });
    for (const button of box.querySelectorAll("button[data-action]")) {
      button.addEventListener("click", () => this.act(button.dataset.action));
    }
    this.listen();
    new ResizeObserver(() => this.later(false)).observe(this.canvas);
    this.setLevel(map.level);
  }

  // How far the first surface reaches from the centre, in edges of the map; a few specks do not
  // count.
  reach() {
    const { positions } = extractSurface(this.values, this.map.edge, this.byteOf(this.map.level));
    const radii = [];
    for (let i = 0; i < positions.length; i += 3) {
      radii.push(Math.hypot(positions[i], positions[i + 1], positions[i + 2]));
    }
    radii.sort((a, b) => a - b);
    return (radii[Math.floor(0.98 * (radii.length - 1))] || this.map.edge / 2) / this.map.edge;
  }

  // Slider positions run over the 255 grey steps of the map.
  byteOf(level) {
    return (255 * (level - this.map.low)) / (this.map.high - this.map.low);
  }
  setLevel(level) {
    this.slider.value = String(this.byteOf(level));
    this.later(true);
  }

  act(action) {
    if (action === "reset") {
      this.zoom = 1;
      this.moved = false;
      this.setLevel(this.map.level);
      this.turnTo(FIRST_VIEW);
    } else if (action === "in" || action === "out") {
      this.zoomBy(action === "in" ? 1.2 : 1 / 1.2);
    } else if (action === "along-x") {
      this.turnTo([0, 1, 0, 0, 0, 1, 1, 0, 0]);
    } else if (action === "along-y") {
      this.turnTo([-1, 0, 0, 0, 0, 1, 0, 1, 0]);
    } else if (action === "along-z") {
      this.turnTo([1, 0, 0, 0, 1, 0, 0, 0, 1]);
    }
  }

  turnTo(view) {
    for (const viewer of this.shared.together() ? this.shared.viewers : [this]) {
      viewer.view = view;
      viewer.later(false);
    }
    this.shared.changed();
  }
  turnBy(dx, dy) {
    const angle = Math.hypot(dx, dy);
    if (angle === 0) return;
    this.turnTo(orthonormal(product(turnedAbout(dy / angle, dx / angle, 0, angle), this.view)));
  }
  zoomBy(factor) {
    this.zoom = Math.min(8, Math.max(0.4, this.zoom * factor));
    this.later(false);
    this.shared.changed();
  }

  listen() {
    const canvas = this.canvas;
    const pointers = new Map();
    const spread = () => {
      const [a, b] = [...pointers.values()];
      return Math.hypot(a.x - b.x, a.y - b.y);
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    });
    canvas.addEventListener("pointermove", (event) => {
      const last = pointers.get(event.pointerId);
      if (!last) return;
      const before = pointers.size === 2 ? spread() : 0;
      const now = { x: event.clientX, y: event.clientY };
      pointers.set(event.pointerId, now);
      if (pointers.size === 2) this.zoomBy(spread() / Math.max(before, 1));
      else {
        const turn = 4 / canvas.clientWidth;
        this.turnBy((now.x - last.x) * turn, (now.y - last.y) * turn);
      }
    });
    for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) {
      canvas.addEventListener(name, (event) => pointers.delete(event.pointerId));
    }
    // The wheel scrolls the page unless Ctrl is held or the picture has been clicked.
    canvas.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey && document.activeElement !== canvas) return;
        event.preventDefault();
        this.zoomBy(Math.exp(-0.0015 * event.deltaY));
      },
      { passive: false },
    );
    canvas.addEventListener("keydown", (event) => {
      const turns = { ArrowLeft: [-0.12, 0], ArrowRight: [0.12, 0], ArrowUp: [0, -0.12], ArrowDown: [0, 0.12] };
      if (event.key in turns) this.turnBy(...turns[event.key]);
      else if (event.key === "+" || event.key === "=") this.zoomBy(1.2);
      else if (event.key === "-") this.zoomBy(1 / 1.2);
      else if (event.key === "0") this.act("reset");
      else return;
      event.preventDefault();
    });
  }

  later(extract) {
    this.stale = this.stale || extract;
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.render();
    });
  }

  render() {
    const level = Number(this.slider.value);
    if (this.stale) {
      this.stale = false;
      // Half a grey step off the grid of values, so that no voxel lies on the surface.
      const between = Math.min(Math.floor(level), 254) + 0.5;
      this.held = this.renderer.upload(extractSurface(this.values, this.map.edge, between), this.held);
      this.say(between);
    }
    const side = Math.round(this.canvas.clientWidth * Math.min(window.devicePixelRatio || 1, 2));
    if (side === 0) return;
    if (this.canvas.width !== side) this.canvas.width = this.canvas.height = side;
    const scale = (1.9 * this.zoom * this.shared.fit()) / this.map.edge;
    this.renderer.draw(this.held, this.canvas, this.view, scale, this.colour());
    this.drawBar(scale);
  }

  say(byte) {
    const { low, high, voxel } = this.map;
    const level = low + (byte / 255) * (high - low);
    const volume = countAbove(this.values, byte) * (voxel / 10) ** 3;
    // Protein: 1.35 g/cm^3, 0.81 kDa/nm^3.
    this.readout.textContent =
      `level ${level.toPrecision(3)} · ${rounded(volume, 3)} nm³, as much as ` +
      `${rounded(0.81 * volume, 2)} kDa of protein`;
  }

  drawBar(scale) {
    const perPixel = (2 * this.map.voxel) / (scale * this.canvas.clientWidth);
    const most = 0.3 * this.canvas.clientWidth * perPixel;
    const power = 10 ** Math.floor(Math.log10(most));
    const length = [5, 2, 1].map((f) => f * power).find((f) => f <= most);
    this.bar.style.width = `${length / perPixel}px`;
    this.bar.textContent = `${length / 10} nm`;
  }

  colour() {
    const text = getComputedStyle(this.canvas).color.match(/[\d.]+/g).slice(0, 3);
    return text.map((v) => Number(v) / 255);
  }
}
