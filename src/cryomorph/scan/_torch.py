"""Kernels of a scan in plain PyTorch: work anywhere, and are the reference of the others."""

import torch
from torch import Tensor

from cryomorph.scan.rings import TABLE_STEP

AT_ONCE = 2**22
"""Numbers of a temporary tensor."""


def project(radius: Tensor, angle: Tensor, amplitude: Tensor, wavenumber: Tensor, table: Tensor) -> Tensor:
    """Harmonics of projected beads; see `cryomorph.scan.kernels.Kernels`."""
    (directions, beads), (rings, orders) = radius.shape, (len(wavenumber), table.shape[1])
    harmonics = radius.new_empty(directions, 2, rings, orders)
    turns = torch.arange(orders, device=radius.device) * angle[..., None]
    waves = torch.stack([turns.cos(), turns.sin()], dim=1)  # (directions, 2, beads, orders)
    at_once = max(AT_ONCE // (beads * rings * orders), 1)
    for first in range(0, directions, at_once):
        part = slice(first, first + at_once)
        x = radius[part, :, None] * wavenumber / TABLE_STEP
        at = x.long().clamp(min=1)
        u = (x - at)[..., None]
        before, here, after, beyond = (table[at + i] for i in (-1, 0, 1, 2))
        inner = (u + 1) * (u - 2) * ((u - 1) * here - u * after) / 2
        bessel = inner + u * (u - 1) * ((u + 1) * beyond - (u - 2) * before) / 6
        harmonics[part] = torch.einsum("bk,dbkm,dcbm->dckm", amplitude, bessel, waves[part])
    return harmonics


def keep_lowest(even: Tensor, odd: Tensor, power: Tensor | None, values: Tensor, codes: Tensor, first: int) -> None:
    """Keep the lowest misfits; see `cryomorph.scan.kernels.Kernels`."""
    sums = torch.cat([even + odd, even - odd]).permute(1, 2, 0)  # (images, directions, angles)
    if power is not None:
        sums = -0.5 * sums.clamp(min=0).square() / power[..., None]
    new = sums.flatten(1)
    count = min(values.shape[1], new.shape[1])
    lowest, places = new.topk(count, dim=1, largest=False)
    merged, order = torch.cat([values, lowest], dim=1).sort(dim=1, stable=True)
    every = torch.cat([codes, places + first], dim=1).gather(1, order)
    values.copy_(merged[:, : values.shape[1]])
    codes.copy_(every[:, : codes.shape[1]])
