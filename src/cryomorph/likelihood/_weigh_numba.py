"""Contrast transfer of spectra on a CPU: images in parallel, rows in vectors."""

from math import factorial, pi
from typing import Any

import numpy as np
from torch import Tensor

from cryomorph.parallel import jit, prange, use_torch_threads

# cos(2π x) for |x| <= ½ as a polynomial in x²; the next term is below float32 rounding.
COSINE = np.array([(-1) ** n * (2 * pi) ** (2 * n) / factorial(2 * n) for n in range(10)], dtype=np.float32)
TERMS = len(COSINE)
HALF, ZERO = np.float32(0.5), np.float32(0)


def weigh_box(spectrum: Tensor, share: Tensor, group: Tensor, axis: Tensor, phase: Tensor) -> None:
    """Multiply spectra by the power of the transfer; see `cryomorph.likelihood._weighing.Weighing`."""
    use_torch_threads()
    _weigh_box(
        spectrum.numpy().view(np.float32),
        share.numpy(),
        group.numpy(),
        axis.float().numpy(),
        phase.double().numpy(),
    )


def weigh_radial(spectrum: Tensor, table: Tensor, place: Tensor, unspread: Tensor) -> None:
    """Multiply spectra by radial tables; see `cryomorph.likelihood._weighing.Weighing`."""
    use_torch_threads()
    _weigh_radial(spectrum.numpy().view(np.float32), table.numpy(), place.numpy(), unspread.numpy())


@jit(parallel=True)
def _weigh_radial(spectrum: Any, table: Any, place: Any, unspread: Any) -> None:
    images, size, _ = spectrum.shape
    width = size // 2 + 1
    radii = table.shape[1]
    for i in prange(images):
        values = np.zeros(radii + 1, np.float32)
        values[:radii] = table[i]
        factor = np.empty(width, np.float32)
        for ky in range(size):
            row, along_y = spectrum[i, ky], unspread[min(ky, size - ky)]
            for kx in range(width):
                factor[kx] = values[place[ky, kx]] * along_y * unspread[kx]
            for kx in range(width):
                row[2 * kx] *= factor[kx]
                row[2 * kx + 1] *= factor[kx]


@jit(parallel=True)
def _weigh_box(spectrum: Any, share: Any, group: Any, axis: Any, phase: Any) -> None:
    images, size, _ = spectrum.shape
    highest = axis.shape[1] - 1
    for i in prange(images):
        xx, yy, xy, fourth, constant = phase[i, 0], phase[i, 1], phase[i, 2], phase[i, 3], phase[i, 4]
        factor = np.empty(highest + 1, np.float32)
        for ky in range(-highest, highest + 1):
            row = spectrum[i, ky % size]
            of_group = share[group[i], ky + highest]
            along_y = HALF * axis[i, abs(ky)]
            # The row's own part in double precision; the rest of it is a polynomial in kx.
            y2 = float(ky * ky)
            start = yy * y2 + fourth * y2 * y2 + constant
            offset = np.float32(start - np.rint(start))
            linear, square = np.float32(xy * ky), np.float32(xx + 2 * fourth * y2)
            quartic = np.float32(fourth)
            for kx in range(highest + 1):
                x = np.float32(kx)
                turns = offset + x * (linear + x * (square + quartic * x * x))
                rest = turns - np.rint(turns)
                y = rest * rest
                cosine = COSINE[TERMS - 1]
                for n in range(TERMS - 2, -1, -1):
                    cosine = cosine * y + COSINE[n]
                factor[kx] = along_y * axis[i, kx] * of_group[kx] * (np.float32(1) - cosine)
            for kx in range(highest + 1):
                row[2 * kx] *= factor[kx]
                row[2 * kx + 1] *= factor[kx]
            row[2 * (highest + 1) :] = ZERO
        for unused in range(highest + 1, size - highest):
            spectrum[i, unused, :] = ZERO
