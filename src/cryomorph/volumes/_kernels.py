"""Compiled loops over maps: images inserted into Fourier space, Gaussians added up, distances to atoms."""

import numpy as np
from numpy.typing import NDArray

from cryomorph.parallel import jit, prange

Floats = NDArray[np.float32]


@jit()
def _span(
    slope: np.float32, start: np.float32, low: np.float32, high: np.float32, first: int, last: int
) -> tuple[int, int]:
    """Numbers k from `first` to `last` for which `slope k + start` may lie between two values, and a few more."""
    if abs(slope) < np.float32(1e-6):
        return first, last
    a, b = (low - start) / slope, (high - start) / slope
    lower, upper = max(min(a, b), np.float32(first)), min(max(a, b), np.float32(last))
    if lower > upper + 2:
        return first, first - 1
    return max(first, int(lower) - 1), min(last, int(upper) + 1)


@jit(parallel=True)
def insert(
    sums: Floats,
    part: NDArray[np.int64],
    free: NDArray[np.bool_],
    pattern: NDArray[np.int64],
    coefficients: NDArray[np.complex64],
    transfer: Floats,
    weight: Floats,
    phase_x: NDArray[np.complex64],
    phase_y: NDArray[np.complex64],
    axis_x: Floats,
    axis_y: Floats,
    highest: int,
    slabs: int,
) -> None:
    """Add images to the sums over Fourier space, each sample to the eight points of the grid about it.

    Parameters
    ----------
    sums
        Shape (parts, 2 R + 1, 2 R + 1, R + 2, 3): z, y, x from 0, each with real and imaginary part and weight.
    part
        That each image goes to, shape (b,); of free coefficients, that many parts from the end, counted from 0.
    free
        Patterns of coefficients, shape (P, 2 K + 1, K + 1).
    pattern
        Which of them tells the free coefficients of an image, shape (b,).
    coefficients
        On the grid of `image_coefficients`, shape (b, 2 K + 1, K + 1).
    transfer
        What the map was multiplied by in them, of the same shape.
    weight
        Inverse of the noise's power in each shell, shape (b, shells).
    phase_x, phase_y
        What takes the particle to the origin, shapes (b, K + 1) and (b, 2 K + 1).
    axis_x, axis_y
        Where index 1 along the image's axes lies in the grid, (x, y, z), shape (b, 3).
    highest
        Coefficients up to this Fourier index are inserted.
    slabs
        Slices of the grid along z, each of them one thread's own, and small enough for its cache: it takes its part
        of one image after another. Sums do not depend on how many there are.
    """
    middle = coefficients.shape[2] - 1
    reach = (sums.shape[1] - 1) // 2
    planes, width = sums.shape[1], sums.shape[3]
    flat, one = sums.reshape(-1), np.uintp(1)  # without signs, indices need no check for being negative
    for slab in prange(slabs):
        first, last = planes * slab // slabs, planes * (slab + 1) // slabs
        lowest, uppermost = np.float32(first - 1 - reach), np.float32(last - reach)
        for i in range(len(part)):
            for row in range(middle - highest, middle + highest + 1):
                ky = row - middle
                outermost = int(np.sqrt(np.float64(highest * highest - ky * ky)))
                innermost = 1 if ky < 0 else 0
                # The half of the row that lies at x >= 0, then the other one, as its mirror image.
                for turned in range(2):
                    sign = np.float32(-1) if turned else np.float32(1)
                    across, start_x = sign * axis_x[i, 0], sign * ky * axis_y[i, 0]
                    rise, start_z = sign * axis_x[i, 2], sign * ky * axis_y[i, 2]
                    k0, k1 = _span(across, start_x, np.float32(0), np.float32(np.inf), innermost, outermost)
                    k0, k1 = _span(rise, start_z, lowest, uppermost, k0, k1)
                    for kx in range(k0, k1 + 1):
                        x, z = kx * across + start_x, kx * rise + start_z
                        if x < 0 or (turned and x == 0):
                            continue
                        y = sign * (kx * axis_x[i, 1] + ky * axis_y[i, 1])
                        z0, y0, x0 = int(np.floor(z)), int(np.floor(y)), int(x)
                        below, left = z0 + reach, y0 + reach
                        if below + 1 < first or below >= last:
                            continue
                        if x0 + 1 > reach + 1 or left < 0 or left + 1 >= planes or below < 0 or below + 1 >= planes:
                            continue
                        whose = len(sums) - 1 - part[i] if free[pattern[i], row, kx] else part[i]
                        shell = int(np.sqrt(np.float32(kx * kx + ky * ky)) + np.float32(0.5))
                        h = transfer[i, row, kx]
                        matched = weight[i, min(shell, weight.shape[1] - 1)] * h
                        value = coefficients[i, row, kx] * phase_x[i, kx] * phase_y[i, row]
                        real, imaginary, power = matched * value.real, sign * matched * value.imag, matched * h
                        fx, fy, fz = np.float32(x - x0), np.float32(y - y0), np.float32(z - z0)
                        for dz in range(2):
                            plane = below + dz
                            if plane < first or plane >= last:
                                continue
                            wz = fz if dz else 1 - fz
                            for dy in range(2):
                                w = wz * (fy if dy else 1 - fy)
                                near, far = w * (1 - fx), w * fx
                                at = np.uintp((((whose * planes + plane) * planes + left + dy) * width + x0) * 3)
                                flat[at] += near * real
                                flat[at + one] += near * imaginary
                                flat[at + one + one] += near * power
                                at += one + one + one
                                flat[at] += far * real
                                flat[at + one] += far * imaginary
                                flat[at + one + one] += far * power


