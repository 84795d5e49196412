"""Rings in Fourier space: where images and projections are compared in all in-plane orientations at once.

Beads at `(r_b, φ_b)`, turned by ψ in the plane, have with a matched-filtered image g of Fourier transform F the sum

`Σ_b a_b g_b = Re Σ_m e^{imψ} Σ_k w(k) F_m(k) T_m(k)`,  `T_m(k) = 2π Σ_b a_b G_b(k) J_m(2πk r_b) e^{imφ_b}`,

with the angular harmonics `F_m` of F on the ring of radius k, weights w of the integral over rings, and the Gaussians
`G_b` by which beads are wider than the narrowest (expansion of plane waves in Bessel functions J).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import jv

Array = NDArray[np.float64]

BEYOND = 0.02
"""1/Å beyond the highest frequency: cutting the image to a disc blurs its transform that much."""
DENSITY = 1.05
"""Rings beyond those that a power spectrum needs, relative."""
TAIL = 8
"""Harmonics beyond the argument of a Bessel function after which it is negligible."""
TABLE_STEP = 0.1
"""Between tabulated arguments of Bessel functions: cubic interpolation is good to 3e-6."""
DISTANCES = 600
"""At which the quadrature over rings is made exact."""


@dataclass(frozen=True, eq=False)
class Rings:
    """Radii, quadrature and harmonics that suit a molecule and images.

    Attributes
    ----------
    radius
        Å, farthest that a bead may be from the origin.
    frequency
        1/Å, highest that images have.
    nodes
        1/Å, radii of the K rings, ascending, shape (K,).
    weight
        Of the integral `∫ f(k) k dk` over the rings, shape (K,).
    highest
        M, highest harmonic.
    """

    radius: float
    frequency: float
    nodes: Array
    weight: Array
    highest: int

    @classmethod
    def make(cls, radius: float, reach: float, frequency: float) -> "Rings":
        """Choose rings for a molecule.

        Parameters
        ----------
        radius
            Å, of the molecule about the origin.
        reach
            Å, of the windows kept of the images.
        frequency
            1/Å, highest that images have.
        """
        last = frequency + BEYOND
        count = int(np.ceil(last * 4 * radius * DENSITY))  # Nyquist for distances up to 2 radii, of either sign
        step = last / count
        nodes = np.asarray((np.arange(count) + 0.5) * step, dtype=np.float64)
        weight = _weights(nodes, step, last, reach + radius)
        highest = int(np.ceil(2 * np.pi * frequency * radius)) + TAIL
        return cls(radius, frequency, nodes, weight, highest)

    def of_harmonic(self, m: int) -> slice:
        """Rings on which harmonic m of a projection is not negligible: all from one on."""
        first = int(np.searchsorted(2 * np.pi * self.nodes * self.radius, m - TAIL))
        return slice(min(first, len(self.nodes) - 1), len(self.nodes))

    def bessel_table(self, reach: float) -> Array:
        """Return `J_m(x)` at `x = i TABLE_STEP`, up to `2πk reach` of the last ring; shape (arguments, M + 1)."""
        largest = 2 * np.pi * self.nodes[-1] * reach
        x = TABLE_STEP * np.arange(int(largest / TABLE_STEP) + 5)
        return np.asarray(jv(np.arange(self.highest + 1), x[:, None]))

    def interpolation(self, fine: Array, order: int) -> Array:
        """Matrix that takes values on the rings to other radii, for harmonics of power spectra of projections.

        Parameters
        ----------
        fine
            1/Å, shape (f,).
        order
            Which harmonic.

        Returns
        -------
        array (f, K)
            Exact, by least squares, for `J_order(2πkr)` with r up to two radii.
        """
        distance = np.linspace(0, 2 * self.radius, DISTANCES)
        there, here = (jv(order, 2 * np.pi * np.outer(k, distance)) for k in (fine, self.nodes))
        return np.asarray(np.linalg.lstsq(here.T, there.T, rcond=1e-8)[0].T)


def interpolate_bessel(table: Array, x: Array) -> Array:
    """Return `J_m(x)` for all m of a table by cubic interpolation; shape (..., M + 1)."""
    at = np.maximum(np.floor(x / TABLE_STEP).astype(np.int64), 1)
    u = (x / TABLE_STEP - at)[..., None]
    before, here, after, beyond = (table[at + i] for i in (-1, 0, 1, 2))
    inner = (u + 1) * (u - 2) * ((u - 1) * here - u * after) / 2
    return np.asarray(inner + u * (u - 1) * ((u + 1) * beyond - (u - 2) * before) / 6)


def _weights(nodes: Array, step: float, last: float, extent: float) -> Array:
    """Weights that integrate `cos(2πks) k` from 0 to `last` for all s up to `extent`, near those of the midpoint rule.

    The midpoint rule alone is wrong at the upper end, where the integrand does not vanish.
    """
    x = 2 * np.pi * np.linspace(0, extent, DISTANCES)
    with np.errstate(invalid="ignore", divide="ignore"):
        exact = np.where(x > 0, (np.cos(x * last) - 1) / x**2 + last * np.sin(x * last) / x, 0.5 * last**2)
    waves, midpoint = np.cos(np.outer(x, nodes)), nodes * step
    return np.asarray(midpoint + np.linalg.lstsq(waves, exact - waves @ midpoint, rcond=1e-6)[0])
