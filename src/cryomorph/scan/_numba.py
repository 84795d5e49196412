"""Kernels of a scan for CPUs."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryomorph.parallel import jit, prange, use_torch_threads
from cryomorph.scan.rings import TABLE_STEP

ZERO, ONE, TWO, SIX = np.float32(0), np.float32(1), np.float32(2), np.float32(6)
PER_STEP = np.float32(1 / TABLE_STEP)
CHUNK = 128
"""Directions that are looked at together: only where one of them is low enough, one by one."""

TOGETHER = 16
"""Directions in which a bead is looked up one after the other."""


def project(radius: Tensor, angle: Tensor, amplitude: Tensor, wavenumber: Tensor, table: Tensor) -> Tensor:
    """Harmonics of projected beads; see `cryomorph.scan.kernels.Kernels`."""
    harmonics = torch.empty(len(radius), 2, len(wavenumber), table.shape[1])
    argument = TABLE_STEP * np.arange(len(table))
    count = (argument + 5 * np.cbrt(argument)).astype(np.int64) + 5  # beyond, Bessel functions are below 1e-5
    count = np.minimum(-(-count // 8) * 8, table.shape[1])  # whole vector instructions
    use_torch_threads()
    polar, strength = (radius.numpy(), angle.numpy()), (amplitude.numpy(), wavenumber.numpy())
    _project(harmonics.numpy(), *polar, *strength, table.numpy(), count)
    return harmonics


def look_up(circles: Tensor, at: Tensor, turn: Tensor, share: Tensor, kind: Tensor, angles: int) -> Tensor:
    """Sum up an image under beads at all in-plane angles; see `cryomorph.scan.kernels.Kernels`."""
    padded = min(-(-angles // 8) * 8, circles.shape[3] - angles + 1)  # whole vector instructions
    total = torch.zeros(len(at), padded)
    use_torch_threads()
    polar, beads = (at.numpy(), turn.numpy()), (share.numpy(), kind.numpy())
    _look_up(circles.numpy(), *polar, *beads, angles, total.numpy())
    return total[:, :angles]


def keep_lowest(sums: Tensor, power: Tensor | None, values: Tensor, codes: Tensor, angles: int, first: int) -> None:
    """Keep the lowest misfits; see `cryomorph.scan.kernels.Kernels`."""
    use_torch_threads()
    if power is None:
        _keep_misfits(sums.numpy(), values.numpy(), codes.numpy(), angles, first)
    else:
        _keep_normalised(sums.numpy(), power.numpy(), values.numpy(), codes.numpy(), angles, first)


@jit(parallel=True, strict=True)
def _project(
    harmonics: Any, radius: Any, angle: Any, amplitude: Any, wavenumber: Any, table: Any, count_of_row: Any
) -> None:
    directions, beads = radius.shape
    rings, orders = len(wavenumber), table.shape[1]
    for d in prange(directions):
        # Few arrays, and the loop over orders innermost: the compiler checks all of them for overlaps each time.
        total, wave = np.zeros((rings, 2, orders), np.float32), np.empty((2, orders), np.float32)
        for b in range(beads):
            cosine, sine = np.cos(angle[d, b]), np.sin(angle[d, b])
            wave[0, 0], wave[1, 0] = ONE, ZERO
            for m in range(1, orders):
                wave[0, m] = wave[0, m - 1] * cosine - wave[1, m - 1] * sine
                wave[1, m] = wave[1, m - 1] * cosine + wave[0, m - 1] * sine
            for k in range(rings):
                at = wavenumber[k] * radius[d, b] * PER_STEP
                row = int(at)
                after = amplitude[b, k] * (at - np.float32(row))
                before = amplitude[b, k] - after
                for m in range(count_of_row[row]):
                    bessel = before * table[row, m] + after * table[row + 1, m]
                    total[k, 0, m] += bessel * wave[0, m]
                    total[k, 1, m] += bessel * wave[1, m]
        harmonics[d, 0], harmonics[d, 1] = total[:, 0], total[:, 1]


@jit()
def _cubic(u: Any, weight: Any) -> None:
    """Evaluate weights of the points at -1, 0, 1 and 2 in the cubic through them."""
    before, after = (u + ONE) * u, (u - ONE) * (u - TWO)
    weight[0], weight[1] = -u * after / SIX, (u + ONE) * after / TWO
    weight[2], weight[3] = -before * (u - TWO) / TWO, before * (u - ONE) / SIX


@jit(parallel=True)
def _look_up(circles: Any, at: Any, turn: Any, share: Any, kind: Any, angles: int, total: Any) -> None:
    directions, beads = at.shape
    fine, padded = circles.shape[2], total.shape[1]
    for block in prange((directions + TOGETHER - 1) // TOGETHER):
        radial, around = np.empty(4, np.float32), np.empty(4, np.float32)
        row, column = np.empty(4, np.int64), np.empty(4, np.int64)
        for b in range(beads):  # of one kind after the other: their circles stay in the cache
            for d in range(block * TOGETHER, min((block + 1) * TOGETHER, directions)):
                circle, place = int(at[d, b]), int(turn[d, b])
                _cubic(at[d, b] - np.float32(circle), radial)
                _cubic(turn[d, b] - np.float32(place), around)
                for j in range(4):
                    number = (place + j - 1) % (angles * fine)
                    row[j], column[j] = number % fine, number // fine
                for i in range(4):
                    scale = share[b] * radial[i]
                    w0, w1, w2, w3 = scale * around[0], scale * around[1], scale * around[2], scale * around[3]
                    where = circles[kind[b], circle + i - 1]
                    p0, p1 = where[row[0], column[0] :], where[row[1], column[1] :]
                    p2, p3 = where[row[2], column[2] :], where[row[3], column[3] :]
                    for a in range(padded):
                        total[d, a] += w0 * p0[a] + w1 * p1[a] + w2 * p2[a] + w3 * p3[a]


@jit(strict=True)
def _put(values: Any, codes: Any, value: float, code: int) -> Any:
    """Put a value into an ascending list in place of the last."""
    at = len(values) - 1
    while at > 0 and values[at - 1] > value:
        values[at], codes[at] = values[at - 1], codes[at - 1]
        at -= 1
    values[at], codes[at] = value, code
    return values[-1]


@jit(strict=True)
def _turned(number: int, a: int, angles: int) -> int:
    """Return the number of the angle a, that half a turn on, or those of their mirror images."""
    half = angles // 2
    if number == 0:
        return a
    if number == 1:
        return a + half
    return (angles - a) % angles if number == 2 else half - a


@jit(parallel=True, strict=True)
def _keep_misfits(sums: Any, values: Any, codes: Any, angles: int, first: int) -> None:
    _, _, quarter, images, directions = sums.shape
    for i in prange(images):
        worst = values[i, -1]
        for a in range(quarter):
            different = 4 if 0 < 4 * a < angles else 2
            even_c, even_s = sums[0, 0, a, i], sums[0, 1, a, i]
            odd_c, odd_s = sums[1, 0, a, i], sums[1, 1, a, i]
            for start in range(0, directions, CHUNK):
                stop = min(start + CHUNK, directions)
                low = 0
                for d in range(start, stop):
                    same = even_c[d] + even_s[d] - abs(odd_c[d] + odd_s[d])
                    mirrored = even_c[d] - even_s[d] - abs(odd_c[d] - odd_s[d])
                    low |= min(same, mirrored) < worst
                if not low:
                    continue
                for d in range(start, stop):
                    for number in range(different):
                        even = even_c[d] - even_s[d] if number > 1 else even_c[d] + even_s[d]
                        odd = odd_c[d] - odd_s[d] if number > 1 else odd_c[d] + odd_s[d]
                        value = even - odd if number % 2 else even + odd
                        if value < worst:
                            code = first + d * angles + _turned(number, a, angles)
                            worst = _put(values[i], codes[i], value, code)


@jit(parallel=True, strict=True)
def _keep_normalised(sums: Any, power: Any, values: Any, codes: Any, angles: int, first: int) -> None:
    _, _, quarter, images, directions = sums.shape
    minus_half = np.float32(-0.5)
    for i in prange(images):
        worst = values[i, -1]
        for a in range(quarter):
            different = 4 if 0 < 4 * a < angles else 2
            even_c, even_s = sums[0, 0, a, i], sums[0, 1, a, i]
            odd_c, odd_s = sums[1, 0, a, i], sums[1, 1, a, i]
            for start in range(0, directions, CHUNK):
                stop = min(start + CHUNK, directions)
                low = 0
                for d in range(start, stop):
                    same = even_c[d] + even_s[d] + abs(odd_c[d] + odd_s[d])
                    mirrored = even_c[d] - even_s[d] + abs(odd_c[d] - odd_s[d])
                    cross = max(same, mirrored, ZERO)
                    low |= minus_half * cross * cross / power[i, d] < worst
                if not low:
                    continue
                for d in range(start, stop):
                    for number in range(different):
                        even = even_c[d] - even_s[d] if number > 1 else even_c[d] + even_s[d]
                        odd = odd_c[d] - odd_s[d] if number > 1 else odd_c[d] + odd_s[d]
                        cross = max(even - odd if number % 2 else even + odd, ZERO)
                        value = minus_half * cross * cross / power[i, d]
                        if value < worst:
                            code = first + d * angles + _turned(number, a, angles)
                            worst = _put(values[i], codes[i], value, code)
