"""Ellipsoidal support lifting: misfits at a grid of rotations become a probability measure on few of them.

The method is that of Diepeveen, Lellmann, Öktem & Schönlieb (2023, *SIAM J. Imaging Sci.* 16, 1440), with the settings
of paper A.
"""

import math

import torch
from torch import Tensor


def support_size(rotations: int, j0: float = 15.0, eta: float = 2 / 3) -> int:
    """Return how many rotations the strength of the regularisation looks at, `J = min(⌊J0 n^((2 - 3η)/5)⌋, n - 1)`.

    Parameters
    ----------
    rotations
        n, of the grid.
    j0, eta
        J0 and η.

    Raises
    ------
    ValueError
        If there are none.
    """
    size = min(math.floor(_unrounded_size(rotations, j0, eta)), rotations - 1)
    if size < 1:
        raise ValueError(
            f"rotations {rotations}, j0 {j0:g} and eta {eta:g} leave a measure no support; raise one of them"
        )
    return size


def lifted_measure(misfit: Tensor, rotations: int, j0: float = 15.0, eta: float = 2 / 3) -> Tensor:
    """Return the measure that minimises `Σ_j F_j μ_j + λ/(2 n^η) ‖μ‖²`, with λ from the lowest misfits themselves.

    In closed form it is the projection of `-(n^η / λ) F` on the simplex. With
    `λ = ½ J0 n^((2 + 2η)/5) (F_(J+1) - mean of F_(1..J))` any scale and any constant of F cancel: the misfit, which is
    ½F and a constant, does as well, and no noise level is needed. Weights beyond the J + 1 lowest are zero.

    Parameters
    ----------
    misfit
        At rotations of the grid, at least the J + 1 lowest, in any order, shape (b, k).
    rotations, j0, eta
        As in `support_size`.

    Returns
    -------
    Tensor (b, k)
        Weights. Where no misfit is above the lowest, those that are lowest share the weight evenly.
    """
    size = support_size(rotations, j0, eta)
    lowest = misfit.double().sort(dim=1).values[:, : size + 1]
    gap = lowest[:, size] - lowest[:, :size].mean(1)
    # λ / n^η. The smallest number in place of zero makes all above the lowest infinitely worse.
    strength = 0.5 * _unrounded_size(rotations, j0, eta) * gap.clamp(min=torch.finfo(gap.dtype).tiny)
    # One below the highest gets no weight: what is lower may as well be there, and sums stay accurate.
    score = -((misfit.double() - lowest[:, :1]) / strength[:, None]).clamp(max=1.0)
    return project_on_simplex(score).to(misfit.dtype)


def project_on_simplex(point: Tensor) -> Tensor:
    """Return the nearest points with non-negative coordinates that sum to one (Held, Wolfe & Crowder 1974); (b, k)."""
    descending = point.sort(dim=1, descending=True).values
    count = torch.arange(1, point.shape[1] + 1, dtype=point.dtype, device=point.device)
    level = (descending.cumsum(1) - 1) / count  # what is to be subtracted if so many stay positive
    positive = (descending > level).sum(1, keepdim=True)
    return (point - level.gather(1, positive - 1)).clamp(min=0)


def _unrounded_size(rotations: int, j0: float, eta: float) -> float:
    return float(j0 * rotations ** ((2 - 3 * eta) / 5))
