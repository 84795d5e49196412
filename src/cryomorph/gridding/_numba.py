"""The sums between beads and samples for CPUs: images in parallel, the samples of a footprint's row in one vector."""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from llvmlite import ir
from numba import types, uintp
from numba.extending import intrinsic
from torch import Tensor

from cryomorph.gridding.footprints import DEGREE, Footprints
from cryomorph.gridding.rows import Rows
from cryomorph.gridding.transfer import FAR
from cryomorph.parallel import jit, prange, use_torch_threads

ZERO, HALF = np.float32(0), np.float32(0.5)


def spread(points: Tensor, amplitude: Tensor, footprints: Footprints, step_index: Tensor, size: int) -> Tensor:
    """Add up footprints; see `cryomorph.gridding.transfer.Transfer`."""
    grid = torch.empty(len(points), size, size)
    use_torch_threads()
    _spread(
        (0,) * footprints.taps,
        grid.numpy(),
        _array(points),
        _array(amplitude),
        footprints.table.numpy(),
        footprints.bead_class.numpy(),
        step_index.numpy(),
    )
    return grid


def collect(
    samples: Tensor, rows: Rows, points: Tensor, amplitude: Tensor, footprints: Footprints, step_index: Tensor
) -> tuple[Tensor, Tensor]:
    """Sum up samples under footprints; see `cryomorph.gridding.transfer.Transfer`."""
    total, gradient = torch.empty(len(points)), torch.empty(points.shape)
    use_torch_threads()
    _collect(
        (0,) * footprints.taps,
        _array(samples),
        rows.first.numpy(),
        rows.last.numpy(),
        rows.offset.numpy(),
        _array(points),
        _array(amplitude),
        footprints.table.numpy(),
        footprints.bead_class.numpy(),
        step_index.numpy(),
        total.numpy(),
        gradient.numpy(),
    )
    return total, gradient


def _array(tensor: Tensor) -> Any:
    return tensor.detach().to(torch.float32).contiguous().numpy()


