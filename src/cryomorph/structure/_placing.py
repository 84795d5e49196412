"""Beads in local frames for a CPU: positions and their gradient in compiled loops, one conformation at a time."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from cryomorph.parallel import jit, prange, use_torch_threads

Array = NDArray[np.float32]
Vector = tuple[np.float32, np.float32, np.float32]

HALF = np.float32(0.5)


class Places(NamedTuple):
    """Which residues and frames beads belong to; as `FramedBeads` has them.

    Attributes
    ----------
    residue : array (B,)
        That carries each bead.
    source : array (n,)
        The residue with whose frame each one turns, minus 1; n - 2 where it does not turn.
    """

    residue: NDArray[np.int64]
    source: NDArray[np.int64]


class Frame(NamedTuple):
    """A local frame, and what its gradient needs.

    Attributes
    ----------
    along, bend, across
        The axes.
    middle
        From the middle of the two neighbours to the residue, Å; bend is its part across `along`.
    along_scale, bend_scale
        What `along` and `bend` were multiplied by, 1/Å.
    """

    along: Vector
    bend: Vector
    across: Vector
    middle: Vector
    along_scale: np.float32
    bend_scale: np.float32


def place_beads(coordinates: Tensor, offset: Tensor, places: Places, shortest: float) -> Tensor:
    """Return bead positions (b, B, 3) for conformations (b, n, 3), both in Å, float32 on the CPU.

    Parameters
    ----------
    coordinates
        Of the residues.
    offset
        Of the beads from their residues, in the axes of the frames, shape (B, 3) in Å.
    places
        Of the beads.
    shortest
        Axes shorter than this, in Å, are divided by it instead of by their length.
    """
    placed: Tensor = _Place.apply(coordinates, offset, places, np.float32(shortest))  # type: ignore[no-untyped-call]
    return placed


class _Place(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, coordinates: Tensor, offset: Tensor, places: Places, shortest: np.float32) -> Tensor:
        use_torch_threads()
        coordinates, offset = coordinates.detach().contiguous(), offset.detach().contiguous()
        positions = coordinates.new_empty(len(coordinates), len(places.residue), 3)
        _place(coordinates.numpy(), offset.numpy(), places, shortest, positions.numpy())
        ctx.save_for_backward(coordinates, offset)
        ctx.how = places, shortest
        return positions

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        use_torch_threads()
        coordinates, offset = ctx.saved_tensors
        places, shortest = ctx.how
        pull, gradient = outer[0].contiguous().numpy(), torch.zeros_like(coordinates)
        _pull(coordinates.numpy(), offset.numpy(), places, shortest, pull, gradient.numpy())
        if not ctx.needs_input_grad[1]:
            return gradient, None, None, None
        by_offset = coordinates.new_empty(len(coordinates), *offset.shape)
        _pull_in_frames(coordinates.numpy(), places, shortest, pull, by_offset.numpy())
        return gradient, by_offset.sum(0), None, None


@jit(parallel=True)
def _place(coordinates: Array, offset: Array, places: Places, shortest: np.float32, positions: Array) -> None:
    for image in prange(len(coordinates)):
        _place_one(coordinates[image], offset, places, shortest, positions[image])


@jit(parallel=True)
def _pull(
    coordinates: Array, offset: Array, places: Places, shortest: np.float32, outer: Array, gradient: Array
) -> None:
    for image in prange(len(coordinates)):
        _pull_one(coordinates[image], offset, places, shortest, outer[image], gradient[image])


@jit(parallel=True)
def _pull_in_frames(coordinates: Array, places: Places, shortest: np.float32, outer: Array, by_offset: Array) -> None:
    for image in prange(len(coordinates)):
        _pull_one_in_frames(coordinates[image], places, shortest, outer[image], by_offset[image])


@jit()
def _place_one(x: Array, offset: Array, places: Places, shortest: np.float32, positions: Array) -> None:
    axes = _axes(x, shortest)
    for k in range(len(places.residue)):
        i, f = _place_of(places, k)
        for c in range(3):
            if f < 0:
                positions[k, c] = x[i, c] + offset[k, c]
            else:
                turned = offset[k, 0] * axes[f, 0, c] + offset[k, 1] * axes[f, 1, c] + offset[k, 2] * axes[f, 2, c]
                positions[k, c] = x[i, c] + turned


@jit()
def _pull_one(x: Array, offset: Array, places: Places, shortest: np.float32, outer: Array, gradient: Array) -> None:
    slopes = np.zeros((len(x), 3, 3), dtype=np.float32)
    for k in range(len(places.residue)):
        i, f = _place_of(places, k)
        for c in range(3):
            gradient[i, c] += outer[k, c]
            if f >= 0:
                for axis in range(3):
                    slopes[f, axis, c] += offset[k, axis] * outer[k, c]
    for i in range(1, len(x) - 1):
        along, middle = _frame_gradient(_frame(x, i, shortest), slopes[i], shortest)
        for c in range(3):
            gradient[i - 1, c] -= along[c] + HALF * middle[c]
            gradient[i, c] += middle[c]
            gradient[i + 1, c] += along[c] - HALF * middle[c]


@jit()
def _pull_one_in_frames(x: Array, places: Places, shortest: np.float32, outer: Array, by_offset: Array) -> None:
    axes = _axes(x, shortest)
    for k in range(len(places.residue)):
        _, f = _place_of(places, k)
        for axis in range(3):
            if f < 0:
                by_offset[k, axis] = outer[k, axis]
            else:
                pulled = axes[f, axis, 0] * outer[k, 0] + axes[f, axis, 1] * outer[k, 1]
                by_offset[k, axis] = pulled + axes[f, axis, 2] * outer[k, 2]


@jit()
def _axes(x: Array, shortest: np.float32) -> Array:
    """Return the axes of the frames of inner residues, (residue, axis, component)."""
    axes = np.zeros((len(x), 3, 3), dtype=np.float32)
    for i in range(1, len(x) - 1):
        frame = _frame(x, i, shortest)
        for c in range(3):
            axes[i, 0, c], axes[i, 1, c], axes[i, 2, c] = frame.along[c], frame.bend[c], frame.across[c]
    return axes


@jit()
def _place_of(places: Places, bead: int) -> tuple[int, int]:
    """Return the residue of a bead, and the one with whose frame it turns (or -1)."""
    residue = places.residue[bead]
    source = places.source[residue]
    return residue, source + 1 if source < len(places.source) - 2 else -1


@jit()
def _frame(x: Array, i: int, shortest: np.float32) -> Frame:
    """Return the frame of an inner residue; see `local_frames` of the beads."""
    span = (x[i + 1, 0] - x[i - 1, 0], x[i + 1, 1] - x[i - 1, 1], x[i + 1, 2] - x[i - 1, 2])
    middle = (
        x[i, 0] - HALF * (x[i - 1, 0] + x[i + 1, 0]),
        x[i, 1] - HALF * (x[i - 1, 1] + x[i + 1, 1]),
        x[i, 2] - HALF * (x[i - 1, 2] + x[i + 1, 2]),
    )
    along_scale = _inverse_length(span, shortest)
    along = _scaled(along_scale, span)
    rest = _plus(middle, -_dot(middle, along), along)
    bend_scale = _inverse_length(rest, shortest)
    bend = _scaled(bend_scale, rest)
    return Frame(along, bend, _cross(along, bend), middle, along_scale, bend_scale)


@jit()
def _frame_gradient(frame: Frame, slope: Array, shortest: np.float32) -> tuple[Vector, Vector]:
    """Take a gradient by the axes (axis, component) to one by the span `x[i+1] - x[i-1]` and by the middle."""
    along, bend, middle = frame.along, frame.bend, frame.middle
    across = (slope[2, 0], slope[2, 1], slope[2, 2])
    by_along = _plus((slope[0, 0], slope[0, 1], slope[0, 2]), np.float32(1), _cross(bend, across))
    by_bend = _plus((slope[1, 0], slope[1, 1], slope[1, 2]), np.float32(1), _cross(across, along))
    by_rest = _through_scaling(by_bend, bend, frame.bend_scale, shortest)
    shared = _dot(by_rest, along)
    by_middle = _plus(by_rest, -shared, along)
    by_along = _plus(_plus(by_along, -_dot(middle, along), by_rest), -shared, middle)
    return _through_scaling(by_along, along, frame.along_scale, shortest), by_middle


@jit()
def _through_scaling(slope: Vector, axis: Vector, scale: np.float32, shortest: np.float32) -> Vector:
    """Take a gradient by an axis to one by the vector that was scaled to it."""
    if scale * shortest < np.float32(1):  # it was divided by its own length
        slope = _plus(slope, -_dot(slope, axis), axis)
    return _scaled(scale, slope)


@jit()
def _inverse_length(a: Vector, shortest: np.float32) -> np.float32:
    return np.float32(1 / np.sqrt(max(_dot(a, a), shortest * shortest)))


@jit()
def _dot(a: Vector, b: Vector) -> np.float32:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@jit()
def _cross(a: Vector, b: Vector) -> Vector:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


@jit()
def _scaled(factor: np.float32, a: Vector) -> Vector:
    return factor * a[0], factor * a[1], factor * a[2]


@jit()
def _plus(a: Vector, factor: np.float32, b: Vector) -> Vector:
    return a[0] + factor * b[0], a[1] + factor * b[1], a[2] + factor * b[2]
