"""The reference likelihood: beads rendered in Fourier space on the full box, CTF, residual. Plain PyTorch."""

from typing import Literal

import torch
from torch import Tensor

from cryomorph.fourier import band, image_coefficients
from cryomorph.geometry import project
from cryomorph.likelihood.base import Likelihood, LikelihoodSettings
from cryomorph.particles.batch import ParticleBatch
from cryomorph.structure.beads import Beads


class DirectSettings(LikelihoodSettings):
    """Every image and every projection in full, coefficient by coefficient."""

    kind: Literal["direct"] = "direct"


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


class Direct(Likelihood):
    """Residual over all Fourier coefficients within the Nyquist circle, of noise that is white or calibrated."""

    Settings = DirectSettings

    def terms(self, beads: Beads, rotation: Tensor, shift: Tensor, batch: ParticleBatch) -> tuple[Tensor, Tensor]:
        """Return `⟨y, h * v⟩` and `‖h * v‖²` of each image; see the base class."""
        if batch.image is None:
            raise ValueError("a likelihood needs the images of the batch")
        box = batch.image.shape[-1]
        observed = image_coefficients(batch.image)
        points = project(beads.positions, rotation, shift)
        model = projection_coefficients(points, beads.amplitude, beads.width, batch.pixel_size, box)
        weight, transfer = self.weight(batch, box), self.transfer(batch, box)
        matched = observed * (weight * transfer)
        cross = (matched.real * model.real + matched.imag * model.imag).sum((1, 2))
        model_power = (weight * transfer.square() * (model.real.square() + model.imag.square())).sum((1, 2))
        return cross, model_power
