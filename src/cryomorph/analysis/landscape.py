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
NARROWEST = 1e-3
"""Å of an axis on which nothing moves."""


def landscape(names: tuple[str, str], x: Array, y: Array, bins: int) -> Landscape:
    """Return the energy of particles at (x, y).

    Particles are counted in bins, and the counts smoothed by a normal distribution of the width that Scott's rule gives
    for two dimensions, `m^(-1/6)` standard deviations.

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
    edges, widths = zip(*(_edges(values, bins) for values in (x, y)), strict=True)
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


def _edges(values: Array, bins: int) -> tuple[NDArray[np.float64], float]:
    """Edges (bins + 1,) of the bins along an axis, and the width of smoothing."""
    width = max(float(np.std(values, dtype=np.float64)) * len(values) ** (-1 / 6), NARROWEST)
    low, high = np.quantile(values, INSIDE)
    return np.linspace(low - 3 * width, high + 3 * width, bins + 1), width
