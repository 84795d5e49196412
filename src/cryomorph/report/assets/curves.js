// Sections of curves over epochs and over Fourier shells.
(function (cryo) {
  const { find, make, chart, format, hide } = cryo;
  const known = (values) => Boolean(values) && values.some((v) => v !== null);

  cryo.sections.training = function (data) {
    const c = data.convergence;
    if (!c.epoch.length) return hide("training");
    const over = (id, series, options) =>
      chart(find(id), {
        series: series.map((s) => ({ ...s, x: c.epoch })),
        xLabel: "epoch",
        xName: (v) => `epoch ${v}`,
        ...options,
      });
    const named = [
      ["work", "work"],
      ["free", "free"],
    ].filter(([key]) => known(c[key]));
    if (named.length)
      over(
        "explained",
        named.map(([key, name]) => ({ name, y: c[key] })),
        {
          label: "Nats an image is explained by, over epochs.",
          height: 250,
          unit: " nats",
          yLabel: "nats an image",
          marks: c.calibrated,
        },
      );
    else find("explained").parentNode.hidden = true;
    if (known(c.learning_rate))
      over("learning-rate", [{ name: "learning rate", y: c.learning_rate }], {
        label: "Learning rate over epochs.",
        log: true,
        height: 190,
      });
    over("strength", [{ name: "strength", y: c.strength }], {
      label: "Strength of the geometric priors over epochs.",
      fromZero: true,
      height: 190,
    });
    if (c.calibrated.length && named.length)
      find("explained").parentNode.append(
        make(
          "figcaption",
          { class: "fine" },
          `Nats an image. Dotted lines: noise and gain of each shell were estimated again, which changes what a nat is.`,
        ),
      );
  };

  const resolution = (frequency) => (frequency > 0 ? `${format(1 / frequency)} Å` : "");

  function overShells(id, series, options) {
    const all = series.flatMap((s) => s.x);
    const highest = Math.max(...all);
    const xTicks = [50, 30, 20, 15, 12, 10, 8, 7, 6, 5, 4, 3.5, 3, 2.5, 2.2, 2, 1.8, 1.5, 1.2, 1]
      .map((r) => 1 / r)
      .filter((f) => f <= highest * 1.001);
    chart(find(id), {
      series,
      xLimits: [0, highest],
      xTicks,
      xFormat: (f) => format(1 / f),
      xName: resolution,
      xLabel: "resolution / Å",
      height: 220,
      ...options,
    });
  }

  cryo.sections.shells = function (data) {
    const { groups, explained, more_groups: more } = data.shells;
    if (!groups.length && !explained) return hide("shells");
    if (explained)
      overShells(
        "shell-explained",
        ["work", "free"]
          .filter((key) => known(explained[key]))
          .map((key) => ({ name: key, x: explained.frequency, y: explained[key] })),
        { label: "Nats explained in each Fourier shell.", unit: " nats", yLabel: "nats an image", height: 240 },
      );
    else find("shell-explained").parentNode.hidden = true;
    for (const [id, key, label] of [
      ["shell-noise", "noise", "Noise power of each Fourier shell."],
      ["shell-signal", "signal", "Signal of each Fourier shell over the model's."],
    ]) {
      if (!groups.length) {
        find(id).parentNode.hidden = true;
        continue;
      }
      overShells(
        id,
        groups.map((g) => ({ name: `optics group ${g.number}`, x: g.frequency, y: g[key] })),
        { label, fromZero: true },
      );
      if (more) find(id).parentNode.append(make("figcaption", { class: "fine" }, `And ${more} more optics groups.`));
    }
  };
})(window.cryo);
