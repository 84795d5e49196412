"""Kernels of a scan for CPUs."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryomorph.parallel import jit, prange, use_torch_threads
from cryomorph.scan.rings import TABLE_STEP

ZERO, ONE, TWO = np.float32(0), np.float32(1), np.float32(2)
PER_STEP = np.float32(1 / TABLE_STEP)
CHUNK = 128
"""Directions that are looked at together: only where one of them is low enough, one by one."""


def project(radius: Tensor, angle: Tensor, amplitude: Tensor, wavenumber: Tensor, table: Tensor) -> Tensor:
    """Harmonics of projected beads; see `cryomorph.scan.kernels.Kernels`."""
    harmonics = torch.empty(len(radius), 2, len(wavenumber), table.shape[1])
    use_torch_threads()
    _project(harmonics.numpy(), radius.numpy(), angle.numpy(), amplitude.numpy(), wavenumber.numpy(), table.numpy())
    return harmonics


def keep_lowest(sums: Tensor, power: Tensor | None, values: Tensor, codes: Tensor, angles: int, first: int) -> None:
    """Keep the lowest misfits; see `cryomorph.scan.kernels.Kernels`."""
    use_torch_threads()
    if power is None:
        _keep_misfits(sums.numpy(), values.numpy(), codes.numpy(), angles, first)
    else:
        _keep_normalised(sums.numpy(), power.numpy(), values.numpy(), codes.numpy(), angles, first)


@jit(parallel=True)
def _project(harmonics: Any, radius: Any, angle: Any, amplitude: Any, wavenumber: Any, table: Any) -> None:
    directions, beads = radius.shape
    rings, orders = len(wavenumber), table.shape[1]
    for d in prange(directions):
        real, imaginary = harmonics[d, 0], harmonics[d, 1]
        real[:] = ZERO
        imaginary[:] = ZERO
        cosine, sine = np.empty(orders, np.float32), np.empty(orders, np.float32)
        bessel = np.empty(orders, np.float32)
        for b in range(beads):
            cosine_1, sine_1 = np.cos(angle[d, b]), np.sin(angle[d, b])
            cosine[0], sine[0] = ONE, ZERO
            for m in range(1, orders):
                cosine[m] = cosine[m - 1] * cosine_1 - sine[m - 1] * sine_1
                sine[m] = sine[m - 1] * cosine_1 + cosine[m - 1] * sine_1
            for k in range(rings):
                x = wavenumber[k] * radius[d, b]
                # Beyond, J_m is smaller than 1e-5.
                count = min(int(x + np.float32(5) * np.cbrt(x)) + 5, orders)
                at = max(int(x * PER_STEP), 1)
                u = x * PER_STEP - np.float32(at)
                a = amplitude[b, k]
                # Cubic interpolation between the rows of the table.
                w0 = -a * u * (u - ONE) * (u - np.float32(2)) / np.float32(6)
                w1 = a * (u + ONE) * (u - ONE) * (u - np.float32(2)) / np.float32(2)
                w2 = -a * (u + ONE) * u * (u - np.float32(2)) / np.float32(2)
                w3 = a * (u + ONE) * u * (u - ONE) / np.float32(6)
                before, here, after, beyond = table[at - 1], table[at], table[at + 1], table[at + 2]
                for m in range(count):
                    bessel[m] = w0 * before[m] + w1 * here[m] + w2 * after[m] + w3 * beyond[m]
                sum_real, sum_imaginary = real[k], imaginary[k]
                for m in range(count):
                    sum_real[m] += bessel[m] * cosine[m]
                for m in range(count):
                    sum_imaginary[m] += bessel[m] * sine[m]


@jit()
def _put(values: Any, codes: Any, value: float, code: int) -> Any:
    """Put a value into an ascending list in place of the last."""
    at = len(values) - 1
    while at > 0 and values[at - 1] > value:
        values[at], codes[at] = values[at - 1], codes[at - 1]
        at -= 1
    values[at], codes[at] = value, code
    return values[-1]


@jit()
def _turned(number: int, a: int, angles: int) -> int:
    """Return the number of the angle a, that half a turn on, or those of their mirror images."""
    half = angles // 2
    if number == 0:
        return a
    if number == 1:
        return a + half
    return (angles - a) % angles if number == 2 else half - a


@jit(parallel=True)
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


@jit(parallel=True)
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
