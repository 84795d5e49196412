"""Priors of distances along the chain for a CPU: cost and gradient of each conformation in one compiled loop."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from cryomorph.parallel import jit, prange, use_torch_threads

Array = NDArray[np.float32]
Kernel = Callable[..., None]

ZERO, HALF, TWO = np.float32(0), np.float32(0.5), np.float32(2)
TINY = np.float32(1e-6)
"""Å² added to squared distances: residues may coincide."""
ROOT_HALF_BITS = np.int32(0x3F3504F3)
"""√½ as the bits of a float32."""
INFINITY = np.float32(np.inf)
MANTISSA_BITS = np.int32(23)


def cost_of(kernel: Kernel, coordinates: Tensor, weight: Tensor, reference: Tensor) -> Tensor:
    """Return the cost of each conformation, shape (b,), differentiable by the coordinates and by the reference.

    Parameters
    ----------
    kernel
        One of this file.
    coordinates
        In Å, float32 on the CPU, shape (b, n, 3).
    weight, reference
        What the kernel needs besides, of one shape.
    """
    cost: Tensor = _Cost.apply(coordinates, weight, reference, kernel)  # type: ignore[no-untyped-call]
    return cost


class _Cost(torch.autograd.Function):
    """The kernels find cost and gradients together."""

    @staticmethod
    def forward(ctx: FunctionCtx, coordinates: Tensor, weight: Tensor, reference: Tensor, kernel: Kernel) -> Tensor:
        use_torch_threads()
        cost = coordinates.new_empty(len(coordinates))
        gradient = torch.empty(coordinates.shape)
        # Nobody asks for the gradient by a reference that is fixed: then it has no images.
        images = len(coordinates) if ctx.needs_input_grad[2] else 0  # type: ignore[attr-defined]
        by_reference = reference.new_zeros(images, *reference.shape)
        arrays = (tensor.detach().contiguous().numpy() for tensor in (coordinates, weight, reference))
        kernel(*arrays, cost.numpy(), gradient.numpy(), by_reference.numpy())
        ctx.save_for_backward(gradient, by_reference)
        return cost

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, Tensor | None, None]:
        gradient, by_reference = ctx.saved_tensors
        pulled = torch.tensordot(outer[0], by_reference, dims=1) if ctx.needs_input_grad[2] else None
        return outer[0][:, None, None] * gradient, None, pulled, None


@jit(parallel=True)
def stretches(
    coordinates: Array, bonded: Array, reference: Array, cost: Array, gradient: Array, by_reference: Array
) -> None:
    """`R1`; `bonded` is 1 and `reference` a length in Å for each two residues that follow each other, (n - 1,)."""
    for image in prange(len(coordinates)):
        cost[image] = _stretch(coordinates[image], bonded, reference, gradient[image], by_reference[image : image + 1])


@jit(parallel=True)
def log_distances(
    coordinates: Array, weight: Array, reference: Array, cost: Array, gradient: Array, by_reference: Array
) -> None:
    """`R2`; `weight` and the squared distance `reference` in Å² of residues i and i + d are at (d - 1, i)."""
    for image in prange(len(coordinates)):
        pulled = by_reference[image : image + 1]
        cost[image] = _log_distance(coordinates[image], weight, reference, gradient[image], pulled)


@jit()
def _stretch(x: Array, bonded: Array, reference: Array, slope: Array, by_reference: Array) -> np.float32:
    """Return `R1` of one conformation (n, 3); the slope by the reference is (1, n - 1), or (0, n - 1) if not wanted."""
    share = np.float32(1 / len(x))
    total = ZERO
    slope[:] = ZERO
    for i in range(len(x) - 1):
        dx, dy, dz = x[i + 1, 0] - x[i, 0], x[i + 1, 1] - x[i, 1], x[i + 1, 2] - x[i, 2]
        length = np.sqrt(dx * dx + dy * dy + dz * dz)
        stretch = bonded[i] * (length - reference[i])
        total += stretch * stretch
        pull = TWO * share * stretch / length if length > ZERO else ZERO
        slope[i, 0] -= pull * dx
        slope[i, 1] -= pull * dy
        slope[i, 2] -= pull * dz
        slope[i + 1, 0] += pull * dx
        slope[i + 1, 1] += pull * dy
        slope[i + 1, 2] += pull * dz
        if len(by_reference):
            by_reference[0, i] = -TWO * share * stretch
    return share * total


@jit()
def _log_distance(x: Array, weight: Array, reference: Array, slope: Array, by_reference: Array) -> np.float32:
    """Return `R2` of one conformation (n, 3); the slope by the reference as in `_stretch`."""
    columns = x.T.copy()
    slopes = np.zeros(columns.shape, dtype=np.float32)
    squared = np.empty(len(x), dtype=np.float32)
    pull = np.empty(len(x), dtype=np.float32)
    total = ZERO
    for separation in range(1, len(weight) + 1):
        pairs = len(x) - separation
        _square_distances(columns[0], columns[1], columns[2], separation, squared[:pairs])
        total += _log_ratios(squared[:pairs], reference[separation - 1], weight[separation - 1], pull)
        for axis in range(3):
            _add_pulls(pull[:pairs], columns[axis], separation, slopes[axis])
        if len(by_reference):
            for i in range(pairs):
                by_reference[0, separation - 1, i] = -HALF * pull[i] * squared[i] / reference[separation - 1, i]
    slope[:] = slopes.T
    return total


@jit()
def _square_distances(x: Array, y: Array, z: Array, separation: int, squared: Array) -> None:
    """Squared distances of residues that are so many apart, a little above zero."""
    xd, yd, zd = x[separation:], y[separation:], z[separation:]
    for i in range(len(squared)):
        dx, dy, dz = xd[i] - x[i], yd[i] - y[i], zd[i] - z[i]
        squared[i] = dx * dx + dy * dy + dz * dz + TINY


@jit()
def _log_ratios(squared: Array, reference: Array, weight: Array, pull: Array) -> np.float32:
    """Return the weighted sum of squared logarithms; `pull` times a difference of coordinates is the gradient."""
    total = ZERO
    for i in range(len(squared)):
        logarithm = HALF * _log(squared[i] / reference[i])
        weighted = weight[i] * logarithm
        total += weighted * logarithm
        pull[i] = TWO * weighted / squared[i]
    return total


@jit()
def _add_pulls(pull: Array, x: Array, separation: int, slope: Array) -> None:
    xd, slope_d = x[separation:], slope[separation:]
    for i in range(len(pull)):
        slope[i] -= pull[i] * (xd[i] - x[i])
    for i in range(len(pull)):
        slope_d[i] += pull[i] * (xd[i] - x[i])


@jit()
def _log(x: np.float32) -> np.float32:
    """Natural logarithm of a positive float32 to its precision, for vectors (Cephes, `logf`); NaN and infinity stay.

    `x = m 2^e` with m in [√½, √2): the exponent is counted from √½, whose bits are subtracted first.
    """
    bits = np.float32(x).view(np.int32)
    exponent = np.int32(np.int32(bits - ROOT_HALF_BITS) >> MANTISSA_BITS)
    m = np.int32(bits - np.int32(exponent << MANTISSA_BITS)).view(np.float32) - np.float32(1)
    p = np.float32(7.0376836292e-2)
    p = p * m - np.float32(1.1514610310e-1)
    p = p * m + np.float32(1.1676998740e-1)
    p = p * m - np.float32(1.2420140846e-1)
    p = p * m + np.float32(1.4249322787e-1)
    p = p * m - np.float32(1.6668057665e-1)
    p = p * m + np.float32(2.0000714765e-1)
    p = p * m - np.float32(2.4999993993e-1)
    p = p * m + np.float32(3.3333331174e-1)
    e = np.float32(exponent)
    squared = m * m
    log = m + (p * m * squared - HALF * squared - np.float32(2.12194440e-4) * e) + np.float32(0.693359375) * e
    return log if x < INFINITY else x
