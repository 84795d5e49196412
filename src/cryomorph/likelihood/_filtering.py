"""How matched-filtered images get onto the grid on which they are kept."""

import torch
from torch import Tensor

from cryomorph.fourier import image_coefficients
from cryomorph.gridding.box import BoxGrid
from cryomorph.gridding.rows import Rows
from cryomorph.likelihood.base import Likelihood
from cryomorph.particles.batch import ParticleBatch


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
