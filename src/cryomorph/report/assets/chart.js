// Charts of lines and bars as SVG: a few paths each, a cursor for pointer and arrow keys.
(function (cryo) {
  const { make, svg, format } = cryo;
  const RIGHT = 10,
    BOTTOM = 40,
    PER_TICK = 70;

  /** Round numbers between two limits, about so many. */
  function ticks(low, high, count) {
    const rough = (high - low) / Math.max(count, 1);
    const power = Math.pow(10, Math.floor(Math.log10(rough)));
    const off = (step) => Math.abs(Math.log(step / rough));
    const step = [1, 2, 5, 10].map((m) => m * power).reduce((best, s) => (off(s) < off(best) ? s : best));
    const found = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++)
      found.push(Number((k * step).toPrecision(12)));
    return found;
  }

  function powers(low, high) {
    const found = [];
    for (let k = Math.floor(Math.log10(low)); k <= Math.ceil(Math.log10(high)); k++) found.push(Math.pow(10, k));
    return found;
  }

  const finite = (values) => Array.from(values).filter((v) => v !== null && isFinite(v));

  function limitsOf(options) {
    const all = options.series.flatMap((s) => [s.y, s.low, s.high].filter(Boolean).flatMap(finite));
    let low = Math.min(...all),
      high = Math.max(...all);
    if (!all.length) return [0, 1];
    if (options.log) return [low / 1.3, high * 1.3];
    if (options.fromZero) low = Math.min(low, 0);
    if (high === low) high = low + (Math.abs(low) || 1);
    return [low - (low === 0 ? 0 : 0.05 * (high - low)), high + 0.06 * (high - low)];
  }

  function path(x, y, at) {
    let text = "",
      pen = "M";
    for (let i = 0; i < y.length; i++) {
      if (y[i] === null || !isFinite(y[i])) {
        pen = "M";
        continue;
      }
      text += pen + at.x(x[i]).toFixed(1) + " " + at.y(y[i]).toFixed(1);
      pen = "L";
    }
    return text;
  }

  function steps(edges, counts, at) {
    let text = "M" + at.x(edges[0]).toFixed(1) + " " + at.y(0).toFixed(1);
    counts.forEach((count, i) => {
      text +=
        "L" +
        at.x(edges[i]).toFixed(1) +
        " " +
        at.y(count).toFixed(1) +
        "L" +
        at.x(edges[i + 1]).toFixed(1) +
        " " +
        at.y(count).toFixed(1);
    });
    return text + "L" + at.x(edges[edges.length - 1]).toFixed(1) + " " + at.y(0).toFixed(1) + "Z";
  }

  function band(series, at) {
    const forth = path(series.x, series.high, at);
    const back = path(Array.from(series.x).reverse(), Array.from(series.low).reverse(), at);
    return forth + back.replace("M", "L") + "Z";
  }

  function axes(root, options, at, size, below) {
    const xTicks = options.xTicks || ticks(at.limits.x[0], at.limits.x[1], size.inner / PER_TICK);
    const yTicks = options.log
      ? powers(...at.limits.y).filter((v) => v >= at.limits.y[0] && v <= at.limits.y[1])
      : ticks(...at.limits.y, 4);
    for (const value of yTicks) {
      const y = at.y(value).toFixed(1);
      root.append(svg("line", { class: "rule", x1: size.left, x2: size.width - RIGHT, y1: y, y2: y }));
      root.append(svg("text", { x: size.left - 7, y: Number(y) + 4, "text-anchor": "end" }, format(value)));
    }
    let last = -Infinity;
    for (const value of xTicks) {
      const x = at.x(value);
      const text = (options.xFormat || format)(value);
      if (x < size.left - 1 || x > size.width - RIGHT + 1 || x - last < 12 + 6.5 * text.length) continue;
      last = x;
      root.append(svg("line", { class: "axis", x1: x, x2: x, y1: below, y2: below + 4 }));
      root.append(svg("text", { x, y: below + 17, "text-anchor": "middle" }, text));
    }
    root.append(
      svg("line", { class: "axis", x1: size.left, x2: size.width - RIGHT, y1: size.bottom, y2: size.bottom }),
    );
    if (options.yLabel) root.append(svg("text", { x: 0, y: 12 }, options.yLabel));
    root.append(
      svg("text", { x: (size.left + size.width - RIGHT) / 2, y: below + 34, "text-anchor": "middle" }, options.xLabel),
    );
  }

  function drawSeries(root, options, at) {
    options.series.forEach((series, index) => {
      const colour = series.colour ? cryo.colour(series.colour) : cryo.series(index);
      if (series.edges) {
        root.append(
          svg("path", {
            d: steps(series.edges, series.y, at),
            fill: colour,
            "fill-opacity": 0.3,
            stroke: colour,
            "stroke-width": 1.2,
          }),
        );
        return;
      }
      if (series.low) root.append(svg("path", { d: band(series, at), fill: colour, "fill-opacity": 0.18 }));
      const dash = series.dash ? { "stroke-dasharray": "5 3" } : {};
      root.append(
        svg("path", {
          d: path(series.x, series.y, at),
          fill: "none",
          stroke: colour,
          "stroke-width": 1.8,
          "stroke-linejoin": "round",
          ...dash,
        }),
      );
    });
  }

  function legend(options) {
    if (options.series.length < 2 && !options.alwaysNamed) return null;
    const list = make("ul", { class: "legend" });
    options.series.forEach((series, index) => {
      const swatch = make("i");
      const colour = series.colour ? cryo.colour(series.colour) : cryo.series(index);
      swatch.style.background = series.dash
        ? `repeating-linear-gradient(90deg, ${colour} 0 5px, transparent 5px 8px)`
        : colour;
      list.append(make("li", {}, swatch, series.name));
    });
    for (const [name, colour] of options.keys || []) {
      const swatch = make("i", { class: "block" });
      swatch.style.background = cryo.colour(colour);
      list.append(make("li", {}, swatch, name));
    }
    return list;
  }

  function nearest(x, value) {
    let best = 0;
    for (let i = 1; i < x.length; i++) if (Math.abs(x[i] - value) < Math.abs(x[best] - value)) best = i;
    return best;
  }

  const middles = (edges) => edges.slice(1).map((edge, i) => (edge + edges[i]) / 2);

  /** A line that follows the pointer, or the arrow keys, and says what is there. */
  function cursor(host, root, options, at, size) {
    const line = svg("line", { class: "cursor", y1: size.top, y2: size.bottom, visibility: "hidden" });
    const tip = make("div", { class: "tip", "aria-live": "polite", hidden: "" });
    const x = options.series[0].x;
    let index = -1;
    root.append(line);
    host.append(tip);

    function show(next) {
      index = Math.min(Math.max(next, 0), x.length - 1);
      const place = at.x(x[index]);
      line.setAttribute("x1", place);
      line.setAttribute("x2", place);
      line.setAttribute("visibility", "visible");
      tip.replaceChildren(...options.tip(index).map((text) => make("div", {}, text)));
      tip.hidden = false;
      const left = place + 12 + tip.offsetWidth > size.width ? place - 12 - tip.offsetWidth : place + 12;
      const top = root.getBoundingClientRect().top - host.getBoundingClientRect().top + size.top;
      tip.style.transform = `translate(${Math.max(0, left)}px, ${top}px)`;
      if (options.onPoint) options.onPoint(index);
    }
    function hide() {
      line.setAttribute("visibility", "hidden");
      tip.hidden = true;
      if (options.onPoint) options.onPoint(null);
    }
    root.addEventListener("pointermove", (event) =>
      show(nearest(x, at.back(event.clientX - root.getBoundingClientRect().left))),
    );
    root.addEventListener("pointerdown", (event) =>
      show(nearest(x, at.back(event.clientX - root.getBoundingClientRect().left))),
    );
    root.addEventListener("pointerleave", hide);
    root.addEventListener("blur", hide);
    root.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 }[event.key];
      if (event.key === "Escape") hide();
      if (!by) return;
      event.preventDefault();
      show(index < 0 ? 0 : index + by);
    });
  }

  function defaultTip(options, index) {
    const first = options.series[0];
    if (first.edges) {
      return [
        `${format(first.edges[index])} to ${format(first.edges[index + 1])}${options.unit || ""}`,
        `${format(first.y[index])} particles`,
      ];
    }
    const head = options.xName ? options.xName(first.x[index]) : format(first.x[index]);
    return [
      head,
      ...options.series
        .filter((s) => index < s.y.length)
        .map((s) => `${s.name}: ${format(s.y[index])}${options.unit || ""}`),
    ];
  }

  function draw(host, options) {
    const width = Math.max(host.clientWidth, 200),
      height = options.height || 220;
    const limits = { y: options.yLimits || limitsOf(options) };
    const xs = options.series.flatMap((s) =>
      s.edges ? [s.edges[0], s.edges[s.edges.length - 1]] : [s.x[0], s.x[s.x.length - 1]],
    );
    limits.x = options.xLimits || [Math.min(...xs), Math.max(...xs)];
    if (limits.x[0] === limits.x[1]) limits.x = [limits.x[0] - 1, limits.x[1] + 1];
    const extra = options.below ? options.below.height : 0;
    const longest = Math.max(
      ...(options.log ? powers(...limits.y) : ticks(...limits.y, 4)).map((v) => format(v).length),
    );
    const size = { width, top: options.yLabel ? 22 : 10, left: 14 + 6.6 * longest, bottom: height - BOTTOM - extra };
    size.inner = width - RIGHT - size.left;
    const scale = options.log ? Math.log10 : (v) => v;
    const [low, high] = limits.y.map(scale);
    const at = {
      limits,
      x: (v) => size.left + ((v - limits.x[0]) / (limits.x[1] - limits.x[0])) * size.inner,
      y: (v) => size.bottom - ((scale(v) - low) / (high - low)) * (size.bottom - size.top),
      back: (p) => limits.x[0] + ((p - size.left) / size.inner) * (limits.x[1] - limits.x[0]),
    };
    const root = svg("svg", {
      viewBox: `0 0 ${width} ${height}`,
      height,
      role: "img",
      tabindex: 0,
      "aria-label": options.label + " Arrow keys read the values.",
    });
    axes(root, options, at, size, size.bottom + extra);
    if (options.below) options.below.draw(root, at, size);
    for (const mark of options.marks || [])
      root.append(svg("line", { class: "mark", x1: at.x(mark), x2: at.x(mark), y1: size.top, y2: size.bottom }));
    drawSeries(root, options, at);
    host.classList.add("chart");
    host.replaceChildren(...[legend(options), root].filter(Boolean));
    cursor(host, root, { ...options, tip: options.tip || ((index) => defaultTip(options, index)) }, at, size);
  }

  cryo.ticks = ticks;

  /** Draw a chart into an element and keep it as wide as that. Series have name, x and y, or edges and y. */
  cryo.chart = function (host, options) {
    for (const series of options.series) if (series.edges) series.x = middles(series.edges);
    cryo.keepDrawn(() => draw(host, options), host);
  };
})(window.cryo);
