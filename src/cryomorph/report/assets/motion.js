// What is played: a motion step by step or a state, shown in the viewer and on the map.
(function (cryo) {
  const { find, make, unpack } = cryo;
  const SECONDS = 4.5,
    GLIDE = 450;

  /** Cut coordinates of several conformations apart. */
  function conformations(packed) {
    const all = unpack(packed),
      size = 3 * packed.shape[1];
    return Array.from({ length: packed.shape[0] }, (_, k) => all.subarray(k * size, (k + 1) * size));
  }

  function blend(a, b, part, out) {
    for (let i = 0; i < out.length; i++) out[i] = a[i] + part * (b[i] - a[i]);
    return out;
  }

  const KINDS = { "-": "none", H: "data-1", E: "data-2" };

  /** Colour of each residue, and what the colours mean. */
  function palette(mode, sequence, displacement, body) {
    const count = sequence.names.length,
      rgb = new Uint8Array(3 * count);
    const fill = (colour) => {
      for (let i = 0; i < count; i++) rgb.set(colour(i), 3 * i);
    };
    if (mode === "secondary") {
      fill((i) => cryo.rgb(cryo.colour(KINDS[sequence.secondary[i]])));
      return {
        rgb,
        named: [
          ["helix", cryo.colour("data-1")],
          ["strand", cryo.colour("data-2")],
          ["other", cryo.colour("none")],
        ],
      };
    }
    if (mode === "chain") {
      sequence.chains.forEach((chain, k) => {
        for (let i = chain.start; i < chain.stop; i++) rgb.set(cryo.rgb(cryo.series(k)), 3 * i);
      });
      return { rgb, named: sequence.chains.slice(0, 12).map((chain, k) => [chain.name, cryo.series(k)]) };
    }
    if (mode === "bodies") {
      fill((i) =>
        cryo.rgb(
          body[i] === 255 ? cryo.colour("none") : body[i] === 0 ? cryo.colour("still") : cryo.series(body[i] - 1),
        ),
      );
      return {
        rgb,
        named: [
          ["largest body", cryo.colour("still")],
          ["bodies that move against it", cryo.series(0)],
          ["neither", cryo.colour("none")],
        ],
      };
    }
    if (mode === "sequence") {
      fill((i) => cryo.sequential(i / Math.max(count - 1, 1)));
      return { rgb, scale: cryo.sequential, ends: ["first residue", "last"] };
    }
    const largest = Math.max(...displacement, 1e-6);
    fill((i) => cryo.moving(displacement[i] / largest));
    return { rgb, scale: cryo.moving, ends: ["0 Å", `${cryo.format(largest, 2)} Å from end to end`] };
  }

  function legend(host, colours) {
    if (colours.named) {
      host.replaceChildren(
        ...colours.named.map(([name, colour]) => {
          const swatch = make("i");
          swatch.style.background = colour;
          return make("span", {}, swatch, name);
        }),
      );
      return;
    }
    const bar = make("canvas", { width: 64, height: 1, "aria-hidden": "true" });
    const context = bar.getContext("2d");
    for (let k = 0; k < 64; k++) {
      context.fillStyle = `rgb(${colours
        .scale(k / 63)
        .map(Math.round)
        .join(",")})`;
      context.fillRect(k, 0, 1, 1);
    }
    host.replaceChildren(make("span", {}, colours.ends[0]), bar, make("span", {}, colours.ends[1]));
  }

  function stateButtons(host, states, choose) {
    states.forEach((state, i) => {
      const number = make("b", {}, make("span", { class: "unseen" }, "Show state "), String(state.number));
      const button = make(
        "button",
        { type: "button", "aria-pressed": "false", "data-state": state.number },
        number,
        `${(100 * state.share).toFixed(state.share < 0.1 ? 1 : 0)}%`,
        make("span", {}, state.population.toLocaleString("en"), make("i", {}, " particles")),
      );
      button.addEventListener("click", () => choose({ state: i }));
      cryo.keepDrawn(() => {
        number.style.background = cryo.series(state.number - 1);
      });
      host.append(button);
    });
  }

  function bodies(host, motion) {
    host.replaceChildren();
    if (!motion || motion.bodies.length < 2) return;
    const cell = (value, unit) => make("td", { class: "n" }, value === null ? "–" : `${value.toFixed(1)}${unit}`);
    const rows = motion.bodies.map((body, k) =>
      make(
        "tr",
        {},
        make("td", {}, body.residues, k ? null : make("span", { class: "fine" }, " — the others move against it")),
        make("td", { class: "n" }, String(body.count)),
        ...(k
          ? [cell(body.rotation, "°"), cell(body.translation, " Å"), cell(body.shift, " Å")]
          : [cell(null), cell(null), cell(null)]),
      ),
    );
    const head = ["residues", "number", "turns by", "along its axis", "centre moves"].map((name, k) =>
      make("th", { scope: "col", class: k ? "n" : "" }, name),
    );
    host.append(
      make(
        "div",
        { class: "panel" },
        make("h3", {}, `What moves as a body along ${motion.title.split(",")[0].toLowerCase()}`),
        make(
          "div",
          { class: "scroll" },
          make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows)),
        ),
      ),
    );
  }

  cryo.motion = function (data) {
    const { molecule, sequence } = data;
    const motions = molecule.motions.map((motion) => ({
      ...motion,
      frames: conformations(motion.coordinates),
      body: unpack(motion.body),
    }));
    const states = molecule.states.map((state) => ({ ...state, x: unpack(state.coordinates) }));
    const trace = {
      count: sequence.names.length,
      secondary: sequence.secondary,
      nucleotide: sequence.nucleotide,
      parts: cryo.parts(sequence.linked),
    };
    const canvas = find("molecule"),
      scrub = find("scrub"),
      play = find("play");
    const current = new Float32Array(3 * trace.count);
    let motion = 0,
      step = 0,
      playing = false,
      direction = 1,
      last = 0,
      state = null,
      glide = null,
      highlighted = null,
      colours = null;

    const all = [...motions.flatMap((m) => [m.frames[0], m.frames[m.frames.length - 1]]), ...states.map((s) => s.x)];
    const viewer = cryo.viewer(canvas, trace, all, molecule.view, () => toggle());
    if (!data.maps.length) find("map").parentNode.hidden = true;
    const map = data.maps.length ? cryo.map(find("map"), find("map-caption"), data.maps, states, choose) : null;

    function displacement() {
      const frames = motions[motion] ? motions[motion].frames : states.map((s) => s.x);
      const a = frames[0],
        b = frames[frames.length - 1];
      return Array.from({ length: trace.count }, (_, i) =>
        Math.hypot(a[3 * i] - b[3 * i], a[3 * i + 1] - b[3 * i + 1], a[3 * i + 2] - b[3 * i + 2]),
      );
    }

    function recolour() {
      colours = palette(
        find("colour-choice").value,
        sequence,
        displacement(),
        motions[motion] ? motions[motion].body : new Uint8Array(trace.count),
      );
      legend(find("colour-scale"), colours);
      highlight(highlighted);
    }

    function highlight(residue) {
      highlighted = residue;
      const rgb = colours.rgb.slice();
      if (residue !== null)
        for (let i = Math.max(0, residue - 1); i <= Math.min(trace.count - 1, residue + 1); i++)
          rgb.set([230, 60, 140], 3 * i);
      viewer.paint(rgb);
    }

    function frameAt(place) {
      const frames = motions[motion].frames,
        low = Math.min(Math.floor(place), Math.max(frames.length - 2, 0));
      return blend(frames[low], frames[Math.min(low + 1, frames.length - 1)], place - low, current);
    }

    function describe() {
      const shown = state === null ? motions[motion].title : `State ${states[state].number}`;
      find("showing").textContent = shown;
      canvas.dataset.shown =
        state === null ? `${motions[motion].name} ${step.toFixed(2)}` : `state ${states[state].number}`;
      for (const button of find("states").children)
        button.setAttribute(
          "aria-pressed",
          String(state !== null && Number(button.dataset.state) === states[state].number),
        );
      if (state !== null) {
        find("place").textContent = `particle ${states[state].particle.toLocaleString("en")}`;
        return;
      }
      const places = motions[motion].place,
        low = Math.floor(step),
        high = Math.min(low + 1, places.length - 1);
      const value = places[low] + (step - low) * (places[high] - places[low]);
      find("place").textContent = /^pc\d+$/.test(motions[motion].name)
        ? `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(1)} Å`
        : `${Math.round(100 * value)}%`;
      scrub.setAttribute("aria-valuetext", find("place").textContent);
    }

    function showStep(next) {
      step = next;
      state = null;
      glide = null;
      scrub.value = String(step);
      viewer.show(frameAt(step));
      if (map) map.go({ motion, step });
      describe();
    }

    function showState(index) {
      pause();
      state = index;
      const from = current.slice(),
        began = performance.now(),
        token = (glide = {});
      if (map) map.go({ state: index });
      describe();
      const tick = (now) => {
        if (glide !== token) return;
        const part = cryo.calm ? 1 : Math.min(1, Math.max(0, (now - began) / GLIDE));
        viewer.show(blend(from, states[index].x, part * part * (3 - 2 * part), current));
        if (part < 1) requestAnimationFrame(tick);
      };
      tick(began);
    }

    function choose(what) {
      if (what.state !== undefined) return showState(what.state);
      pause();
      showStep(what.step);
    }

    function tick(now) {
      if (!playing) return;
      const length = motions[motion].frames.length - 1;
      let next = step + direction * (Math.min(now - last, 100) / 1000) * (length / SECONDS);
      last = now;
      if (next >= length) {
        next = length;
        direction = -1;
      }
      if (next <= 0) {
        next = 0;
        direction = 1;
      }
      showStep(next);
      requestAnimationFrame(tick);
    }

    function pause() {
      playing = false;
      play.setAttribute("aria-pressed", "false");
      play.setAttribute("aria-label", "Play");
    }

    function toggle() {
      if (playing) return pause();
      if (!motions.length) return;
      playing = true;
      last = performance.now();
      play.setAttribute("aria-pressed", "true");
      play.setAttribute("aria-label", "Pause");
      requestAnimationFrame(tick);
    }

    function select(number) {
      motion = number;
      direction = 1;
      scrub.max = String(motions[motion].frames.length - 1);
      if (map) map.follow(motion);
      showStep(0);
      recolour();
      bodies(find("bodies"), motions[motion]);
    }

    motions.forEach((m, k) => find("motion-choice").append(make("option", { value: k }, m.title)));
    data.maps.forEach((m, k) => find("map-choice").append(make("option", { value: k }, cryo.mapName(m))));
    find("motion-choice").addEventListener("change", (event) => select(Number(event.target.value)));
    find("map-choice").addEventListener("change", (event) => map.change(Number(event.target.value)));
    find("colour-choice").addEventListener("change", recolour);
    scrub.addEventListener("input", () => {
      pause();
      showStep(Number(scrub.value));
    });
    play.addEventListener("click", toggle);
    stateButtons(find("states"), states, choose);
    if (motions.length) select(0);
    else {
      recolour();
      if (states.length) showState(0);
    }
    cryo.keepDrawn(recolour);
    return { highlight };
  };
})(window.cryo);
