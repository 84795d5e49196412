"""Kernels of a scan for CPUs."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryomorph.parallel import jit, prange, use_torch_threads
from cryomorph.scan.rings import TABLE_STEP, TAIL

ZERO, ONE = np.float32(0), np.float32(1)
PER_STEP = np.float32(1 / TABLE_STEP)


def project(radius: Tensor, angle: Tensor, amplitude: Tensor, wavenumber: Tensor, table: Tensor) -> Tensor:
    """Harmonics of projected beads; see `cryomorph.scan.kernels.Kernels`."""
    harmonics = torch.empty(len(radius), 2, len(wavenumber), table.shape[1])
    use_torch_threads()
    _project(harmonics.numpy(), radius.numpy(), angle.numpy(), amplitude.numpy(), wavenumber.numpy(), table.numpy())
    return harmonics


def keep_lowest(even: Tensor, odd: Tensor, power: Tensor | None, values: Tensor, codes: Tensor, first: int) -> None:
    """Keep the lowest misfits; see `cryomorph.scan.kernels.Kernels`."""
    use_torch_threads()
    if power is None:
        _keep_misfits(even.numpy(), odd.numpy(), values.numpy(), codes.numpy(), first)
    else:
        _keep_normalised(even.numpy(), odd.numpy(), power.numpy(), values.numpy(), codes.numpy(), first)


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
                count = min(int(x) + TAIL + 1, orders)
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


@jit(parallel=True)
def _keep_misfits(even: Any, odd: Any, values: Any, codes: Any, first: int) -> None:
    half, images, directions = even.shape
    for i in prange(images):
        worst = values[i, -1]
        for a in range(half):
            sum_even, sum_odd = even[a, i], odd[a, i]
            for d in range(directions):
                low = sum_even[d] - abs(sum_odd[d])
                if low < worst:
                    code = first + d * 2 * half + a
                    if sum_even[d] + sum_odd[d] < worst:
                        worst = _put(values[i], codes[i], sum_even[d] + sum_odd[d], code)
                    if sum_even[d] - sum_odd[d] < worst:
                        worst = _put(values[i], codes[i], sum_even[d] - sum_odd[d], code + half)


@jit(parallel=True)
def _keep_normalised(even: Any, odd: Any, power: Any, values: Any, codes: Any, first: int) -> None:
    half, images, directions = even.shape
    for i in prange(images):
        worst = values[i, -1]
        for a in range(half):
            sum_even, sum_odd = even[a, i], odd[a, i]
            for d in range(directions):
                for sign in range(2):
                    cross = sum_even[d] - sum_odd[d] if sign else sum_even[d] + sum_odd[d]
                    cross = max(cross, ZERO)
                    value = np.float32(-0.5) * cross * cross / power[i, d]
                    if value < worst:
                        worst = _put(values[i], codes[i], value, first + d * 2 * half + a + sign * half)
