// Directions on the whole sphere, in Mollweide's equal-area projection.
(function (cryo) {
  const { make } = cryo;

  /** Where a direction is drawn, within -1..1 along both axes. */
  function mollweide(longitude, latitude) {
    if (Math.abs(latitude) > 1.5707) return [0, Math.sign(latitude)];
    let angle = latitude;
    for (let i = 0; i < 8; i++) {
      angle -= (2 * angle + Math.sin(2 * angle) - Math.PI * Math.sin(latitude)) / (2 + 2 * Math.cos(2 * angle));
    }
    return [(longitude / Math.PI) * Math.cos(angle), Math.sin(angle)];
  }

  function cell(context, place, south, north, west, east) {
    const corners = [
      [west, south],
      [east, south],
      [east, north],
      [west, north],
    ];
    context.beginPath();
    corners.forEach(([longitude, latitude], side) => {
      const next = corners[(side + 1) % 4],
        parts = 4 + Math.ceil(4 * Math.abs(next[0] - longitude));
      for (let k = 0; k < parts; k++)
        context.lineTo(
          ...place(longitude + ((next[0] - longitude) * k) / parts, latitude + ((next[1] - latitude) * k) / parts),
        );
    });
    context.closePath();
    context.fill();
    context.stroke();
  }

  function lines(context, place) {
    context.strokeStyle = cryo.colour("muted");
    context.globalAlpha = 0.45;
    context.lineWidth = 0.8;
    const meridian = (longitude) => {
      context.beginPath();
      for (let k = -45; k <= 45; k++) context.lineTo(...place(longitude, (k / 45) * (Math.PI / 2)));
      context.stroke();
    };
    for (let degrees = -180; degrees <= 180; degrees += 60) meridian((degrees / 180) * Math.PI);
    for (const degrees of [-60, -30, 0, 30, 60]) {
      context.beginPath();
      const latitude = (degrees / 180) * Math.PI;
      context.moveTo(...place(-Math.PI, latitude));
      context.lineTo(...place(Math.PI, latitude));
      context.stroke();
    }
    context.globalAlpha = 1;
  }

  /** Draw densities of bands of latitude, 1 where all directions are alike. */
  cryo.sphere = function (host, columns, density) {
    const canvas = make("canvas", { role: "img", "aria-label": "Density of viewing directions on the sphere." });
    const legend = make("div", { class: "scale" });
    host.classList.add("sphere");
    host.append(canvas, legend);
    const highest = Math.max(2, Array.from(density).sort((a, b) => a - b)[Math.floor(0.99 * (density.length - 1))]);
    cryo.keepDrawn(() => {
      const width = Math.max(host.clientWidth, 200),
        height = width / 2,
        ratio = Math.min(devicePixelRatio || 1, 2);
      canvas.width = width * ratio;
      canvas.height = height * ratio;
      canvas.style.height = height + "px";
      const context = canvas.getContext("2d");
      context.scale(ratio, ratio);
      const place = (longitude, latitude) => {
        const [x, y] = mollweide(longitude, latitude);
        return [width / 2 + x * (width / 2 - 2), height / 2 - y * (height / 2 - 2)];
      };
      const empty = cryo.rgb(cryo.colour("density-0")),
        full = cryo.rgb(cryo.colour("density-1"));
      const paint = (value) =>
        `rgb(${cryo
          .mix(empty, full, Math.min(value / highest, 1))
          .map(Math.round)
          .join(",")})`;
      let at = 0;
      columns.forEach((count, row) => {
        const south = (row / columns.length - 0.5) * Math.PI,
          north = ((row + 1) / columns.length - 0.5) * Math.PI;
        for (let k = 0; k < count; k++, at++) {
          context.fillStyle = context.strokeStyle = paint(density[at]);
          context.lineWidth = 0.6;
          cell(
            context,
            place,
            south,
            north,
            (k / count) * 2 * Math.PI - Math.PI,
            ((k + 1) / count) * 2 * Math.PI - Math.PI,
          );
        }
      });
      lines(context, place);
      const bar = make("canvas", { width: 64, height: 1, "aria-hidden": "true" });
      const strip = bar.getContext("2d");
      for (let k = 0; k < 64; k++) {
        strip.fillStyle = paint((k / 63) * highest);
        strip.fillRect(k, 0, 1, 1);
      }
      legend.replaceChildren(
        make("span", {}, "none"),
        bar,
        make("span", {}, `${cryo.format(highest, 2)} × as many as if all directions were alike`),
      );
    }, host);
  };
})(window.cryo);
