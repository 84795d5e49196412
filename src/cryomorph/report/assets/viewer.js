// The molecule in three dimensions: WebGL, or lines on a plain canvas where there is none. Turned by pointer and keys.
(function (cryo) {
  const VERTEX = `#version 300 es
    in vec3 position; in vec3 normal; in vec3 colour;
    uniform mat3 turn; uniform vec2 scale; uniform float radius;
    out vec3 vNormal; out vec3 vColour; out float vDepth;
    void main() {
      vec3 seen = turn * position;
      float near = 1.0 / (1.0 - 0.22 * seen.z / radius);
      gl_Position = vec4(seen.xy * scale * near, -seen.z / (2.0 * radius), 1.0);
      vNormal = turn * normal; vColour = colour; vDepth = 0.5 - 0.5 * seen.z / radius;
    }`;
  const FRAGMENT = `#version 300 es
    precision highp float;
    in vec3 vNormal; in vec3 vColour; in float vDepth;
    uniform vec3 background; uniform float shade;
    out vec4 fragment;
    void main() {
      vec3 n = normalize(vNormal);
      if (n.z < 0.0) n = -n;
      float light = 0.42 + 0.62 * max(dot(n, normalize(vec3(-0.35, 0.55, 0.75))), 0.0);
      float edge = smoothstep(0.12, 0.42, n.z);
      vec3 colour = vColour * light * mix(shade, 1.0, edge);
      float shine = pow(max(dot(n, normalize(vec3(-0.2, 0.35, 0.92))), 0.0), 40.0);
      colour += 0.14 * shine;
      fragment = vec4(mix(colour, background, 0.62 * smoothstep(0.35, 1.0, vDepth)), 1.0);
    }`;

  function compiled(gl) {
    const program = gl.createProgram();
    for (const [kind, text] of [
      [gl.VERTEX_SHADER, VERTEX],
      [gl.FRAGMENT_SHADER, FRAGMENT],
    ]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    return gl.getProgramParameter(program, gl.LINK_STATUS) ? program : null;
  }

  /** Draws a mesh by WebGL. */
  function solid(gl, trace) {
    const program = compiled(gl);
    if (!program) return null;
    const mesh = cryo.ribbon(trace, trace.count > 4000 ? 2 : trace.count > 1200 ? 4 : 6);
    const colours = new Uint8Array(mesh.vertices * 3);
    const buffers = {};
    gl.useProgram(program);
    for (const [name, size, type, normalised] of [
      ["position", 3, gl.FLOAT, false],
      ["normal", 3, gl.FLOAT, false],
      ["colour", 3, gl.UNSIGNED_BYTE, true],
    ]) {
      buffers[name] = gl.createBuffer();
      const place = gl.getAttribLocation(program, name);
      gl.bindBuffer(gl.ARRAY_BUFFER, buffers[name]);
      gl.enableVertexAttribArray(place);
      gl.vertexAttribPointer(place, size, type, normalised, 0, 0);
    }
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, mesh.triangles, gl.STATIC_DRAW);
    gl.enable(gl.DEPTH_TEST);
    const uniform = (name) => gl.getUniformLocation(program, name);
    const put = (name, data) => {
      gl.bindBuffer(gl.ARRAY_BUFFER, buffers[name]);
      gl.bufferData(gl.ARRAY_BUFFER, data, gl.DYNAMIC_DRAW);
    };
    return {
      follow(x) {
        mesh.follow(x);
        put("position", mesh.positions);
        put("normal", mesh.normals);
      },
      paint(rgb) {
        for (let v = 0; v < mesh.vertices; v++)
          for (let k = 0; k < 3; k++) colours[3 * v + k] = rgb[3 * mesh.residues[v] + k];
        put("colour", colours);
      },
      draw(camera, background, dark) {
        const canvas = gl.canvas;
        gl.viewport(0, 0, canvas.width, canvas.height);
        gl.clearColor(background[0] / 255, background[1] / 255, background[2] / 255, 1);
        gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
        const unit = 2 * camera.pixels();
        gl.uniformMatrix3fv(uniform("turn"), true, camera.turn);
        gl.uniform2f(uniform("scale"), unit / canvas.width, unit / canvas.height);
        gl.uniform1f(uniform("radius"), camera.radius);
        gl.uniform3fv(
          uniform("background"),
          background.map((c) => c / 255),
        );
        gl.uniform1f(uniform("shade"), dark ? 0.35 : 0.45);
        gl.drawElements(gl.TRIANGLES, mesh.triangles.length, gl.UNSIGNED_INT, 0);
      },
    };
  }

  /** Draws the trace as lines, the furthest first. */
  function plain(context, trace) {
    let x = null,
      rgb = null;
    const pairs = trace.parts.flatMap(([first, last]) => Array.from({ length: last - first }, (_, k) => first + k));
    return {
      follow(next) {
        x = next;
      },
      paint(next) {
        rgb = next;
      },
      draw(camera, background) {
        const { width, height } = context.canvas,
          unit = camera.pixels();
        const turn = camera.turn;
        const seen = (i) =>
          [0, 1, 2].map(
            (k) => turn[3 * k] * x[3 * i] + turn[3 * k + 1] * x[3 * i + 1] + turn[3 * k + 2] * x[3 * i + 2],
          );
        const points = Array.from({ length: trace.count }, (_, i) => seen(i));
        context.fillStyle = `rgb(${background.join(",")})`;
        context.fillRect(0, 0, width, height);
        context.lineCap = "round";
        const order = pairs.slice().sort((a, b) => points[a][2] - points[b][2]);
        for (const i of order) {
          const far = 0.6 * Math.max(0, Math.min(1, 0.5 - 0.5 * (points[i][2] / camera.radius)));
          const colour = cryo.mix([rgb[3 * i], rgb[3 * i + 1], rgb[3 * i + 2]], background, far).map(Math.round);
          for (const [thick, paint] of [
            [1.9, background],
            [1.1, colour],
          ]) {
            context.strokeStyle = `rgb(${paint.join(",")})`;
            context.lineWidth = Math.max(thick * unit, 1);
            context.beginPath();
            for (const end of [i, i + 1])
              context.lineTo(width / 2 + unit * points[end][0], height / 2 - unit * points[end][1]);
            context.stroke();
          }
        }
      },
    };
  }

  /** Multiply rotation matrices (rows one after another). */
  function times(a, b) {
    const out = new Array(9).fill(0);
    for (let i = 0; i < 3; i++)
      for (let j = 0; j < 3; j++) for (let k = 0; k < 3; k++) out[3 * i + j] += a[3 * i + k] * b[3 * k + j];
    return out;
  }

  function turned(turn, dx, dy) {
    const [cx, sx, cy, sy] = [Math.cos(dy), Math.sin(dy), Math.cos(dx), Math.sin(dx)];
    return times([1, 0, 0, 0, cx, -sx, 0, sx, cx], times([cy, 0, sy, 0, 1, 0, -sy, 0, cy], turn));
  }

  /** Listen to pointer, wheel and keys; `changed` is called whenever the camera did. */
  function steer(canvas, camera, changed, play) {
    const pointers = new Map();
    const zoom = (by) => {
      camera.zoom = Math.min(Math.max(camera.zoom * by, 0.4), 12);
      changed();
    };
    const spread = () => {
      const [a, b] = [...pointers.values()];
      return Math.hypot(a.x - b.x, a.y - b.y);
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
      canvas.focus({ preventScroll: true });
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      if (!before) return;
      const apart = pointers.size === 2 ? spread() : 0;
      const now = { x: event.clientX, y: event.clientY };
      pointers.set(event.pointerId, now);
      if (pointers.size === 2) return zoom(spread() / Math.max(apart, 1));
      camera.turn = turned(camera.turn, (now.x - before.x) * 0.009, (now.y - before.y) * 0.009);
      changed();
    });
    for (const end of ["pointerup", "pointercancel"])
      canvas.addEventListener(end, (event) => pointers.delete(event.pointerId));
    // The wheel scrolls the page, unless the molecule was chosen by a click or a pinch says what is meant.
    canvas.addEventListener(
      "wheel",
      (event) => {
        if (document.activeElement !== canvas && !event.ctrlKey) return;
        event.preventDefault();
        zoom(Math.exp(-event.deltaY * 0.0015));
      },
      { passive: false },
    );
    canvas.addEventListener("keydown", (event) => {
      const turn = { ArrowLeft: [-0.12, 0], ArrowRight: [0.12, 0], ArrowUp: [0, -0.12], ArrowDown: [0, 0.12] }[
        event.key
      ];
      if (turn) camera.turn = turned(camera.turn, ...turn);
      else if (event.key === "+" || event.key === "=") zoom(1.15);
      else if (event.key === "-") zoom(1 / 1.15);
      else if (event.key === "0") camera.reset();
      else if (event.key === " ") play();
      else return;
      event.preventDefault();
      changed();
    });
    cryo.find("zoom-in").addEventListener("click", () => zoom(1.25));
    cryo.find("zoom-out").addEventListener("click", () => zoom(0.8));
    cryo.find("reset").addEventListener("click", () => {
      camera.reset();
      changed();
    });
  }

  /** How far any conformation reaches from the middle, and to the side and upwards as it is seen at first, in Å. */
  function reach(conformations, view) {
    let square = 1,
      side = 1,
      up = 1;
    for (const x of conformations) {
      for (let i = 0; i < x.length; i += 3) {
        const along = (row) => Math.abs(view[row] * x[i] + view[row + 1] * x[i + 1] + view[row + 2] * x[i + 2]);
        square = Math.max(square, x[i] * x[i] + x[i + 1] * x[i + 1] + x[i + 2] * x[i + 2]);
        side = Math.max(side, along(0));
        up = Math.max(up, along(3));
      }
    }
    return { radius: Math.sqrt(square) + 2, side: side + 2, up: up + 2 };
  }

  /** Show a molecule; returns `show(x)`, `paint(rgb of each residue)`. */
  cryo.viewer = function (canvas, trace, conformations, view, play) {
    const camera = {
      ...reach(conformations, view),
      turn: view,
      zoom: 1,
      reset() {
        camera.turn = view;
        camera.zoom = 1;
      },
    };
    // Pixels of an Å: all of the first view is seen, and when it is turned, hardly less.
    camera.pixels = () =>
      camera.zoom *
      Math.min(
        0.45 * Math.min(canvas.width / camera.side, canvas.height / camera.up),
        (0.92 * Math.min(canvas.width, canvas.height)) / camera.radius,
      );
    const gl = canvas.getContext("webgl2", { antialias: true, preserveDrawingBuffer: true });
    const painter = (gl && solid(gl, trace)) || plain(canvas.getContext("2d"), trace);
    canvas.dataset.engine = gl ? "webgl" : "canvas";
    let waiting = false;
    const changed = () => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        draw();
      });
    };
    function draw() {
      const ratio = Math.min(devicePixelRatio || 1, 2);
      const width = Math.round(canvas.clientWidth * ratio),
        height = Math.round(canvas.clientHeight * ratio);
      if (!width || !height) return;
      if (canvas.width !== width || canvas.height !== height) {
        canvas.width = width;
        canvas.height = height;
      }
      painter.draw(camera, cryo.rgb(cryo.colour("panel")), cryo.dark());
    }
    steer(canvas, camera, changed, play);
    cryo.keepDrawn(changed, canvas);
    return {
      show(x) {
        painter.follow(x);
        changed();
      },
      paint(rgb) {
        painter.paint(rgb);
        changed();
      },
    };
  };
})(window.cryo);