@jit()
def add_gaussians(
    grid: Floats, centre: NDArray[np.float64], amplitude: NDArray[np.float64], width: NDArray[np.float64]
) -> None:
    """Add Gaussians to a periodic grid whose origin is its first point.

    Parameters
    ----------
    grid
        Shape (M, M, M): z, y, x.
    centre
        (x, y, z) in voxels, shape (B, 3).
    amplitude, width
        Integral, and standard deviation in voxels, shape (B,).
    """
    size = len(grid)
    for b in range(len(centre)):
        reach = int(np.ceil(4.5 * width[b]))
        taps = 2 * reach + 2
        table = np.empty((3, taps))
        start = np.empty(3, dtype=np.int64)
        for axis in range(3):
            start[axis] = int(np.floor(centre[b, axis])) - reach
            total = np.sqrt(2 * np.pi) * width[b]
            for tap in range(taps):
                off = (start[axis] + tap - centre[b, axis]) / width[b]
                table[axis, tap] = np.exp(-0.5 * off * off) / total
        for k in range(taps):
            plane = grid[(start[2] + k) % size]
            for j in range(taps):
                line = plane[(start[1] + j) % size]
                scale = amplitude[b] * table[2, k] * table[1, j]
                for i in range(taps):
                    line[(start[0] + i) % size] += scale * table[0, i]


@jit()
def nearest(squares: Floats, centre: NDArray[np.float64], reach: float) -> None:
    """Put the squared distance to the nearest of some points, if it is less than what is there.

    Parameters
    ----------
    squares
        In voxels, shape (D, D, D): z, y, x.
    centre
        (x, y, z) in voxels from the first one, shape (B, 3).
    reach
        How far from a point to look, in voxels.
    """
    size = len(squares)
    for b in range(len(centre)):
        low, high = np.empty(3, dtype=np.int64), np.empty(3, dtype=np.int64)
        for axis in range(3):
            low[axis] = max(0, int(np.ceil(centre[b, axis] - reach)))
            high[axis] = min(size - 1, int(np.floor(centre[b, axis] + reach)))
        for k in range(low[2], high[2] + 1):
            dz = (k - centre[b, 2]) ** 2
            for j in range(low[1], high[1] + 1):
                dy = dz + (j - centre[b, 1]) ** 2
                for i in range(low[0], high[0] + 1):
                    square = dy + (i - centre[b, 0]) ** 2
                    if square < squares[k, j, i]:
                        squares[k, j, i] = square


@jit()
def shell_products(
    first: NDArray[np.complex64], second: NDArray[np.complex64], box: int, sums: NDArray[np.float64]
) -> None:
    """Sum products of two transforms, each (D, D, D // 2 + 1), over Fourier shells.

    Parameters
    ----------
    first, second
        As `scipy.fft.rfftn` gives them.
    box
        D.
    sums
        Zeros, shape (3, shells), to which are added: the real part of one times the other's conjugate, and the power
        of each. Shells are rounded radii; what lies beyond the last is left out.
    """
    for i in range(box):
        z = i if 2 * i < box else i - box
        for j in range(box):
            y = j if 2 * j < box else j - box
            for x in range(box // 2 + 1):
                shell = int(np.sqrt(np.float64(x * x + y * y + z * z)) + 0.5)
                if shell < sums.shape[1]:
                    times = 1.0 if x == 0 or 2 * x == box else 2.0
                    a, b = first[i, j, x], second[i, j, x]
                    sums[0, shell] += times * (a.real * b.real + a.imag * b.imag)
                    sums[1, shell] += times * (a.real * a.real + a.imag * a.imag)
                    sums[2, shell] += times * (b.real * b.real + b.imag * b.imag)


@jit()
def shell_weights(sums: Floats, padding: int, total: NDArray[np.float64]) -> None:
    """Add up the weights of a grid (z, y, x, 3), and how many points it has, over shells; `total` is (2, shells)."""
    reach = (len(sums) - 1) // 2
    for k in range(len(sums)):
        for j in range(len(sums)):
            for i in range(sums.shape[2]):
                radius = np.sqrt(np.float64((k - reach) ** 2 + (j - reach) ** 2 + i * i))
                shell = int(radius / padding + 0.5)
                if shell < total.shape[1]:
                    total[0, shell] += sums[k, j, i, 2]
                    total[1, shell] += 1


@jit()
def divide(sums: Floats, padding: int, regularisation: NDArray[np.float64], spectrum: NDArray[np.complex64]) -> None:
    """Put the values of a grid (z, y, x, 3) into the transform of a real map, whose first frequencies are zero.

    Parameters
    ----------
    sums
        Real and imaginary part, and weight.
    padding
        Points of the grid from one shell to the next.
    regularisation
        Added to the weight in each shell, shape (shells,); nothing is left where it is infinite, nor beyond.
    spectrum
        Zeros, shape (M, M, M // 2 + 1).
    """
    reach, size = (len(sums) - 1) // 2, len(spectrum)
    for k in range(len(sums)):
        for j in range(len(sums)):
            for i in range(min(sums.shape[2], spectrum.shape[2])):
                radius = np.sqrt(np.float64((k - reach) ** 2 + (j - reach) ** 2 + i * i))
                shell = int(radius / padding + 0.5)
                if shell < len(regularisation):
                    weight = sums[k, j, i, 2] + regularisation[shell]
                    if 0 < weight < np.inf:
                        value = complex(sums[k, j, i, 0] / weight, sums[k, j, i, 1] / weight)
                        spectrum[(k - reach) % size, (j - reach) % size, i] = value
