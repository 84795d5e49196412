"""Fourier shells of maps: their correlation, the resolution it speaks of, and filters."""

import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray

from cryomorph.fourier import band

Array = NDArray[np.floating]
Transform = NDArray[np.complex64]

HALVES, MODEL = 0.143, 0.5
"""Correlation at which the resolution of two half maps is read, and that of a model and a map."""
RANDOM_BELOW = 0.8
"""Correlation of half maps without a mask from which on phases are made random to tell what a mask does."""


def shell_of(box: int) -> NDArray[np.int64]:
    """Shell of each coefficient of `scipy.fft.rfftn`, its radius rounded; what is beyond the band has `band(box) + 1`.

    Parameters
    ----------
    box
        D, voxels along an edge.

    Returns
    -------
    array (D, D, D // 2 + 1)
    """
    along, last = (f(box, 1 / box).astype(np.float32) for f in (scipy.fft.fftfreq, scipy.fft.rfftfreq))
    radius = np.sqrt(along[:, None, None] ** 2 + along[:, None] ** 2 + last**2)
    return np.asarray(np.minimum(np.rint(radius).astype(np.int64), band(box) + 1))


def transform(density: Array) -> Transform:
    """Fourier coefficients (D, D, D // 2 + 1) of a map (D, D, D)."""
    workers = torch.get_num_threads()
    return np.asarray(scipy.fft.rfftn(density.astype(np.float32), workers=workers), dtype=np.complex64)


def shell_correlation(first: Array, second: Array) -> NDArray[np.float64]:
    """Fourier shell correlation of two maps.

    Parameters
    ----------
    first, second
        Shape (D, D, D), on the same grid.

    Returns
    -------
    array (band(D) + 1,)
        Shell k holds the coefficients whose Fourier index has a length of k, rounded; 0 where a map has none.
    """
    return correlation(transform(first), transform(second))


def correlation(first: Transform, second: Transform) -> NDArray[np.float64]:
    """Fourier shell correlation (band(D) + 1,) of two maps by their transforms (D, D, D // 2 + 1)."""
    from cryomorph.volumes._kernels import shell_products

    box = len(first)
    sums = np.zeros((3, band(box) + 1))
    shell_products(first, second, box, sums)
    cross, power = sums[0], np.sqrt(sums[1] * sums[2])
    return np.asarray(np.divide(cross, power, out=np.zeros_like(cross), where=power > 0))


def masked_correlation(first: Array, second: Array, mask: Array) -> NDArray[np.float64]:
    """Correlation of two half maps within a mask, less what the mask itself correlates.

    Phases beyond the shell where the maps without the mask correlate by less than 0.8 are made random. What the masked
    maps then still correlate is the mask's doing, and is taken away (S. Chen et al. 2013, *Ultramicroscopy* 135, 24).

    Parameters
    ----------
    first, second
        Half maps, shape (D, D, D).
    mask
        Between 0 and 1, of the same shape.

    Returns
    -------
    array (band(D) + 1,)
    """
    inside = shell_correlation(mask * first, mask * second)
    low = np.flatnonzero(shell_correlation(first, second)[1:] < RANDOM_BELOW)
    if len(low) == 0:
        return inside
    start = int(low[0]) + 1
    generator = np.random.default_rng(0)
    scrambled = shell_correlation(*(mask * _scrambled(density, start, generator) for density in (first, second)))
    corrected = np.where(scrambled < 1, (inside - scrambled) / np.maximum(1 - scrambled, 1e-6), 0)
    beyond = np.arange(len(inside)) >= start + 2  # the shells next to the border still see those before it
    return np.where(beyond, corrected, inside)


def _scrambled(density: Array, start: int, generator: np.random.Generator) -> Array:
    """Give the coefficients of a map in shells from `start` random phases."""
    box = len(density)
    noise = transform(generator.standard_normal(density.shape, dtype=np.float32))
    coefficients = transform(density)
    chosen = shell_of(box) >= start
    coefficients[chosen] = np.abs(coefficients[chosen]) * np.exp(1j * np.angle(noise[chosen]))
    return np.asarray(scipy.fft.irfftn(coefficients, s=density.shape))


def resolution(curve: Array, threshold: float, extent: float) -> float:
    """Resolution in Å where a correlation first falls below a threshold, interpolated between shells.

    Parameters
    ----------
    curve
        Correlation of each shell from 0, shape (K + 1,).
    threshold
        E.g. `HALVES`.
    extent
        Edge of the map in Å.

    Returns
    -------
    float
        That of the last shell if it never does; infinite if it does at once.
    """
    below = np.flatnonzero(curve[1:] < threshold) + 1
    if len(below) == 0:
        return float(extent / (len(curve) - 1))
    shell = int(below[0])
    if shell == 1:
        return float("inf")
    before, after = curve[shell - 1], curve[shell]
    return float(extent / (shell - 1 + (before - threshold) / (before - after)))


def mean_correlation(curve: Array, last: int, first: int = 1) -> float:
    """Average of a correlation over all coefficients in shells `first` to `last`: shell k counts k² times."""
    shell = np.arange(first, max(last, first) + 1)
    return float(np.average(curve[shell], weights=shell.astype(np.float64) ** 2))
