// The sections below the motion: which chart shows what.
(function (cryo) {
  const { find, make, svg, unpack, chart, format, hide } = cryo;

  const ICONS = {
    warning: "M10 2.5 18.5 17h-17zM10 8v4.2M10 14.4v.8",
    good: "M3.5 10.5 8 15l8.5-10",
    note: "M10 9v5.5M10 5.5v.8M10 1.8a8.2 8.2 0 1 1 0 16.4 8.2 8.2 0 0 1 0-16.4",
  };
  const LEVELS = { warning: "Warning: ", good: "", note: "Note: " };

  cryo.sections.summary = function (data) {
    document.title = `${data.title} · cryomorph`;
    find("title").textContent = data.title;
    find("version").textContent = data.version;
    const [particles, residues] = data.numbers;
    find("lead").textContent =
      `An atomic conformation for each of ${particles.value} particles of a molecule of ${residues.value} residues${residues.detail ? ` in ${residues.detail}` : ""}.`;
    for (const number of data.numbers) {
      find("numbers").append(
        make(
          "div",
          {},
          make("dt", {}, number.label),
          make("dd", { class: "value" }, number.value, number.unit ? make("small", {}, ` ${number.unit}`) : null),
          number.detail ? make("dd", { class: "detail" }, number.detail) : null,
        ),
      );
    }
    const list = make("ul", { class: "remarks" });
    for (const remark of data.remarks) {
      const icon = svg(
        "svg",
        { viewBox: "0 0 20 20", "aria-hidden": "true" },
        svg("path", {
          d: ICONS[remark.level],
          fill: "none",
          stroke: "currentColor",
          "stroke-width": 1.7,
          "stroke-linecap": "round",
          "stroke-linejoin": "round",
        }),
      );
      list.append(
        make(
          "li",
          { class: remark.level },
          icon,
          make("div", {}, make("span", { class: "unseen" }, LEVELS[remark.level]), remark.text),
        ),
      );
    }
    find("remarks").append(list);
  };

  function blocks(root, at, size, sequence) {
    const top = size.bottom + 12;
    for (const [letter, colour, height] of [
      ["H", "data-1", 10],
      ["E", "data-2", 6],
    ]) {
      let text = "";
      for (let i = 0; i < sequence.secondary.length; i++) {
        if (sequence.secondary[i] !== letter) continue;
        const first = i;
        while (sequence.secondary[i + 1] === letter) i++;
        const [a, b] = [at.x(first + 0.55), at.x(i + 1.45)];
        text += `M${a.toFixed(1)} ${top - height / 2}H${b.toFixed(1)}V${top + height / 2}H${a.toFixed(1)}Z`;
      }
      root.append(svg("path", { d: text, fill: cryo.colour(colour) }));
    }
    if (sequence.chains.length < 2) return;
    for (const chain of sequence.chains.slice(1, 60))
      root.append(
        svg("line", {
          class: "rule",
          x1: at.x(chain.start + 0.5),
          x2: at.x(chain.start + 0.5),
          y1: 22,
          y2: size.bottom,
        }),
      );
    for (const chain of sequence.chains) {
      const width = at.x(chain.stop) - at.x(chain.start);
      if (width > 7 * chain.name.length + 6)
        root.append(svg("text", { x: at.x(chain.start + 0.5) + 4, y: 32 }, chain.name.slice(0, 8)));
    }
  }

  const residueName = (sequence, i) => {
    const chain = sequence.chains.find((c) => i < c.stop);
    const kind = { H: ", helix", E: ", strand", "-": "" }[sequence.secondary[i]];
    return `${chain ? chain.name : ""} ${sequence.names[i]} ${sequence.ids[i]}${kind}`;
  };

  /** Charts over residues share axis, names and the strip of helices and strands. */
  function alongSequence(host, sequence, series, options) {
    const count = sequence.names.length;
    const x = Float32Array.from({ length: count }, (_, i) => i + 1);
    const single = sequence.chains.length === 1;
    chart(host, {
      series: series.map((s) => ({ ...s, x })),
      fromZero: true,
      height: 300,
      unit: " Å",
      yLabel: "Å",
      xLimits: [0.5, count + 0.5],
      xLabel: single ? "residue" : "residue, in the order of the template",
      xFormat: (v) => (single && sequence.ids[v - 1] !== undefined ? sequence.ids[v - 1] : String(v)),
      xName: (v) => residueName(sequence, v - 1),
      keys: [
        ["H", "helix", "data-1"],
        ["E", "strand", "data-2"],
      ]
        .filter(([letter]) => sequence.secondary.includes(letter))
        .map(([, name, colour]) => [name, colour]),
      below: { height: 20, draw: (root, at, size) => blocks(root, at, size, sequence) },
      ...options,
    });
  }

  cryo.sections.sequence = function (data, motion) {
    const { sequence } = data;
    const series = [{ name: "RMSF", y: unpack(sequence.rmsf) }];
    if (sequence.uncertainty)
      series.push({
        name: "uncertainty in one particle",
        y: unpack(sequence.uncertainty),
        dash: true,
        colour: "muted",
      });
    alongSequence(find("sequence"), sequence, series, {
      label: "Root mean square fluctuation of each residue in ångström.",
      alwaysNamed: true,
      onPoint: (i) => motion.highlight(i),
    });
  };

  const particleHistogram = (id, distribution, xLabel, label, options) =>
    chart(find(id), {
      series: [{ name: "particles", edges: distribution.edges, y: distribution.counts }],
      fromZero: true,
      xLabel,
      label,
      yLabel: "particles",
      height: 210,
      ...options,
    });

  cryo.sections.measures = function (data) {
    if (!data.measures.length) return hide("measures");
    data.measures.forEach((measure, k) => {
      const id = `measure-${k}`;
      const states = data.molecule.states
        .map((state, i) => `state ${state.number} ${format(measure.states[i])} ${measure.unit}`)
        .join(", ");
      find("measure-list").append(
        make(
          "figure",
          { class: "panel" },
          make("h3", {}, measure.name),
          make("div", { id }),
          make("figcaption", { class: "fine" }, `Median ${format(measure.median)} ${measure.unit}: ${states}.`),
        ),
      );
      particleHistogram(
        id,
        measure,
        `${measure.name} / ${measure.unit}`,
        `Distribution of the ${measure.name} over particles.`,
        { unit: ` ${measure.unit}` },
      );
    });
  };

  cryo.sections.halves = function (data) {
    const { halves, sequence } = data;
    if (!halves) return hide("halves");
    find("halves-verdict").textContent =
      `Two runs on independent halves, ${halves.compared.toLocaleString("en")} particles compared: ${halves.verdict}.`;
    alongSequence(
      find("halves-residues"),
      sequence,
      [
        {
          name: "motion that both halves resolve, ± 2 standard errors",
          y: unpack(halves.motion),
          low: unpack(halves.low),
          high: unpack(halves.high),
        },
        { name: "between the two models, same images", y: unpack(halves.between_models), dash: true, colour: "muted" },
      ],
      { label: "Motion of each residue that both halves resolve." },
    );
    particleHistogram(
      "halves-places",
      halves.places,
      "place along the shared motion / Å",
      "Particles along the motion that the halves share.",
    );
    const { motion, agreement, mean, states } = halves.numbers;
    const rows = [
      ["motion", `${format(motion.angstrom)} ± ${format(motion.uncertainty_angstrom, 1)} Å`],
      [
        "models agree",
        `${format(agreement.rmsd_angstrom, 2)} Å apart, correlation ${format(agreement.correlation, 2)}`,
      ],
      ["mean from the template", `${format(mean.from_template_angstrom, 2)} Å`],
      ["means of the halves", `${format(mean.between_halves_angstrom, 2)} Å apart`],
      ["states", states.count > 1 ? `${states.count}, ${format(states.separation_angstrom)} Å apart` : "one"],
    ];
    for (const [name, value] of rows) find("halves-numbers").append(make("dt", {}, name), make("dd", {}, value));
  };

  cryo.sections.orientations = function (data) {
    const { views, defocus } = data;
    if (!views && !defocus) return hide("orientations");
    if (views) {
      cryo.sphere(find("views"), views.columns, unpack(views.density));
      find("views-caption").textContent =
        "Of " +
        views.particles.toLocaleString("en") +
        " particles, in the frame of the template, seen along its z axis at the top." +
        (views.empty === null
          ? ""
          : ` Hardly seen, from either side: ${Math.round(100 * views.empty)}% of all directions.`);
    } else hide("views-panel");
    if (defocus) {
      particleHistogram("defocus", defocus, "defocus / µm", "Distribution of the defocus over particles.", {
        unit: " µm",
      });
      find("defocus-caption").textContent =
        `Median ${format(defocus.median)} µm; median astigmatism ${format(defocus.astigmatism, 2)} nm.`;
    } else hide("defocus-panel");
  };

  cryo.sections.particles = function (data) {
    const c = data.certainty;
    if (!c) return hide("particles");
    particleHistogram(
      "deviation",
      c.deviation,
      "root mean square uncertainty of residues / Å",
      "Uncertainty of the conformation over particles.",
      { unit: " Å" },
    );
    particleHistogram(
      "information",
      c.information,
      "information about the conformation / nats",
      "Information that an image has about the conformation.",
      { unit: " nats" },
    );
    particleHistogram(
      "junk",
      c.junk,
      "probability of nothing but noise",
      "Probability that an image holds nothing but noise.",
    );
    find("junk-caption").textContent = c.junk_particles
      ? `${c.junk_particles.toLocaleString("en")} of ${c.particles.toLocaleString("en")} images are more probably noise than not.`
      : "Every image more probably holds the molecule than not.";
    if (c.misplaced_particles)
      find("junk-caption").append(
        ` ${c.misplaced_particles.toLocaleString("en")} are more probably in quite another pose than the one found.`,
      );
  };

  cryo.sections.examples = function (data) {
    const found = data.examples;
    if (!found || !found.particles.length) return hide("examples");
    find("examples-about").textContent =
      `Each image as it was compared, the same low-passed to ${format(found.resolution)} Å, and its model’s projection at its pose and defocus, low-passed likewise. ${format(found.field)} Å across.`;
    for (const p of found.particles) {
      const picture = (source, name) =>
        make("span", {}, make("img", { src: source, alt: `${name} of particle ${p.number}` }), name);
      find("example-list").append(
        make(
          "figure",
          { class: "example panel" },
          make(
            "figcaption",
            {},
            `Particle ${p.number.toLocaleString("en")}`,
            make("span", {}, `${p.state ? ` · state ${p.state}` : ""} · correlation ${format(p.correlation, 2)}`),
          ),
          make(
            "div",
            { class: "trio" },
            picture(p.image, "image"),
            picture(p.filtered, "low-passed"),
            picture(p.model, "model"),
          ),
        ),
      );
    }
  };

  cryo.sections.run = function (data) {
    for (const [name, value] of data.run.rows) find("run-rows").append(make("dt", {}, name), make("dd", {}, value));
    find("settings").textContent = data.run.settings;
  };
})(window.cryo);
