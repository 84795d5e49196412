"""The sums between beads and samples for GPUs: a program takes a few beads of one image.

`spread` adds with atomic operations, in the order in which programs happen to run: its last bits differ from one call
to the next. `collect` always gives the same bits.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from cryomorph.gridding.footprints import DEGREE, TAPS_STEP, Footprints
from cryomorph.gridding.rows import Rows
from cryomorph.gridding.transfer import FAR

BREADTH = 64
"""Columns of the footprints of all beads of a program together."""
ROWS = tl.constexpr(TAPS_STEP)
"""Rows of a footprint that are looked at together; a footprint has a multiple of them."""
TOP = tl.constexpr(DEGREE)
FAR_AWAY = tl.constexpr(FAR)


def spread(points: Tensor, amplitude: Tensor, footprints: Footprints, step_index: Tensor, size: int) -> Tensor:
    """Add up footprints; see `cryomorph.gridding.transfer.Transfer`."""
    usable = (points.abs() < FAR).flatten(1).all(1)
    start = torch.where(usable, 0.0, torch.nan)  # whatever is added to NaN, it remains
    grid = start[:, None, None].repeat(1, size, size)
    _launch(_spread, points, amplitude, footprints, step_index, grid, size)
    return grid


def collect(
    samples: Tensor, rows: Rows, points: Tensor, amplitude: Tensor, footprints: Footprints, step_index: Tensor
) -> tuple[Tensor, Tensor]:
    """Sum up samples under footprints; see `cryomorph.gridding.transfer.Transfer`."""
    value = torch.empty(points.shape[:2], device=points.device)
    gradient = torch.empty(points.shape, device=points.device)
    samples = samples.detach().float().contiguous()
    kept = (rows.first, rows.last, rows.offset)
    _launch(_collect, points, amplitude, footprints, step_index, samples, len(rows), *kept, value, gradient, rows.size)
    return value.sum(1), gradient


def _launch(
    kernel: Any, points: Tensor, amplitude: Tensor, footprints: Footprints, step_index: Tensor, *others: Tensor | int
) -> None:
    """Run a kernel over all beads of all images; its first arguments are the same for both sums."""
    images, beads, _ = points.shape
    columns = triton.next_power_of_2(footprints.taps)
    of_program = max(BREADTH // columns, 1)
    blocks = triton.cdiv(beads, of_program)
    with torch.cuda.device_of(points):  # Triton launches on the current device
        kernel[(images * blocks,)](
            points.detach().float().contiguous(),
            amplitude.detach().float().contiguous(),
            footprints.table,
            footprints.bead_class,
            step_index,
            footprints.table.shape[1],
            beads,
            blocks,
            *others,
            TAPS=footprints.taps,
            COLUMNS=columns,
            BEADS=of_program,
            enable_fp_fusion=True,  # its default is about to change
        )


@triton.jit
def _spread(
    points,
    amplitude,
    table,
    bead_class,
    step_index,
    classes,
    beads,
    blocks,
    grid,
    size,
    TAPS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BEADS: tl.constexpr,
):
    image, bead, there, scale, polynomials = _beads_of_program(
        amplitude, table, bead_class, step_index, classes, beads, blocks, TAPS, BEADS
    )
    at = points + (image * beads + bead) * 2
    column, u = _between_samples(tl.load(at, mask=there, other=0.0))
    row, v = _between_samples(tl.load(at + 1, mask=there, other=0.0))
    tap_x = tl.arange(0, COLUMNS)
    weight_x = _weigh(polynomials, u, tap_x, TAPS)[0]
    place_x = _wrap(column, tap_x, size, TAPS)
    counted = there[:, None, None] & (tap_x < TAPS)[None, None, :]
    for first_row in range(0, TAPS, ROWS):
        tap_y = first_row + tl.arange(0, ROWS)
        weight_y = _weigh(polynomials, v, tap_y, TAPS)[0]
        place = _wrap(row, tap_y, size, TAPS)[:, :, None] * size + place_x[:, None, :]
        values = (scale[:, None] * weight_y)[:, :, None] * weight_x[:, None, :]
        tl.atomic_add(grid + image * size * size + place, values, mask=counted, sem="relaxed")


@triton.jit
def _collect(
    points,
    amplitude,
    table,
    bead_class,
    step_index,
    classes,
    beads,
    blocks,
    samples,
    samples_of_image,
    first,
    last,
    offset,
    value,
    gradient,
    size,
    TAPS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BEADS: tl.constexpr,
):
    image, bead, there, scale, polynomials = _beads_of_program(
        amplitude, table, bead_class, step_index, classes, beads, blocks, TAPS, BEADS
    )
    number = image * beads + bead
    column, u = _between_samples(tl.load(points + number * 2, mask=there, other=0.0))
    row, v = _between_samples(tl.load(points + number * 2 + 1, mask=there, other=0.0))
    tap_x = tl.arange(0, COLUMNS)
    weight_x, slope_x = _weigh(polynomials, u, tap_x, TAPS)
    place_x = _wrap(column, tap_x, size, TAPS)[:, None, :]
    counted = there[:, None, None] & (tap_x < TAPS)[None, None, :]
    along_rows = tl.zeros((BEADS, COLUMNS), tl.float32)
    slope_rows = tl.zeros((BEADS, COLUMNS), tl.float32)
    for first_row in range(0, TAPS, ROWS):
        tap_y = first_row + tl.arange(0, ROWS)
        weight_y, slope_y = _weigh(polynomials, v, tap_y, TAPS)
        place_y = _wrap(row, tap_y, size, TAPS)
        kept = (place_x >= tl.load(first + place_y)[:, :, None]) & (place_x < tl.load(last + place_y)[:, :, None])
        place = image * samples_of_image + tl.load(offset + place_y)[:, :, None] + place_x
        found = tl.load(samples + place, mask=kept & counted, other=0.0)
        along_rows += tl.sum(found * weight_y[:, :, None], axis=1)
        slope_rows += tl.sum(found * slope_y[:, :, None], axis=1)
    tl.store(value + number, scale * tl.sum(along_rows * weight_x, axis=1), mask=there)
    tl.store(gradient + number * 2, scale * tl.sum(along_rows * slope_x, axis=1), mask=there)
    tl.store(gradient + number * 2 + 1, scale * tl.sum(slope_rows * weight_x, axis=1), mask=there)


@triton.jit
def _beads_of_program(
    amplitude, table, bead_class, step_index, classes, beads, blocks, TAPS: tl.constexpr, BEADS: tl.constexpr
):
    """Return the image, its beads (BEADS,), whether they exist, their amplitudes and where their polynomials are."""
    image = (tl.program_id(0) // blocks).to(tl.int64)
    bead = tl.program_id(0) % blocks * BEADS + tl.arange(0, BEADS)
    there = bead < beads
    scale = tl.load(amplitude + bead, mask=there, other=0.0)
    kind = tl.load(step_index + image) * classes + tl.load(bead_class + bead, mask=there, other=0)
    return image, bead, there, scale, table + kind * ((TOP + 1) * TAPS)


@triton.jit
def _between_samples(position):
    """Return the sample at or before positions, and the distance from the middle to the next one; NaN if too far."""
    usable = tl.abs(position) < FAR_AWAY
    whole = tl.floor(tl.where(usable, position, 0.0))
    return whole.to(tl.int32), tl.where(usable, position - whole - 0.5, float("nan"))


@triton.jit
def _wrap(whole, tap, size, TAPS: tl.constexpr):
    """Return the samples under some taps of all beads, modulo the period."""
    sample = whole[:, None] + (tap[None, :] - (TAPS // 2 - 1))
    return (sample % size + size) % size  # the remainder of a negative number is negative


@triton.jit
def _weigh(polynomials, u, tap, TAPS: tl.constexpr):
    """Return the weights of some taps of all beads, and their slopes; 0 for taps that do not exist."""
    exists = (tap < TAPS)[None, :]
    coefficient = polynomials[:, None] + tap[None, :]
    value = tl.load(coefficient + TOP * TAPS, mask=exists, other=0.0)
    slope = tl.zeros_like(value)
    for lower in tl.static_range(TOP):
        slope = slope * u[:, None] + value
        value = value * u[:, None] + tl.load(coefficient + (TOP - 1 - lower) * TAPS, mask=exists, other=0.0)
    return value, slope
