// The shape of a chain: a tube along the trace, flat and wide in helices and strands, with arrows at the end of these.
(function (cryo) {
  const RING = 8;
  const COIL = [0.32, 0.32],
    HELIX = [1.25, 0.34],
    STRAND = [1.15, 0.34],
    NUCLEIC = [0.75, 0.75],
    ARROW = 1.9,
    TIP = 0.34;

  /** Half width and half thickness in Å at each sample along the trace. */
  function profile(trace, subdivisions) {
    const { secondary, nucleotide } = trace;
    const size = (i) => (nucleotide[i] === "1" ? NUCLEIC : { H: HELIX, E: STRAND }[secondary[i]] || COIL);
    const at = (first, last, place) => {
      const i = Math.min(first + Math.floor(place), last),
        next = Math.min(i + 1, last),
        part = place - Math.floor(place);
      if (secondary[i] === "E" && (next === i || secondary[next] !== "E"))
        return [ARROW + part * (TIP - ARROW), STRAND[1]];
      if (secondary[i] === "E" && secondary[next] === "E") return STRAND;
      const smooth = part * part * (3 - 2 * part);
      return size(i).map((value, k) => value + smooth * (size(next)[k] - value));
    };
    return trace.parts.map(([first, last]) => {
      const found = [];
      for (let k = 0; k <= (last - first) * subdivisions; k++) found.push(at(first, last, k / subdivisions));
      found[0] = found[found.length - 1] = [0.05, 0.05];
      return found;
    });
  }

  /** Stretches of residues that are linked, as pairs of first and last. */
  cryo.parts = function (linked) {
    const found = [];
    let first = 0;
    for (let i = 0; i < linked.length; i++)
      if (linked[i] === "0") {
        found.push([first, i]);
        first = i + 1;
      }
    return found.filter(([a, b]) => b > a);
  };

  const unit = (out, at) => {
    const length = Math.hypot(out[at], out[at + 1], out[at + 2]) || 1;
    out[at] /= length;
    out[at + 1] /= length;
    out[at + 2] /= length;
  };

  /** Across the trace at each residue: normal to the plane of three residues, never turning over. */
  function across(x, first, last, out) {
    for (let i = first + 1; i < last; i++) {
      const a = 3 * (i - 1),
        b = 3 * i,
        c = 3 * (i + 1);
      const ux = x[b] - x[a],
        uy = x[b + 1] - x[a + 1],
        uz = x[b + 2] - x[a + 2];
      const vx = x[c] - x[b],
        vy = x[c + 1] - x[b + 1],
        vz = x[c + 2] - x[b + 2];
      out[b] = uy * vz - uz * vy;
      out[b + 1] = uz * vx - ux * vz;
      out[b + 2] = ux * vy - uy * vx;
      if (i > first + 1 && out[b] * out[a] + out[b + 1] * out[a + 1] + out[b + 2] * out[a + 2] < 0) {
        out[b] *= -1;
        out[b + 1] *= -1;
        out[b + 2] *= -1;
      }
      unit(out, b);
    }
    const inner = Math.min(first + 1, last);
    for (const [end, from] of [
      [first, inner],
      [last, Math.max(last - 1, first)],
    ]) {
      for (let k = 0; k < 3; k++) out[3 * end + k] = last - first > 1 ? out[3 * from + k] : [0, 0, 1][k];
    }
  }

  /** Strands zigzag about their middle, which is what is drawn. */
  function smoothed(x, trace, out) {
    out.set(x);
    for (const [first, last] of trace.parts) {
      for (let i = first + 1; i < last; i++) {
        if (trace.secondary[i] !== "E") continue;
        for (let k = 3 * i; k < 3 * i + 3; k++) out[k] = 0.25 * x[k - 3] + 0.5 * x[k] + 0.25 * x[k + 3];
      }
    }
  }

  /** Make the mesh of a trace: triangles once, vertices anew for every conformation. */
  cryo.ribbon = function (trace, subdivisions) {
    const sizes = profile(trace, subdivisions);
    const rings = sizes.reduce((sum, part) => sum + part.length, 0);
    const mesh = {
      vertices: rings * RING,
      positions: new Float32Array(rings * RING * 3),
      normals: new Float32Array(rings * RING * 3),
      residues: new Uint32Array(rings * RING),
      triangles: null,
    };
    const triangles = [];
    let ring = 0;
    sizes.forEach((part, number) => {
      const [first, last] = trace.parts[number];
      for (let k = 0; k < part.length; k++, ring++) {
        mesh.residues.fill(Math.min(last, first + Math.round(k / subdivisions)), ring * RING, (ring + 1) * RING);
        if (k === part.length - 1) continue;
        for (let j = 0; j < RING; j++) {
          const a = ring * RING + j,
            b = ring * RING + ((j + 1) % RING);
          triangles.push(a, b, a + RING, b, b + RING, a + RING);
        }
      }
    });
    mesh.triangles = Uint32Array.from(triangles);
    const smooth = new Float32Array(3 * trace.count),
      wide = new Float32Array(3 * trace.count);
    const cosines = Array.from({ length: RING }, (_, j) => Math.cos((2 * Math.PI * j) / RING));
    const sines = Array.from({ length: RING }, (_, j) => Math.sin((2 * Math.PI * j) / RING));

    mesh.follow = function (x) {
      smoothed(x, trace, smooth);
      let out = 0;
      sizes.forEach((part, number) => {
        const [first, last] = trace.parts[number];
        across(x, first, last, wide);
        for (let k = 0; k < part.length; k++) {
          const i = Math.min(first + Math.floor(k / subdivisions), last - 1),
            t = k / subdivisions - (i - first);
          const p = 3 * Math.max(i - 1, first),
            q = 3 * i,
            r = 3 * (i + 1),
            s = 3 * Math.min(i + 2, last);
          const point = [0, 0, 0],
            along = [0, 0, 0],
            side = [0, 0, 0];
          for (let d = 0; d < 3; d++) {
            const x0 = smooth[p + d],
              x1 = smooth[q + d],
              x2 = smooth[r + d],
              x3 = smooth[s + d];
            const b = 0.5 * (x2 - x0),
              c = x0 - 2.5 * x1 + 2 * x2 - 0.5 * x3,
              e = 0.5 * (x3 - x0) + 1.5 * (x1 - x2);
            point[d] = x1 + t * (b + t * (c + t * e));
            along[d] = b + t * (2 * c + 3 * t * e);
            side[d] = wide[q + d] + t * (wide[r + d] - wide[q + d]);
          }
          unit(along, 0);
          const dot = side[0] * along[0] + side[1] * along[1] + side[2] * along[2];
          for (let d = 0; d < 3; d++) side[d] -= dot * along[d];
          unit(side, 0);
          const up = [
            along[1] * side[2] - along[2] * side[1],
            along[2] * side[0] - along[0] * side[2],
            along[0] * side[1] - along[1] * side[0],
          ];
          const [w, h] = part[k];
          for (let j = 0; j < RING; j++, out += 3) {
            const c = cosines[j],
              n = sines[j],
              length = Math.hypot(h * c, w * n) || 1;
            for (let d = 0; d < 3; d++) {
              mesh.positions[out + d] = point[d] + w * c * side[d] + h * n * up[d];
              mesh.normals[out + d] = (h * c * side[d] + w * n * up[d]) / length;
            }
          }
        }
      });
    };
    return mesh;
  };
})(window.cryo);
