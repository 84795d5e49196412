"""A map of where particles are, like a free energy: `-log` of their density in kT.

It is a free energy only as far as the particles were frozen from equilibrium and their places are not noise.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cryomorph.analysis.result import Landscape

Array = NDArray[np.floating]

LEAST = 5.0
"""Particles that a smoothed bin rests on; with fewer, its energy is off by half a kT and is not given."""
INSIDE = (0.001, 0.999)
"""Quantiles of the particles that the map reaches, and three widths of smoothing further."""
SAMPLE = 1500
"""Particles that tell how wide to smooth."""
SHARES = (1.0, 0.7, 0.5, 0.35, 0.25)
NARROWEST = 1e-3
"""Å of an axis on which nothing moves."""


def landscape(names: tuple[str, str], x: Array, y: Array, bins: int) -> Landscape:
    """Return the energy of particles at (x, y).

    Particles are counted in bins, and the counts smoothed by a normal distribution. Its width is a share of what
    Scott's rule gives for two dimensions, `m^(-1/6)` standard deviations: the rule is for one round cloud, while
    particles along a curved path are a narrow one. Particles are most probable where others are by the share taken.

    Parameters
    ----------
    names
        Of the two columns.
    x, y
        Places of the m particles, shape (m,).
    bins
        Along each axis.

    Returns
    -------
    Landscape
        NaN in bins that rest on fewer than `LEAST` particles.
    """
    share = _share(x, y)
    edges, widths = zip(*(_edges(values, bins, share) for values in (x, y)), strict=True)
    counts, _, _ = np.histogram2d(x, y, bins=list(edges))
    sizes = [edge[1] - edge[0] for edge in edges]
    in_bins = [width / size for width, size in zip(widths, sizes, strict=True)]
    density = gaussian_filter(counts, in_bins, mode="constant")
    # A normal kernel averages over as many bins as have the sum of its squares as their inverse.
    reach = np.prod([max(1.0, 2 * np.sqrt(np.pi) * width) for width in in_bins])
    known = density * reach >= LEAST
    energy = np.full(density.shape, np.nan)
    if known.any():
        energy[known] = -np.log(density[known] / density.max())
    return Landscape(names, edges[0], edges[1], energy)


def _edges(values: Array, bins: int, share: float) -> tuple[NDArray[np.float64], float]:
    """Edges (bins + 1,) of the bins along an axis, and the width of smoothing, which no bin is narrower than."""
    scott = max(_scott(values), NARROWEST)
    low, high = np.quantile(values, INSIDE)
    edges = np.linspace(low - 3 * share * scott, high + 3 * share * scott, bins + 1)
    return edges, max(share * scott, float(edges[1] - edges[0]))


def _scott(values: Array) -> float:
    return float(np.std(values, dtype=np.float64) * len(values) ** (-1 / 6))


def _share(x: Array, y: Array) -> float:
    """Return the share of Scott's width by which some particles are most probable in the density of all others."""
    rows = np.linspace(0, len(x) - 1, min(len(x), SAMPLE)).astype(np.int64)
    scaled = [values[rows] / max(_scott(values[rows]), NARROWEST) for values in (x, y)]
    squares = sum(np.square(np.subtract.outer(values, values, dtype=np.float64)) for values in scaled)
    np.fill_diagonal(squares, np.inf)

    def probability(share: float) -> float:
        density = np.exp(-0.5 * squares / share**2).sum(1) / share**2
        return float(np.log(np.maximum(density, 1e-300)).mean())

    return max(SHARES, key=probability)
