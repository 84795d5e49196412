"""The grid over the periodic box of images on which beads are spread, and from which their coefficients are read."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.fft
import torch
from torch import Tensor

from cryomorph.fourier import band
from cryomorph.gridding.footprints import kernel_transform

OVERSAMPLING = 1.25
"""How much finer the grid is than the coefficients need, at least."""


@dataclass(frozen=True)
class BoxGrid:
    """A grid over the whole periodic box of the images, finer than their pixels.

    Attributes
    ----------
    box
        D, pixels along an edge of the images.
    """

    box: int

    @property
    def highest(self) -> int:
        """K, highest Fourier index along an axis."""
        return band(self.box)

    @property
    def size(self) -> int:
        """N, samples along an edge: even, fast to transform."""
        wanted = max(int(np.ceil(OVERSAMPLING * self.box)), 32)
        return 2 * int(scipy.fft.next_fast_len(-(-wanted // 2), real=True))

    @property
    def oversampling(self) -> float:
        """How much finer than needed the grid is."""
        return self.size / (2 * max(self.highest, 1))

    def step(self, pixel_size: Tensor) -> Tensor:
        """Å between samples."""
        return pixel_size * (self.box / self.size)

    def damping(self, pixel_size: Tensor, reference: float, *, kernel: bool = True) -> Tensor:
        """Return what a bead's footprint leaves to the coefficients, along one axis, at indices 0..K.

        The Gaussian of the narrowest bead over the pixel size and, with `kernel`, over the gridding kernel's transform.

        Parameters
        ----------
        pixel_size
            Å, shape (b,).
        reference
            σ in Å of the narrowest bead.

        Returns
        -------
        Tensor (b, K + 1)
        """
        frequency = torch.arange(self.highest + 1, device=pixel_size.device) / (self.box * pixel_size[:, None])
        gaussian = torch.exp(-2 * (torch.pi * reference * frequency).square())
        damping = gaussian / pixel_size[:, None]
        if kernel:
            damping = damping / _kernel_transform(self.box, pixel_size.device)
        return damping.to(pixel_size.dtype)


@lru_cache(maxsize=8)
def _kernel_transform(box: int, device: torch.device) -> Tensor:
    grid = BoxGrid(box)
    values = kernel_transform(np.arange(grid.highest + 1) / grid.size, grid.oversampling)
    return torch.from_numpy(values).to(device)