def _operation(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function that generates instructions callable in kernels, which leave out its first argument."""
    return cast(Callable[..., Any], intrinsic(function))


@_operation
def _add_row(_: Any, taps: Any, target: Any, offset: Any, weights: Any, scale: Any) -> Any:
    """Make `target[offset : offset + len(taps)] += scale * weights` as one vector operation.

    In a plain loop the compiler must assume that the two arrays overlap, and checks for it at every row.
    """
    vector = ir.VectorType(ir.FloatType(), taps.count)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        at = builder.gep(_data(context, builder, signature, values, 1), [values[2]])
        at = builder.bitcast(at, vector.as_pointer())
        added = builder.bitcast(_data(context, builder, signature, values, 3), vector.as_pointer())
        product = builder.fmul(builder.load(added, align=4), _splat(builder, values[4], vector), flags=["contract"])
        builder.store(builder.fadd(builder.load(at, align=4), product, flags=["contract"]), at, align=4)
        return context.get_dummy_value()

    return types.void(taps, target, offset, weights, scale), generate


@_operation
def _sum_under(
    _: Any, taps: Any, samples: Any, start: Any, weight_x: Any, slope_x: Any, weight_y: Any, slope_y: Any
) -> Any:
    """Sum up samples under a footprint, and under its slopes along x and y; rows begin at `start`.

    Spelt out in vectors: what a compiler makes of sums that it may reorder depends on where they are compiled.
    """
    width = taps.count
    vector, index = ir.VectorType(ir.FloatType(), width), ir.IntType(32)
    flags = ["contract"]

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = [None, *(_data(context, builder, signature, values, n) for n in range(1, 7))]

        def row(argument: int, offset: Any) -> Any:
            return builder.load(builder.bitcast(builder.gep(data[argument], [offset]), vector.as_pointer()), align=4)

        def number(argument: int, place: int) -> Any:
            return builder.load(builder.gep(data[argument], [index(place)]))

        along_rows, slope_rows = (ir.Constant(vector, [0.0] * width) for _ in range(2))
        for r in range(width):
            sample = row(1, number(2, r))
            for_value = builder.fmul(sample, _splat(builder, number(5, r), vector), flags=flags)
            for_slope = builder.fmul(sample, _splat(builder, number(6, r), vector), flags=flags)
            along_rows = builder.fadd(along_rows, for_value, flags=flags)
            slope_rows = builder.fadd(slope_rows, for_slope, flags=flags)
        across, slope_across = row(3, index(0)), row(4, index(0))
        products = ((along_rows, across), (along_rows, slope_across), (slope_rows, across))
        sums = [_total(builder, builder.fmul(one, other, flags=flags)) for one, other in products]
        return context.make_tuple(builder, signature.return_type, sums)

    returned = types.UniTuple(types.float32, 3)  # type: ignore[no-untyped-call]
    return returned(taps, samples, start, weight_x, slope_x, weight_y, slope_y), generate


def _data(context: Any, builder: Any, signature: Any, values: Any, argument: int) -> Any:
    """Return a pointer to the numbers of an array."""
    return context.make_array(signature.args[argument])(context, builder, values[argument]).data


def _splat(builder: Any, value: Any, vector: Any) -> Any:
    """Return a vector of equal numbers."""
    nothing, index = ir.Constant(vector, ir.Undefined), ir.IntType(32)
    first = builder.insert_element(nothing, value, index(0))
    return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(index, vector.count), [0] * vector.count))


def _total(builder: Any, values: Any) -> Any:
    """Sum a vector whose length is a multiple of eight: its eighths one by one, then halves of halves."""
    index = ir.IntType(32)

    def part(vector: Any, first: int, count: int) -> Any:
        places = ir.Constant(ir.VectorType(index, count), list(range(first, first + count)))
        return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), places)

    total = part(values, 0, 8)
    for first in range(8, values.type.count, 8):
        total = builder.fadd(total, part(values, first, 8))
    for half in (4, 2, 1):
        total = builder.fadd(part(total, 0, half), part(total, half, half))
    return builder.extract_element(total, index(0))


@jit()
def _weigh(taps: Any, u: Any, table: Any, weight: Any, slope: Any) -> None:
    """Evaluate a footprint and its slope on the samples around a bead, along one axis."""
    for t in range(len(taps)):
        value, derivative = table[DEGREE, t], ZERO
        for d in range(DEGREE - 1, -1, -1):
            derivative = derivative * u + value
            value = value * u + table[d, t]
        weight[t], slope[t] = value, derivative


# `taps` is a tuple as long as a footprint is wide: its length is known to the compiler.
@jit(parallel=True)
def _spread(taps: Any, grid: Any, points: Any, amplitude: Any, table: Any, bead_class: Any, step: Any) -> None:
    images, size, _ = grid.shape
    width, reach = len(taps), len(taps) // 2 - 1
    for i in prange(images):
        flat = grid[i].reshape(-1)
        flat[:] = ZERO
        weight_x, weight_y, slope = (
            np.empty(width, np.float32),
            np.empty(width, np.float32),
            np.empty(width, np.float32),
        )
        for b in range(points.shape[1]):
            x, y = points[i, b, 0], points[i, b, 1]
            if not (abs(x) < FAR and abs(y) < FAR):
                flat[:] = np.nan
                break
            column, row = int(np.floor(x)), int(np.floor(y))
            _weigh(taps, x - np.floor(x) - HALF, table[step[i], bead_class[b]], weight_x, slope)
            _weigh(taps, y - np.floor(y) - HALF, table[step[i], bead_class[b]], weight_y, slope)
            column, row = column - reach, row - reach
            if column >= 0 and row >= 0 and column + width <= size and row + width <= size:
                for r in range(width):
                    at = uintp((row + r) * size + column)
                    _add_row(taps, flat, at, weight_x, amplitude[b] * weight_y[r])
            else:
                for r in range(width):
                    start = (row + r) % size * size
                    for t in range(width):
                        flat[start + (column + t) % size] += amplitude[b] * weight_y[r] * weight_x[t]


@jit()
def _fetch(tile: Any, flat: Any, first: Any, last: Any, offset: Any, row: int, column: int, width: int) -> None:
    """Copy the samples of a footprint that is not in the kept rows as a whole; 0 where a sample is not kept."""
    size = len(first)
    column = column % size
    for r in range(width):
        line = (row + r) % size
        for t in range(width):
            place = column + t
            if place >= size:
                place -= size
            kept = first[line] <= place < last[line]
            tile[r * width + t] = flat[offset[line] + place] if kept else ZERO


@jit(parallel=True)
def _collect(
    taps: Any,
    samples: Any,
    first: Any,
    last: Any,
    offset: Any,
    points: Any,
    amplitude: Any,
    table: Any,
    bead_class: Any,
    step: Any,
    total: Any,
    gradient: Any,
) -> None:
    size = len(first)
    width, reach = len(taps), len(taps) // 2 - 1
    for i in prange(points.shape[0]):
        flat, tile = samples[i], np.empty(width * width, np.float32)
        weight_x, slope_x = np.empty(width, np.float32), np.empty(width, np.float32)
        weight_y, slope_y = np.empty(width, np.float32), np.empty(width, np.float32)
        start = np.empty(width, np.uintp)
        whole = ZERO
        for b in range(points.shape[1]):
            x, y = points[i, b, 0], points[i, b, 1]
            if not (abs(x) < FAR and abs(y) < FAR):
                whole = np.float32(np.nan)
                gradient[i, b, 0] = gradient[i, b, 1] = whole
                continue
            _weigh(taps, x - np.floor(x) - HALF, table[step[i], bead_class[b]], weight_x, slope_x)
            _weigh(taps, y - np.floor(y) - HALF, table[step[i], bead_class[b]], weight_y, slope_y)
            column, row = int(np.floor(x)) - reach, int(np.floor(y)) - reach
            inside = row >= 0 and row + width <= size
            if inside:
                for r in range(width):
                    inside &= first[row + r] <= column and column + width <= last[row + r]
            if inside:
                for r in range(width):
                    start[r] = uintp(offset[row + r] + column)
                value, along_x, along_y = _sum_under(taps, flat, start, weight_x, slope_x, weight_y, slope_y)
            else:
                _fetch(tile, flat, first, last, offset, row, column, width)
                for r in range(width):
                    start[r] = uintp(r * width)
                value, along_x, along_y = _sum_under(taps, tile, start, weight_x, slope_x, weight_y, slope_y)
            whole += amplitude[b] * value
            gradient[i, b, 0], gradient[i, b, 1] = amplitude[b] * along_x, amplitude[b] * along_y
        total[i] = whole
