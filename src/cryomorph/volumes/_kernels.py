"""Compiled loops over maps: images inserted into Fourier space, Gaussians added up, distances to atoms."""

import numpy as np
from numpy.typing import NDArray

from cryomorph.parallel import jit, prange

Floats = NDArray[np.float32]


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
        Slices of the grid along z, each of them one thread's own. Sums do not depend on it.
    """
    middle = coefficients.shape[2] - 1
    reach = (sums.shape[1] - 1) // 2
    planes = sums.shape[1]
    for slab in prange(slabs):
        first, last = planes * slab // slabs, planes * (slab + 1) // slabs
        for i in range(len(part)):
            for row in range(middle - highest, middle + highest + 1):
                ky = row - middle
                reach_x = int(np.sqrt(np.float64(highest * highest - ky * ky)))
                for kx in range(1 if ky < 0 else 0, reach_x + 1):
                    x = kx * axis_x[i, 0] + ky * axis_y[i, 0]
                    y = kx * axis_x[i, 1] + ky * axis_y[i, 1]
                    z = kx * axis_x[i, 2] + ky * axis_y[i, 2]
                    sign = np.float32(1)
                    if x < 0:
                        x, y, z, sign = -x, -y, -z, np.float32(-1)
                    z0 = int(np.floor(z))
                    below = z0 + reach
                    if below + 1 < first or below >= last:
                        continue
                    x0, y0 = int(x), int(np.floor(y))
                    left = y0 + reach
                    if x0 + 1 > reach + 1 or left < 0 or left + 1 >= planes or below < 0 or below + 1 >= planes:
                        continue
                    grid = sums[len(sums) - 1 - part[i] if free[pattern[i], row, kx] else part[i]]
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
                            wy = wz * (fy if dy else 1 - fy)
                            for dx in range(2):
                                w = wy * (fx if dx else 1 - fx)
                                grid[plane, left + dy, x0 + dx, 0] += w * real
                                grid[plane, left + dy, x0 + dx, 1] += w * imaginary
                                grid[plane, left + dy, x0 + dx, 2] += w * power


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
