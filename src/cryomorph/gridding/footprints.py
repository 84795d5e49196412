"""What a Gaussian bead looks like on a grid that is hardly finer than the Fourier coefficients that count.

A bead is spread with a kernel of compact support, whose known transform is divided out of the coefficients afterwards:
the nonuniform FFT (Barnett, Magland & af Klinteberg 2019, SIAM J. Sci. Comput. 41, C479). What a bead is wider than
the narrowest one is added to its kernel, so that beads of all widths share one division.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

SUPPORT = 8
"""Samples along an axis that the kernel of the narrowest bead covers."""
DEGREE = 9
"""Of the polynomials that stand for the kernel between two samples."""
NEGLIGIBLE = 1e-6
"""Share of its peak below which a footprint is cut off."""
TAPS_STEP = 8
"""Numbers of samples are multiples of this, for vector instructions."""
MOST_TAPS = 96


@dataclass(frozen=True, eq=False)
class Footprints:
    """Footprints of B beads on grids of given steps.

    Along an axis, the bead at position p (in grid steps) has the weight `Σ_d table[d, t] u^d` on sample
    `floor(p) - taps / 2 + 1 + t`, with `u = p - floor(p) - ½`; in the plane the product of those of both axes.

    Attributes
    ----------
    table : Tensor (steps, classes, DEGREE + 1, taps)
        Polynomials in rising powers, float32.
    bead_class : Tensor (B,)
        Which of the classes, the distinct widths, a bead belongs to; int64.
    step : array (steps,)
        Å between samples, for each kind of grid.
    reference : float
        σ in Å of the narrowest bead, which the footprints leave to the Fourier coefficients.
    oversampling : float
        How much finer the grid is than the highest frequency along an axis needs.
    """

    table: Tensor
    bead_class: Tensor
    step: Array
    reference: float
    oversampling: float

    @classmethod
    def make(cls, width: Array, step: Array, oversampling: float) -> Self:
        """Tabulate the footprints.

        Parameters
        ----------
        width
            σ of the beads in Å, shape (B,).
        step
            Å between samples, shape (steps,).
        oversampling
            `1 / (2 step k)` for the highest frequency k that counts; larger is more accurate.
        """
        widths, bead_class = np.unique(np.asarray(width, dtype=np.float32), return_inverse=True)
        reference = float(widths[0])
        extra = np.square(widths.astype(np.float64)) - reference**2
        spread = np.sqrt(extra[None] / np.square(step)[:, None])  # (steps, classes), in samples
        taps = _taps(float(spread.max()), oversampling)
        table = np.stack([_polynomials(row, taps, oversampling) for row in spread])
        return cls(
            table=torch.from_numpy(table.astype(np.float32)),
            bead_class=torch.from_numpy(bead_class.astype(np.int64)),
            step=np.asarray(step, dtype=np.float64),
            reference=reference,
            oversampling=oversampling,
        )

    @property
    def taps(self) -> int:
        """Samples along an axis that a footprint covers."""
        return self.table.shape[-1]

    def to(self, device: torch.device) -> Self:
        """Return a copy on another device."""
        return type(self)(
            self.table.to(device), self.bead_class.to(device), self.step, self.reference, self.oversampling
        )


def kernel_transform(frequency: Array, oversampling: float) -> Array:
    """Fourier transform of the kernel of the narrowest bead, at frequencies in cycles a sample; an even function."""
    nodes, weights = np.polynomial.legendre.leggauss(96)
    at = 0.5 * SUPPORT * nodes
    values = 0.5 * SUPPORT * weights * _kernel(at, oversampling)
    return np.asarray(np.cos(2 * np.pi * np.asarray(frequency)[..., None] * at) @ values)


def _kernel(at: Array, oversampling: float) -> Array:
    """Exponential of a semicircle, at distances in samples within the support."""
    shape = 0.976 * np.pi * SUPPORT * (1 - 1 / (2 * oversampling))
    inside = np.maximum(1 - np.square(2 * at / SUPPORT), 0)
    return np.asarray(np.exp(shape * (np.sqrt(inside) - 1)))


def _widened(at: Array, spread: Array, oversampling: float) -> Array:
    """Return the kernel at distances convolved with Gaussians of standard deviations `spread`, all in samples.

    Those of shape (s,) come first in the result, before the shape of the distances.
    """
    frequency, weight, transform = _spectrum(oversampling)
    damped = 2 * weight * transform * np.exp(-2 * np.square(np.pi * spread[:, None] * frequency))
    values: Array = np.moveaxis(np.cos(2 * np.pi * at[..., None] * frequency) @ damped.T, -1, 0)
    values[spread < 1e-6] = np.where(np.abs(at) <= SUPPORT / 2, _kernel(at, oversampling), 0.0)
    return values


@lru_cache(maxsize=8)
def _spectrum(oversampling: float) -> tuple[Array, Array, Array]:
    """Nodes and weights of a quadrature over frequency, and the kernel's transform there."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    frequency = 1.5 * (nodes + 1)
    return frequency, 1.5 * weights, kernel_transform(frequency, oversampling)


def _taps(spread: float, oversampling: float) -> int:
    reach = np.arange(SUPPORT // 2, MOST_TAPS // 2 + 1, dtype=np.float64)
    from_middle = _widened(np.append(0.0, reach), np.array([spread]), oversampling)[0]
    small = np.abs(from_middle[1:]) < NEGLIGIBLE * from_middle[0]
    enough = reach[small & (reach >= SUPPORT / 2)]
    if not len(enough):
        raise ValueError(f"the widest bead covers more than {MOST_TAPS} samples of the grid: beads of one kind, please")
    return int(max(2 * TAPS_STEP, -(-2 * enough[0] // TAPS_STEP) * TAPS_STEP))


def _polynomials(spread: Array, taps: int, oversampling: float) -> Array:
    """Interpolate footprints (classes,) by polynomials on every interval between samples: (classes, DEGREE+1, taps)."""
    nodes = 0.5 * np.cos(np.pi * (np.arange(DEGREE + 1) + 0.5) / (DEGREE + 1))
    distance = np.arange(taps) - taps / 2 + 0.5 - nodes[:, None]
    values = _widened(distance, spread, oversampling)
    powers = nodes[:, None] ** np.arange(DEGREE + 1)
    return np.asarray(np.linalg.solve(powers, values), dtype=np.float64)
