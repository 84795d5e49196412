// Where particles are: density and points on a canvas, states, motion and marker as SVG above it.
(function (cryo) {
  const { make, svg, unpack, format } = cryo;
  const LEFT = 54,
    BOTTOM = 42,
    TOP = 12,
    RIGHT = 12,
    NEAR = 16;

  function decoded(map) {
    return {
      ...map,
      energy: unpack(map.energy),
      rows: map.energy.shape[0],
      columns: map.energy.shape[1],
      points: unpack(map.points),
      state: unpack(map.state),
    };
  }

  function frame(map, width, height) {
    const [x0, x1] = map.x,
      [y0, y1] = map.y;
    const inner = { x: width - LEFT - RIGHT, y: height - TOP - BOTTOM };
    return {
      x: (v) => LEFT + ((v - x0) / (x1 - x0)) * inner.x,
      y: (v) => height - BOTTOM - ((v - y0) / (y1 - y0)) * inner.y,
      width,
      height,
    };
  }

  function paint(canvas, map, at) {
    const ratio = Math.min(devicePixelRatio || 1, 2);
    canvas.width = at.width * ratio;
    canvas.height = at.height * ratio;
    const context = canvas.getContext("2d");
    const image = make("canvas", { width: map.columns, height: map.rows });
    const pixels = image.getContext("2d").createImageData(map.columns, map.rows);
    const empty = cryo.rgb(cryo.colour("density-0")),
      full = cryo.rgb(cryo.colour("density-1"));
    for (let row = 0; row < map.rows; row++) {
      for (let column = 0; column < map.columns; column++) {
        const level = map.energy[row * map.columns + column],
          out = 4 * ((map.rows - 1 - row) * map.columns + column);
        const share = level === 255 ? 0 : 0.04 + 0.62 * Math.pow(1 - level / 254, 2);
        cryo.mix(empty, full, share).forEach((value, k) => {
          pixels.data[out + k] = value;
        });
        pixels.data[out + 3] = level === 255 ? 0 : 255;
      }
    }
    image.getContext("2d").putImageData(pixels, 0, 0);
    context.scale(ratio, ratio);
    context.imageSmoothingEnabled = true;
    context.drawImage(
      image,
      at.x(map.x[0]),
      at.y(map.y[1]),
      at.x(map.x[1]) - at.x(map.x[0]),
      at.y(map.y[0]) - at.y(map.y[1]),
    );
    context.globalAlpha = map.state.length > 1500 ? 0.4 : 0.6;
    for (let i = 0; i < map.state.length; i++) {
      const x = map.points[2 * i],
        y = map.points[2 * i + 1];
      if (x < map.x[0] || x > map.x[1] || y < map.y[0] || y > map.y[1]) continue;
      context.fillStyle = colours(map.state[i]);
      context.fillRect(at.x(x) - 1, at.y(y) - 1, 2, 2);
    }
  }

  let cache = {};
  const colours = (state) => cache[state] || (cache[state] = cryo.series(Math.max(0, state - 1)));

  function axes(root, map, at) {
    const bottom = at.height - BOTTOM;
    for (const [from, to] of [
      [
        [LEFT, bottom],
        [at.width - RIGHT, bottom],
      ],
      [
        [LEFT, bottom],
        [LEFT, TOP],
      ],
    ]) {
      root.append(
        svg("line", { x1: from[0], y1: from[1], x2: to[0], y2: to[1], stroke: "currentColor", "stroke-opacity": 0.35 }),
      );
    }
    for (const value of cryo.ticks(map.x[0], map.x[1], at.width / 90))
      root.append(svg("text", { x: at.x(value), y: bottom + 16, "text-anchor": "middle" }, format(value)));
    for (const value of cryo.ticks(map.y[0], map.y[1], at.height / 70))
      root.append(svg("text", { x: LEFT - 7, y: at.y(value) + 4, "text-anchor": "end" }, format(value)));
    root.append(
      svg("text", { x: (LEFT + at.width) / 2, y: at.height - 6, "text-anchor": "middle" }, axisName(map.names[0])),
    );
    const up = (TOP + bottom) / 2;
    root.append(
      svg("text", { x: 11, y: up, "text-anchor": "middle", transform: `rotate(-90 11 ${up})` }, axisName(map.names[1])),
    );
  }

  const axisName = (name) => (/^pc\d+$/.test(name) ? `component ${name.slice(2)} / Å` : name.replace(/_/g, " "));
  cryo.mapName = (map) =>
    /^pc\d+$/.test(map.names[0])
      ? `components ${map.names[0].slice(2)} and ${map.names[1].slice(2)}`
      : map.names.map((n) => n.replace(/_/g, " ")).join(" and ");

  /** Show maps; `choose` is told of a state or of a step of the current motion that was clicked. */
  cryo.map = function (host, caption, maps, states, choose) {
    const all = maps.map(decoded);
    const canvas = make("canvas", { "aria-hidden": "true" });
    const root = svg("svg", { role: "group", "aria-label": "Map of the particles with the states as buttons" });
    const marker = svg("circle", { class: "marker", r: 7 });
    let current = 0,
      motion = 0,
      here = { motion: 0, step: 0 },
      at = null;
    host.append(canvas, root);

    const statePlace = (i) => [all[current].states[2 * i], all[current].states[2 * i + 1]];
    const stepPlace = (number, step) => {
      const flat = all[current].motions[number],
        last = flat.length / 2 - 1;
      const low = Math.min(Math.floor(step), Math.max(last - 1, 0)),
        part = step - low,
        next = Math.min(low + 1, last);
      return [0, 1].map((k) => flat[2 * low + k] + part * (flat[2 * next + k] - flat[2 * low + k]));
    };

    function mark() {
      const place = here.state === undefined ? stepPlace(here.motion, here.step) : statePlace(here.state);
      const seen = place.every((v) => v !== null && isFinite(v));
      marker.setAttribute("visibility", seen ? "visible" : "hidden");
      if (!seen || !at) return;
      marker.setAttribute("cx", at.x(place[0]).toFixed(2));
      marker.setAttribute("cy", at.y(place[1]).toFixed(2));
      marker.setAttribute("r", here.state === undefined ? 7 : 14); // around the state's number
    }

    function buttons() {
      return states.map((state, i) => {
        const place = statePlace(i).map((v, k) => (k ? at.y(v) : at.x(v)));
        const button = svg(
          "g",
          {
            class: "state",
            role: "button",
            tabindex: 0,
            "data-state": state.number,
            transform: `translate(${place[0].toFixed(1)} ${place[1].toFixed(1)})`,
            "aria-label": `State ${state.number}, ${(100 * state.share).toFixed(0)}% of the particles`,
          },
          svg("circle", { r: 10, fill: cryo.series(state.number - 1) }),
          svg("text", { y: 4 }, String(state.number)),
        );
        button.addEventListener("keydown", (event) => {
          if (event.key === "Enter" || event.key === " ") {
            event.preventDefault();
            choose({ state: i });
          }
        });
        return button;
      });
    }

    function draw() {
      cache = {};
      at = frame(all[current], host.clientWidth, host.clientHeight);
      paint(canvas, all[current], at);
      const flat = all[current].motions[motion] || [];
      const way = [];
      for (let k = 0; k < flat.length; k += 2)
        if (flat[k] !== null && flat[k + 1] !== null)
          way.push(`${at.x(flat[k]).toFixed(1)},${at.y(flat[k + 1]).toFixed(1)}`);
      root.setAttribute("viewBox", `0 0 ${at.width} ${at.height}`);
      root.replaceChildren();
      axes(root, all[current], at);
      root.append(svg("polyline", { class: "path", points: way.join(" ") }), ...buttons(), marker);
      mark();
    }

    root.addEventListener("click", (event) => {
      const box = root.getBoundingClientRect();
      const click = [event.clientX - box.left, event.clientY - box.top];
      const far = (place) => Math.hypot(at.x(place[0]) - click[0], at.y(place[1]) - click[1]);
      const byState = states.map((_, i) => far(statePlace(i)));
      const best = byState.indexOf(Math.min(...byState));
      if (best >= 0 && byState[best] < NEAR) return choose({ state: best });
      const steps = (all[current].motions[motion] || []).length / 2;
      const byStep = Array.from({ length: steps }, (_, k) => far(stepPlace(motion, k)));
      const step = byStep.indexOf(Math.min(...byStep.filter(isFinite)));
      if (step >= 0 && (best < 0 || byStep[step] <= byState[best])) choose({ step });
      else if (best >= 0) choose({ state: best });
    });
    const highest = cryo.format(maps[0].highest);
    caption.textContent = `The shade is −log of the particles’ density, 0 kT where it is strongest and ${highest} kT where it ends; dots are a sample of particles, coloured by state. The line is the motion, the ring where the molecule shown is. Click to go there.`;
    cryo.keepDrawn(draw, host);
    return {
      maps: all,
      change(number) {
        current = number;
        draw();
      },
      follow(number) {
        motion = number;
        draw();
      },
      /** Move the marker to `{motion, step}` or `{state}`. */
      go(place) {
        here = place;
        mark();
      },
    };
  };
})(window.cryo);
