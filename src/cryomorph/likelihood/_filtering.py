"""The grid on which matched-filtered images are kept, and how they get there."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.fft
import torch
from torch import Tensor

from cryomorph.fourier import band, image_coefficients
from cryomorph.gridding.footprints import kernel_transform
from cryomorph.gridding.rows import Rows
from cryomorph.likelihood.base import Likelihood
from cryomorph.particles.batch import ParticleBatch

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


def filtered_windows(likelihood: Likelihood, batch: ParticleBatch, rows: Rows, reference: float) -> Tensor:
    """Matched-filtered images on the samples that `rows` keeps, each centred on its particle.

    Sample p holds `Σ_k y*(k) h(k) G(k) exp(-2πi k·p)`, the sum that turns into `⟨y, h * v⟩` when it is collected
    under the footprints of beads at p.

    Parameters
    ----------
    likelihood
        Weights and transfer of the coefficients.
    batch
        With images; the particle of each is `batch.shift` away from the image's origin.
    rows
        Samples of the `BoxGrid` of the images.
    reference
        σ in Å of the narrowest bead.

    Returns
    -------
    Tensor (b, samples)
    """
    if batch.image is None:
        raise ValueError("a likelihood needs the images of the batch")
    grid = BoxGrid(batch.image.shape[-1])
    damping = grid.damping(batch.pixel_size, reference)
    weight = likelihood.weight(batch, grid.box).clone()
    weight[..., 1:] *= 0.5  # the inverse transform counts both halves of the plane
    filtered = image_coefficients(batch.image) * (weight * likelihood.transfer(batch, grid.box))
    filtered = filtered * _both_halves(damping)[:, :, None] * damping[:, None]
    index = torch.arange(-grid.highest, grid.highest + 1, device=damping.device)
    turns = batch.shift[..., None] * index / (grid.box * batch.pixel_size)[:, None, None]  # (b, 2, 2K + 1)
    wave = torch.polar(torch.ones_like(turns), 2 * torch.pi * (turns - turns.round()))
    filtered = filtered * wave[:, 1, :, None] * wave[:, 0, None, grid.highest :]
    spectrum = filtered.new_zeros(len(damping), grid.size, grid.size // 2 + 1)
    spectrum[:, index % grid.size, : grid.highest + 1] = filtered
    samples: Tensor = torch.fft.irfft2(spectrum, s=(grid.size, grid.size), norm="forward")
    places = rows.places()
    centred = (places // rows.size - rows.size // 2) % rows.size * rows.size
    centred += (places % rows.size - rows.size // 2) % rows.size
    return samples.flatten(1)[:, centred]


def _both_halves(values: Tensor) -> Tensor:
    """Values (b, K + 1) at indices 0..K of an even function, at -K..K."""
    return torch.cat([values[:, 1:].flip(1), values], dim=1)
