"""Fourier coefficients of images: which of them count, and on which shell they are."""

from functools import lru_cache

import torch
from torch import Tensor


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


@lru_cache(maxsize=8)
def inside_circle(box: int, device: torch.device) -> Tensor:
    """Which stored coefficients lie within the Nyquist circle, bool, shape (2K + 1, K + 1)."""
    return _squared_radius(box, device) <= band(box) ** 2


@lru_cache(maxsize=8)
def multiplicity(box: int, device: torch.device) -> Tensor:
    """How often each stored coefficient counts in a sum over the plane: 2, or 1 at kx = 0; 0 outside the circle."""
    kx = torch.arange(band(box) + 1, device=device)
    return inside_circle(box, device) * torch.where(kx == 0, 1.0, 2.0)


@lru_cache(maxsize=8)
def shell_index(box: int, device: torch.device) -> Tensor:
    """Shell of each stored coefficient, its radius rounded, at most K; int64, shape (2K + 1, K + 1)."""
    return _squared_radius(box, device).double().sqrt().round().long().clamp(max=band(box))


def _squared_radius(box: int, device: torch.device) -> Tensor:
    highest = band(box)
    kx = torch.arange(highest + 1, device=device)
    ky = torch.arange(-highest, highest + 1, device=device)
    return kx.square() + ky.square()[:, None]
