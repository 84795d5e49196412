"""Rings in Fourier space: where images and projections are compared in all in-plane orientations at once.

Within the molecule's radius the matched-filtered image g is a sum of circular waves,

`g(r, φ) = Re Σ_m e^{imφ} Σ_k c_m(k) J_m(2πkr)`,

with few wavenumbers k, because it has no frequency beyond the highest of the images. So beads at `(r_b, φ_b)`, turned
by ψ in the plane, have with it the sum

`Σ_b a_b g_b = Re Σ_m e^{imψ} Σ_k c_m(k) T_m(k)`,  `T_m(k) = Σ_b a_b G_b(k) J_m(2πk r_b) e^{imφ_b}`,

with the Gaussians `G_b` by which beads are wider than the narrowest. `T_m` are the angular harmonics of the projection
in Fourier space too, on rings of radius k.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import jv

Array = NDArray[np.float64]

DENSITY = 1.1
"""How much closer rings are than the sampling theorem asks of unbounded ones."""
BEYOND = 2
"""Rings of circular waves beyond the highest frequency, for the edge of the molecule's disc."""
TAIL = 5
"""Harmonics beyond the argument of a Bessel function after which circular waves can do without."""
DISTANCES_PER_RING = 1.5
"""Distances at which functions on rings are fitted."""
WEAKEST = 1e-4
"""Combinations of circular waves weaker than this, relative to the strongest, are left out."""
TABLE_STEP = 0.02
"""Between tabulated arguments of Bessel functions: linear interpolation is good to 3e-5."""


@dataclass(frozen=True, eq=False)
class Rings:
    """Radii and harmonics that suit a molecule and images.

    Attributes
    ----------
    radius
        Å, farthest that a bead may be from the origin.
    reach
        Å, to which images are wanted: what wide beads at that radius see.
    frequency
        1/Å, highest that images have.
    nodes
        1/Å, radii of the K rings, evenly spaced from 0, shape (K,). Power spectra of projections need all of them,
        circular waves every second, from the first above 0.
    highest
        M, highest harmonic.
    """

    radius: float
    reach: float
    frequency: float
    nodes: Array
    highest: int

    @classmethod
    def make(cls, radius: float, reach: float, frequency: float) -> "Rings":
        """Choose rings for a molecule; lengths in Å and the frequency in 1/Å as in the attributes."""
        step = 1 / (4 * reach * DENSITY)  # distances in a projection, of either sign, go up to two radii
        waves = int(np.ceil(frequency / (2 * step))) + BEYOND
        highest = int(np.ceil(2 * np.pi * frequency * reach)) + TAIL
        return cls(radius, reach, frequency, np.asarray(step * np.arange(2 * waves), dtype=np.float64), highest)

    @property
    def waves(self) -> Array:
        """1/Å, the rings of circular waves, shape (W,)."""
        return self.nodes[1::2]

    def of_harmonic(self, m: int) -> slice:
        """Those of the rings of circular waves on which harmonic m is not negligible: all from one on."""
        first = int(np.searchsorted(2 * np.pi * self.waves * self.reach, m - TAIL))
        return slice(min(first, len(self.waves) - 1), len(self.waves))

    @cached_property
    def distances(self) -> Array:
        """Å, where circular waves are fitted: closer to each other at the edge; shape (r,)."""
        return self.reach * _towards_edge(DISTANCES_PER_RING * len(self.waves))

    def fit(self, m: int) -> Array:
        """Matrix (rings, r) from harmonic m of an image at `distances` to its waves on `of_harmonic(m)`."""
        weight = (1 - np.square(self.distances / self.reach)) ** 0.25  # as of evenly spaced ones
        waves = jv(m, 2 * np.pi * np.outer(self.distances, self.waves[self.of_harmonic(m)]))
        return np.asarray(np.linalg.pinv(weight[:, None] * waves, rcond=WEAKEST) * weight)

    def bessel_table(self) -> Array:
        """Return `J_m(x)` at `x = i TABLE_STEP`, as far as beads need it; shape (arguments, M + 1)."""
        largest = 2 * np.pi * self.nodes[-1] * self.radius
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
        distance = 2 * self.radius * _towards_edge(DISTANCES_PER_RING * len(self.nodes))
        there, here = (jv(order, 2 * np.pi * np.outer(k, distance)) for k in (fine, self.nodes))
        return np.asarray(np.linalg.lstsq(here.T, there.T, rcond=1e-8)[0].T)


def _towards_edge(count: float) -> Array:
    """At least so many numbers between 0 and 1, closer to each other towards 1."""
    whole = int(np.ceil(count))
    return np.asarray(np.sin(0.5 * np.pi * (np.arange(whole) + 0.5) / whole))
