"""Kernels of a scan for GPUs."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from cryomorph.scan._torch import every_angle, merge, normalised
from cryomorph.scan._torch import look_up as look_up  # gathers, which PyTorch does well
from cryomorph.scan.rings import TABLE_STEP

RINGS = 8
"""Rings of one direction that a program takes: it computes the waves around the circle once for all."""
DIRECTIONS = 128
"""Directions of one image that a program takes."""
PER_STEP = tl.constexpr(1 / TABLE_STEP)
TURN = tl.constexpr(2 * torch.pi)


def project(radius: Tensor, angle: Tensor, amplitude: Tensor, wavenumber: Tensor, table: Tensor) -> Tensor:
    """Harmonics of projected beads; see `cryomorph.scan.kernels.Kernels`."""
    (directions, beads), (rings, orders) = radius.shape, (len(wavenumber), table.shape[1])
    harmonics = torch.empty(directions, 2, rings, orders, device=radius.device)
    blocks = triton.cdiv(rings, RINGS)
    _launch(
        _project,
        directions * blocks,
        radius,
        *(angle / (2 * torch.pi), amplitude, wavenumber, table, harmonics),
        *(beads, rings, orders, blocks),
        RINGS=RINGS,
        ORDERS=triton.next_power_of_2(orders),
    )
    return harmonics


def keep_lowest(sums: Tensor, power: Tensor | None, values: Tensor, codes: Tensor, angles: int, first: int) -> None:
    """Keep the lowest misfits; see `cryomorph.scan.kernels.Kernels`.

    The k lowest values are all in the k directions with the lowest minima: only these are looked at angle by angle.
    """
    _, _, quarter, images, directions = sums.shape
    lowest = torch.empty(images, directions, device=sums.device)
    _launch(
        _minima,
        images * triton.cdiv(directions, DIRECTIONS),
        *(sums, sums if power is None else power, lowest, quarter, images * directions, directions),
        NORMALISED=power is not None,
        DIRECTIONS=DIRECTIONS,
    )
    chosen = lowest.topk(min(values.shape[1], directions), dim=1, largest=False).indices  # (b, c)
    found, turned = every_angle(sums.gather(-1, chosen.expand(*sums.shape[:3], -1, -1)), angles)
    if power is not None:
        found = normalised(found, power.gather(1, chosen))
    code = first + angles * chosen + turned[:, None, None]
    found, code = (part.permute(1, 0, 2).flatten(1) for part in (found, code))
    merge(found, code, values, codes)


def _launch(kernel: Any, programs: int, first: Tensor, *others: Tensor | int, **constants: int | bool) -> None:
    with torch.cuda.device_of(first):  # Triton launches on the current device
        arguments = [value.contiguous() if isinstance(value, Tensor) else value for value in (first, *others)]
        kernel[(programs,)](*arguments, **constants, enable_fp_fusion=True)  # its default is about to change


@triton.jit
def _project(
    radius,
    turn,
    amplitude,
    wavenumber,
    table,
    harmonics,
    beads,
    rings,
    orders,
    blocks,
    RINGS: tl.constexpr,
    ORDERS: tl.constexpr,
):
    direction = (tl.program_id(0) // blocks).to(tl.int64)
    ring = tl.program_id(0) % blocks * RINGS + tl.arange(0, RINGS)
    order = tl.arange(0, ORDERS)
    is_ring, is_order = ring < rings, order < orders
    there = is_ring[:, None] & is_order[None, :]
    kappa = tl.load(wavenumber + ring, mask=is_ring, other=0.0)
    real = tl.zeros((RINGS, ORDERS), tl.float32)
    imaginary = tl.zeros((RINGS, ORDERS), tl.float32)
    for bead in range(beads):
        turns = order.to(tl.float32) * tl.load(turn + direction * beads + bead)
        phase = (turns - tl.floor(turns + 0.5)) * TURN
        at = kappa * tl.load(radius + direction * beads + bead) * PER_STEP
        row = at.to(tl.int32)
        place = table + row[:, None] * orders + order[None, :]
        share = tl.load(amplitude + bead * rings + ring, mask=is_ring, other=0.0)
        after = share * (at - row.to(tl.float32))
        bessel = (share - after)[:, None] * tl.load(place, mask=there, other=0.0)
        bessel += after[:, None] * tl.load(place + orders, mask=there, other=0.0)
        real += bessel * tl.cos(phase)[None, :]
        imaginary += bessel * tl.sin(phase)[None, :]
    to = harmonics + (direction * 2 * rings + ring[:, None]) * orders + order[None, :]
    tl.store(to, real, mask=there)
    tl.store(to + rings * orders, imaginary, mask=there)


@triton.jit
def _minima(
    sums,
    power,
    lowest,
    quarter,
    angle_stride,
    directions,
    NORMALISED: tl.constexpr,
    DIRECTIONS: tl.constexpr,
):
    """Find the lowest misfit (images, directions) over all in-plane angles."""
    blocks = tl.cdiv(directions, DIRECTIONS)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    direction = tl.program_id(0) % blocks * DIRECTIONS + tl.arange(0, DIRECTIONS)
    there = direction < directions
    here = image * directions + direction
    part_stride = angle_stride * quarter
    best = tl.full((DIRECTIONS,), float("inf"), tl.float32)
    sign = -1.0 if NORMALISED else 1.0  # the highest cross term has the lowest misfit
    for a in range(quarter):
        at = sums + a * angle_stride + here
        even_c = sign * tl.load(at, mask=there, other=0.0)
        even_s = sign * tl.load(at + part_stride, mask=there, other=0.0)
        odd_c = tl.load(at + 2 * part_stride, mask=there, other=0.0)
        odd_s = tl.load(at + 3 * part_stride, mask=there, other=0.0)
        best = tl.minimum(best, even_c + even_s - tl.abs(odd_c + odd_s))
        best = tl.minimum(best, even_c - even_s - tl.abs(odd_c - odd_s))
    if NORMALISED:
        cross = tl.maximum(-best, 0.0)
        best = -0.5 * cross * cross / tl.load(power + here, mask=there, other=1.0)
    tl.store(lowest + here, best, mask=there)
