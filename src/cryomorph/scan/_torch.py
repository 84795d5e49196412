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
        row = x.long()
        bessel = torch.lerp(table[row], table[row + 1], (x - row)[..., None])
        harmonics[part] = torch.einsum("bk,dbkm,dcbm->dckm", amplitude, bessel, waves[part])
    return harmonics


def cubic(u: Tensor) -> Tensor:
    """Weights (4, ...) of the points at -1, 0, 1 and 2 in the cubic through them, at u between 0 and 1."""
    before, after = (u + 1) * u, (u - 1) * (u - 2)
    return torch.stack([-u * after / 6, (u + 1) * after / 2, -before * (u - 2) / 2, before * (u - 1) / 6])


def look_up(circles: Tensor, at: Tensor, turn: Tensor, share: Tensor, kind: Tensor, angles: int) -> Tensor:
    """Sum up an image under beads at all in-plane angles; see `cryomorph.scan.kernels.Kernels`."""
    fine = circles.shape[2]
    circle, place = at.floor(), turn.floor()
    radial, around = share * cubic(at - circle), cubic(turn - place)  # (4, directions, B)
    column = torch.arange(angles, device=at.device)
    total = at.new_zeros(len(at), angles)
    for i in range(4):
        for j in range(4):
            number = (place.long() + (j - 1)) % (angles * fine)
            first = torch.div(number, fine, rounding_mode="floor")
            parts = torch.arange(len(at)).split(max(AT_ONCE // (at.shape[1] * angles), 1))  # type: ignore[no-untyped-call]
            for part in parts:
                row = kind, circle[part].long() + (i - 1), number[part] % fine
                values = circles[(*(index[..., None] for index in row), first[part][..., None] + column)]
                total[part] += torch.einsum("db,dba->da", (radial[i] * around[j])[part], values)
    return total


def keep_lowest(sums: Tensor, power: Tensor | None, values: Tensor, codes: Tensor, angles: int, first: int) -> None:
    """Keep the lowest misfits; see `cryomorph.scan.kernels.Kernels`."""
    found, turned = every_angle(sums, angles)
    if power is not None:
        found = normalised(found, power)
    images, directions = found.shape[1:]
    code = (first + angles * torch.arange(directions, device=turned.device) + turned[:, None]).flatten()
    merge(found.permute(1, 0, 2).reshape(images, -1), code.expand(images, -1), values, codes)


def every_angle(sums: Tensor, angles: int) -> tuple[Tensor, Tensor]:
    """Unfold sums (2, 2, quarter, b, n) to values at all angles (angles, b, n); which they are, (angles,)."""
    (even_c, even_s), (odd_c, odd_s) = sums
    a = torch.arange(len(even_c), device=sums.device)
    other = (a > 0) & (4 * a < angles)  # from their mirror images
    even, odd = torch.cat([even_c + even_s, even_c[other] - even_s[other]]), odd_c + odd_s
    odd = torch.cat([odd, odd_c[other] - odd_s[other]])
    turned = torch.cat([a, angles - a[other]])
    return torch.cat([even + odd, even - odd]), torch.cat([turned, (turned + angles // 2) % angles])


def normalised(cross: Tensor, power: Tensor) -> Tensor:
    """Misfit at the best scale."""
    return -0.5 * cross.clamp(min=0).square() / power


def merge(found: Tensor, code: Tensor, values: Tensor, codes: Tensor) -> None:
    """Merge values found (b, n) into the lowest so far (b, k)."""
    count = min(values.shape[1], found.shape[1])
    lowest, place = found.topk(count, dim=1, largest=False)
    merged, order = torch.cat([values, lowest], dim=1).sort(dim=1, stable=True)
    every = torch.cat([codes, code.gather(1, place)], dim=1).gather(1, order)
    values.copy_(merged[:, : values.shape[1]])
    codes.copy_(every[:, : codes.shape[1]])
