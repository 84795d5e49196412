"""The sums between beads and samples in plain PyTorch: works anywhere, and the reference of the other two."""

import torch
from torch import Tensor

from cryomorph.gridding.footprints import Footprints
from cryomorph.gridding.rows import Rows
from cryomorph.gridding.transfer import FAR


def spread(points: Tensor, amplitude: Tensor, footprints: Footprints, step_index: Tensor, size: int) -> Tensor:
    """Add up footprints; see `cryomorph.gridding.transfer.Transfer`."""
    column, weight_x, _ = _along_axis(points[..., 0], footprints, step_index, size)
    row, weight_y, _ = _along_axis(points[..., 1], footprints, step_index, size)
    values = (amplitude[:, None] * weight_y)[..., :, None] * weight_x[..., None, :]
    places = row[..., :, None] * size + column[..., None, :]
    grid = points.new_zeros(len(points), size * size)
    grid.scatter_add_(1, places.flatten(1), values.flatten(1))
    usable = (points.abs() < FAR).all(2).all(1)
    return grid.masked_fill(~usable[:, None], torch.nan).view(-1, size, size)


def collect(
    samples: Tensor, rows: Rows, points: Tensor, amplitude: Tensor, footprints: Footprints, step_index: Tensor
) -> tuple[Tensor, Tensor]:
    """Sum up samples under footprints; see `cryomorph.gridding.transfer.Transfer`."""
    column, weight_x, slope_x = _along_axis(points[..., 0], footprints, step_index, rows.size)
    row, weight_y, slope_y = _along_axis(points[..., 1], footprints, step_index, rows.size)
    column, row = column[..., None, :], row[..., :, None]
    kept = (column >= rows.first[row]) & (column < rows.last[row])
    places = torch.where(kept, rows.offset[row] + column, 0)
    found = torch.where(kept, samples.gather(1, places.flatten(1)).view(places.shape), 0)
    value = torch.einsum("nbij,nbi,nbj->nb", found, weight_y, weight_x)
    along_x = torch.einsum("nbij,nbi,nbj->nb", found, weight_y, slope_x)
    along_y = torch.einsum("nbij,nbi,nbj->nb", found, slope_y, weight_x)
    return value @ amplitude, torch.stack([along_x, along_y], dim=-1) * amplitude[:, None]


def _along_axis(
    position: Tensor, footprints: Footprints, step_index: Tensor, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return samples (modulo the period), weights and their slopes along one axis, each of shape (b, B, taps)."""
    usable = position.abs() < FAR
    whole = torch.where(usable, position, 0).floor()
    taps = torch.arange(footprints.taps, device=position.device)
    sample = (whole.long()[..., None] - footprints.taps // 2 + 1 + taps) % size
    u = torch.where(usable, position - whole - 0.5, torch.nan)[..., None]
    powers = footprints.table[step_index][:, footprints.bead_class]  # (b, B, degree + 1, taps)
    weight, slope = powers[..., -1, :], torch.zeros_like(powers[..., -1, :])
    for coefficient in powers.unbind(2)[-2::-1]:
        slope = slope * u + weight
        weight = weight * u + coefficient
    return sample, weight, slope
