"""Fourier coefficients of projected beads by way of a grid: O(beads + N² log N) instead of O(beads N²)."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from cryomorph.gridding.box import BoxGrid
from cryomorph.gridding.footprints import Footprints
from cryomorph.gridding.transfer import transfer

SAMPLES_AT_ONCE = 2**20
"""Samples of grids that are transformed at a time on a CPU: they stay in its cache."""


def bead_coefficients(points: Tensor, amplitude: Tensor, width: Tensor, pixel_size: Tensor, box: int) -> Tensor:
    """Fourier coefficients of projected Gaussian beads, to the accuracy of single precision; without gradients.

    The same as `cryomorph.likelihood.direct.projection_coefficients`.

    Parameters
    ----------
    points
        Positions (x, y) in Å from the image origin, shape (b, B, 2), float32.
    amplitude, width
        Of the beads: integral and standard deviation in Å, shape (B,).
    pixel_size
        Å, shape (b,).
    box
        Image size D in pixels.

    Returns
    -------
    Tensor (b, 2K + 1, K + 1), complex64
        NaN throughout where a position is not finite.
    """
    grid, sizes = BoxGrid(box), torch.unique(pixel_size)  # sorted
    arrays = (values.detach().float().cpu().numpy().tobytes() for values in (sizes, width))
    footprints = _footprints(box, *arrays).to(width.device)
    step_index = torch.searchsorted(sizes, pixel_size)
    # About the middle of the grid few footprints are cut by its edge; that turns the sign of every other coefficient.
    at = points / grid.step(pixel_size)[:, None, None] + grid.size // 2
    sign = 1 - 2 * (torch.arange(grid.highest + 1, device=points.device) % 2)
    damping = grid.damping(sizes, footprints.reference) * sign
    both = torch.cat([damping[:, 1:].flip(1), damping], dim=1)
    factor = both[:, :, None] * damping[:, None]  # of each pixel size, of which there are few
    rows = torch.arange(-grid.highest, grid.highest + 1, device=points.device) % grid.size
    spread, images = transfer("auto", points.device).spread, len(points)
    at_once = max(SAMPLES_AT_ONCE // grid.size**2, 1) if points.device.type == "cpu" else max(images, 1)
    result = torch.empty((images, 2 * grid.highest + 1, grid.highest + 1), dtype=torch.complex64, device=points.device)
    for start in range(0, images, at_once):
        part = slice(start, start + at_once)
        spectrum = torch.fft.rfft2(spread(at[part], amplitude, footprints, step_index[part], grid.size))
        own = factor if len(sizes) == 1 else factor[step_index[part]]
        torch.mul(spectrum[:, rows, : grid.highest + 1], own, out=result[part])
    return result


@lru_cache(maxsize=8)
def _footprints(box: int, pixel_sizes: bytes, widths: bytes) -> Footprints:
    """Footprints of beads, given pixel sizes and widths as the bytes of arrays of single precision."""
    grid = BoxGrid(box)
    steps = grid.step(torch.from_numpy(np.frombuffer(pixel_sizes, np.float32).astype(np.float64)))
    return Footprints.make(np.frombuffer(widths, np.float32).astype(np.float64), steps.numpy(), grid.oversampling)
