"""Contrast transfer of spectra on a CPU: images in parallel, rows in vectors."""

from math import factorial, pi
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryomorph.parallel import jit, prange, use_torch_threads

# cos(2π x) for |x| <= ½ as a polynomial in x²; the next term is below float32 rounding.
COSINE = np.array([(-1) ** n * (2 * pi) ** (2 * n) / factorial(2 * n) for n in range(10)], dtype=np.float32)
TERMS = len(COSINE)
ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)


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


def quadrants(share: Tensor, group: Tensor, axis: Tensor, phase: Tensor, *, astigmatic: bool) -> tuple[Tensor, Tensor]:
    """Return the power of the transfer on a quadrant; see `cryomorph.likelihood._weighing.Weighing`."""
    use_torch_threads()
    even = torch.empty(len(axis), *share.shape[1:])
    odd = torch.empty(even.shape if astigmatic else 0)
    arrays = (share.numpy(), group.numpy(), axis.float().numpy(), phase.double().numpy(), even.numpy())
    if astigmatic:
        _split_quadrants(*arrays, odd.numpy())
    else:
        _even_quadrants(*arrays)
    return even, odd


def weigh_cut(spectrum: Tensor, even: Tensor, odd: Tensor, unspread: Tensor) -> None:
    """Multiply spectra by weights on a quadrant; see `cryomorph.likelihood._weighing.Weighing`."""
    use_torch_threads()
    both = odd if odd.numel() else even[:0]
    _weigh_cut(
        spectrum.numpy().view(np.float32), even.contiguous().numpy(), both.contiguous().numpy(), unspread.numpy()
    )


@jit()
def _cosine(turns: Any) -> Any:
    rest = turns - np.rint(turns)
    y = rest * rest
    cosine = COSINE[TERMS - 1]
    for n in range(TERMS - 2, -1, -1):
        cosine = cosine * y + COSINE[n]
    return cosine


@jit(parallel=True)
def _even_quadrants(share: Any, group: Any, axis: Any, phase: Any, even: Any) -> None:
    for i in prange(len(axis)):
        xx, yy, fourth, constant = phase[i, 0], phase[i, 1], phase[i, 3], phase[i, 4]
        for ky in range(axis.shape[1]):
            row, of_group = even[i, ky], share[group[i], ky]
            y2 = float(ky * ky)
            start = yy * y2 + fourth * y2 * y2 + constant
            offset = np.float32(start - np.rint(start))
            square, quartic = np.float32(xx + 2 * fourth * y2), np.float32(fourth)
            along_y = HALF * axis[i, ky]
            for kx in range(axis.shape[1]):
                x2 = np.float32(kx * kx)
                cosine = _cosine(offset + x2 * (square + quartic * x2))
                row[kx] = along_y * axis[i, kx] * of_group[kx] * (ONE - cosine)


@jit(parallel=True)
def _split_quadrants(share: Any, group: Any, axis: Any, phase: Any, even: Any, odd: Any) -> None:
    for i in prange(len(axis)):
        xx, yy, xy, fourth, constant = phase[i, 0], phase[i, 1], phase[i, 2], phase[i, 3], phase[i, 4]
        for ky in range(axis.shape[1]):
            row, odd_row, of_group = even[i, ky], odd[i, ky], share[group[i], ky]
            y2 = float(ky * ky)
            start = yy * y2 + fourth * y2 * y2 + constant
            offset = np.float32(start - np.rint(start))
            square, quartic, linear = np.float32(xx + 2 * fourth * y2), np.float32(fourth), np.float32(xy * ky)
            along_y = HALF * axis[i, ky]
            for kx in range(axis.shape[1]):
                x = np.float32(kx)
                common, twist = offset + x * x * (square + quartic * x * x), x * linear
                ahead, behind = _cosine(common + twist), _cosine(common - twist)
                weight = along_y * axis[i, kx] * of_group[kx]
                row[kx] = weight * (ONE - HALF * (ahead + behind))
                odd_row[kx] = weight * HALF * (behind - ahead)


@jit(parallel=True)
def _weigh_cut(spectrum: Any, even: Any, odd: Any, unspread: Any) -> None:
    images, size, _ = spectrum.shape
    highest = len(unspread) - 1
    for i in prange(images):
        factor = np.empty(highest + 1, np.float32)
        for ky in range(-highest, highest + 1):
            row, at = spectrum[i, ky % size], abs(ky)
            for kx in range(highest + 1):
                factor[kx] = even[i, at, kx] * unspread[at] * unspread[kx]
            if len(odd):
                sign = np.float32(1 if ky >= 0 else -1) * unspread[at]
                for kx in range(highest + 1):
                    factor[kx] += sign * odd[i, at, kx] * unspread[kx]
            for kx in range(highest + 1):
                row[2 * kx] *= factor[kx]
                row[2 * kx + 1] *= factor[kx]
            row[2 * (highest + 1) :] = ZERO
        for unused in range(highest + 1, size - highest):
            spectrum[i, unused, :] = ZERO


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
                factor[kx] = along_y * axis[i, kx] * of_group[kx] * (ONE - _cosine(turns))
            for kx in range(highest + 1):
                row[2 * kx] *= factor[kx]
                row[2 * kx + 1] *= factor[kx]
            row[2 * (highest + 1) :] = ZERO
        for unused in range(highest + 1, size - highest):
            spectrum[i, unused, :] = ZERO
