"""The reference likelihood: beads rendered in Fourier space on the full box, CTF, residual. Plain PyTorch."""

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from cryomorph.components import Settings
from cryomorph.geometry import project
from cryomorph.likelihood.base import Likelihood
from cryomorph.optics import ctf
from cryomorph.particles.batch import ParticleBatch
from cryomorph.structure.beads import Beads


class DirectSettings(Settings):
    """Every image and every projection in full, coefficient by coefficient."""

    kind: Literal["direct"] = "direct"


def band(box: int) -> int:
    """Highest Fourier index used along an axis: below Nyquist, so that odd and even boxes are alike."""
    return (box - 1) // 2


def image_coefficients(image: Tensor) -> Tensor:
    """Fourier coefficients of images about their origin, pixel `D // 2`.

    Parameters
    ----------
    image
        Shape (b, D, D), rows are y.

    Returns
    -------
    Tensor (b, 2K + 1, K + 1), complex
        `Σ_q y(q) exp(-2πi (kx x + ky y) / D)`, rows `ky = -K..K`, columns `kx = 0..K`, with `K = band(D)`.
    """
    highest = band(image.shape[-1])
    spectrum: Tensor = torch.fft.rfft2(torch.fft.ifftshift(image, dim=(-2, -1)))
    positive = spectrum[:, : highest + 1, : highest + 1]
    if highest == 0:
        return positive
    return torch.cat([spectrum[:, -highest:, : highest + 1], positive], dim=1)


def projection_coefficients(points: Tensor, amplitude: Tensor, width: Tensor, pixel_size: Tensor, box: int) -> Tensor:
    """Fourier coefficients of projected Gaussian beads (paper A, eq. 1), on the grid of `image_coefficients`.

    A Gaussian is separable, so the sum over beads is a matrix product of factors in x and in y. Cosines and sines at
    non-negative indices suffice for both halves of the plane, in real arithmetic.

    Parameters
    ----------
    points
        Positions (x, y) in Å from the image origin, shape (b, B, 2).
    amplitude, width
        Of the beads: integral and standard deviation in Å, shape (B,).
    pixel_size
        Å, shape (b,).
    box
        Image size D in pixels.

    Returns
    -------
    Tensor (b, 2K + 1, K + 1), complex
    """
    size = band(box) + 1
    frequency = torch.arange(size, device=points.device, dtype=points.dtype) / box
    angular = 2 * torch.pi * frequency / pixel_size[:, None]  # (b, K + 1), rad/Å
    decay = torch.exp(-0.5 * (angular[:, None] * width[:, None]).square())  # (b, B, K + 1)
    factor_x = _waves(points[..., 0], angular, decay * amplitude[:, None])
    factor_y = _waves(points[..., 1], angular, decay)
    products = factor_y.transpose(1, 2) @ factor_x / pixel_size.square()[:, None, None]
    cos_cos, cos_sin = products[:, :size, :size], products[:, :size, size:]
    sin_cos, sin_sin = products[:, size:, :size], products[:, size:, size:]
    upper = torch.complex(cos_cos - sin_sin, -(cos_sin + sin_cos))
    lower = torch.complex(cos_cos + sin_sin, sin_cos - cos_sin)
    return torch.cat([lower[:, 1:].flip(1), upper], dim=1)


def _waves(position: Tensor, angular: Tensor, envelope: Tensor) -> Tensor:
    """Return cosines, then sines, of all beads along one axis, shape (b, B, 2 (K + 1))."""
    phase = position[..., None] * angular[:, None]
    return torch.cat([torch.cos(phase) * envelope, torch.sin(phase) * envelope], dim=-1)


@lru_cache(maxsize=8)
def _multiplicity(box: int, device: torch.device) -> Tensor:
    """How often each stored coefficient counts in a sum over the plane: 2, or 1 at kx = 0; 0 outside the circle."""
    highest = band(box)
    kx = torch.arange(highest + 1, device=device)
    ky = torch.arange(-highest, highest + 1, device=device)
    inside = kx.square() + ky.square()[:, None] <= highest**2
    return inside * torch.where(kx == 0, 1.0, 2.0)


class Direct(Likelihood):
    """White noise of variance 1 per pixel, residual over all Fourier coefficients within the Nyquist circle."""

    Settings = DirectSettings

    def __init__(self, settings: DirectSettings, groups: int) -> None:
        super().__init__(groups)
        self.settings = settings

    def terms(self, beads: Beads, rotation: Tensor, shift: Tensor, batch: ParticleBatch) -> tuple[Tensor, Tensor]:
        """Return `⟨y, h * v⟩` and `‖h * v‖²` of each image; see the base class."""
        if batch.image is None:
            raise ValueError("a likelihood needs the images of the batch")
        box = batch.image.shape[-1]
        observed = image_coefficients(batch.image)
        points = project(beads.positions, rotation, shift)
        model = projection_coefficients(points, beads.amplitude, beads.width, batch.pixel_size, box)
        weight = _multiplicity(box, batch.image.device) / box**2  # Parseval: sums over pixels
        transfer = self._transfer(batch, box)
        matched = observed * (weight * transfer)
        cross = (matched.real * model.real + matched.imag * model.imag).sum((1, 2))
        model_power = (weight * transfer.square() * (model.real.square() + model.imag.square())).sum((1, 2))
        return cross, model_power

    def _transfer(self, batch: ParticleBatch, box: int) -> Tensor:
        highest = band(box)
        step = 1 / (box * batch.pixel_size)[:, None, None]
        frequency_x = torch.arange(highest + 1, device=step.device) * step
        frequency_y = torch.arange(-highest, highest + 1, device=step.device)[:, None] * step
        return ctf(frequency_x, frequency_y, batch.ctf)
