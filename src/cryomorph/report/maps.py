"""Where particles are in two dimensions: a density, a sample of them, and the states and motions among them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from cryomorph.analysis.result import Analysis, Components
from cryomorph.report.encoding import packed_bytes, packed_grid, rounded

SAMPLE = 3000
"""Particles that are drawn as points; all of them are in the density."""
NEIGHBOURS = 20000
"""Particles among which the one nearest to a step of a motion is sought."""
BINS = 72
SMOOTHING = 1.2
"""Bins, standard deviation."""
HIGHEST = 6.0
"""kT that the scale of colours ends at."""
NONE = 255
MOST_MAPS = 6
MARGIN = 0.04

Array = NDArray[np.floating]


def maps(analysis: Analysis, coordinates: Sequence[Array]) -> list[dict[str, Any]]:
    """Return the maps that there are columns for, the landscape first.

    Parameters
    ----------
    analysis
        Of m particles.
    coordinates
        Of the steps of each motion as they are shown, each of shape (s, n, 3).

    Returns
    -------
    list of dict
        `names` of the columns along x and y; `x` and `y`, limits; `energy`, bytes (b, a) in units of `highest` / 254,
        255 where no particles are, first row at the bottom; `points` (k, 2) with the `state` of each; `states` and
        `motions`, where they are on the map.
    """
    columns = analysis.columns
    rng = np.random.default_rng(0)
    sample = _sample(len(analysis), SAMPLE, rng)
    neighbours = _sample(len(analysis), NEIGHBOURS, rng)
    found = []
    for names in _pairs(analysis)[:MOST_MAPS]:
        both = np.stack([np.asarray(columns[name], dtype=np.float64) for name in names], axis=1)
        places = [_places(names, analysis, x, neighbours) for x in coordinates]
        states = both[[state.particle for state in analysis.states]].reshape(-1, 2)
        x, y, energy = _energy(analysis, names, both, np.concatenate([states, *places]))
        shown = sample[np.isfinite(both[sample]).all(axis=1)]
        found.append(
            {
                "names": list(names),
                "x": rounded([x[0], x[-1]]),
                "y": rounded([y[0], y[-1]]),
                "highest": HIGHEST,
                "energy": packed_bytes(_levels(energy).T),
                "points": packed_grid(both[shown], grid=float(max(np.ptp(x), np.ptp(y))) / 10000),
                "state": packed_bytes(np.minimum(columns["state"][shown], 255).astype(np.uint8)),
                "states": rounded(states),
                "motions": [rounded(place) for place in places],
            }
        )
    return found


def projected(components: Components, coordinates: Array) -> Array:
    """Return where conformations (s, n, 3) are along each component, Å root mean square over residues, shape (s, k)."""
    n = len(components.mean)
    difference = (coordinates - components.mean).reshape(len(coordinates), -1)
    return np.asarray(difference @ components.modes.reshape(len(components.modes), -1).T / np.sqrt(n))


def _pairs(analysis: Analysis) -> list[tuple[str, str]]:
    """Return columns to be drawn against each other: of the landscape, the components, each block, UMAP."""
    columns = analysis.columns
    firsts = ["pc1", *(name for name in columns if name.endswith("_pc1")), "umap1", "z1"]
    pairs = [analysis.landscape.names, *((first, f"{first[:-1]}2") for first in firsts)]
    return [pair for pair in dict.fromkeys(pairs) if all(name in columns for name in pair)]


def _places(names: tuple[str, str], analysis: Analysis, coordinates: Array, neighbours: NDArray[np.int64]) -> Array:
    """Return where conformations (s, n, 3) are on a map, shape (s, 2): elsewhere than PCs, by the nearest particle."""
    along = projected(analysis.components, coordinates)
    own = [f"pc{k + 1}" for k in range(along.shape[1])]
    if all(name in own for name in names):
        return np.stack([along[:, own.index(name)] for name in names], axis=1)
    known = [k for k, name in enumerate(own) if name in analysis.columns]
    if not known:
        return np.full((len(coordinates), 2), np.nan)
    particles = np.stack([analysis.columns[own[k]][neighbours] for k in known], axis=1)
    nearest = neighbours[cKDTree(particles).query(along[:, known])[1]]
    return np.stack([np.asarray(analysis.columns[name], dtype=np.float64)[nearest] for name in names], axis=1)


def _energy(analysis: Analysis, names: tuple[str, str], both: Array, marked: Array) -> tuple[Array, Array, Array]:
    """Return edges along x and y and the energy (a, b): the analysis' own, or made likewise."""
    if names == analysis.landscape.names:
        return analysis.landscape.x, analysis.landscape.y, analysis.landscape.energy
    finite = both[np.isfinite(both).all(axis=1)]
    edges = [_edges(finite[:, axis], marked[:, axis]) for axis in (0, 1)]
    counts, x, y = np.histogram2d(finite[:, 0], finite[:, 1], bins=edges)
    density = gaussian_filter(counts, SMOOTHING)
    with np.errstate(divide="ignore"):
        energy = -np.log(density / max(density.max(), 1e-300))
    return x, y, np.where(density > 0.02, energy, np.nan)


def _edges(values: Array, marked: Array) -> Array:
    """Return bins over nearly all values, and everything that is marked."""
    if not len(values):
        return np.linspace(-0.5, 0.5, BINS + 1)
    low, high = np.percentile(values, [0.1, 99.9])
    low, high = (function([end, *marked[np.isfinite(marked)]]) for function, end in ((np.min, low), (np.max, high)))
    margin = MARGIN * (high - low) if high > low else 0.5
    return np.linspace(low - margin, high + margin, BINS + 1)


def _levels(energy: Array) -> NDArray[np.uint8]:
    scaled = np.clip(np.nan_to_num(energy, nan=0.0, posinf=HIGHEST) / HIGHEST, 0, 1)
    return np.where(np.isnan(energy), NONE, np.rint(scaled * (NONE - 1))).astype(np.uint8)


def _sample(count: int, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    return np.arange(count) if count <= most else np.sort(rng.choice(count, most, replace=False))
