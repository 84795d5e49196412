"""The misfit as papers write it: Gaussians drawn pixel by pixel on the whole box, CTF by FFT, residual of images."""

from collections.abc import Callable
from math import pi

import torch
from torch import Tensor

from cryomorph.geometry import project
from cryomorph.optics import ctf
from cryomorph.particles.batch import ParticleBatch
from cryomorph.structure.beads import Beads

Drawing = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]


def dense(points: Tensor, amplitude: Tensor, width: Tensor, pixel_size: Tensor, box: int) -> Tensor:
    """Draw every bead at every pixel, equation 1 of paper A to the letter.

    Parameters
    ----------
    points
        Positions (x, y) in Å from pixel `D // 2`, shape (b, B, 2).
    amplitude, width
        Of the beads: integral and standard deviation in Å, shape (B,).
    pixel_size
        Å, shape (b,).
    box
        Image size D in pixels.

    Returns
    -------
    Tensor (b, D, D)
    """
    from_x, from_y = _offsets(points, pixel_size, box)
    squared = from_x.square()[:, :, None, :] + from_y.square()[:, :, :, None]
    height = (amplitude / (2 * pi * width.square()))[:, None, None]
    return (height * torch.exp(-squared / (2 * width.square())[:, None, None])).sum(1)


def separable(points: Tensor, amplitude: Tensor, width: Tensor, pixel_size: Tensor, box: int) -> Tensor:
    """Draw the same as a matrix product of profiles along x and along y, as CryoSTAR does."""
    twice = (2 * width.square())[:, None]
    across, along = (torch.exp(-offset.square() / twice) for offset in _offsets(points, pixel_size, box))
    height = (amplitude / (2 * pi * width.square()))[:, None]
    return along.transpose(1, 2) @ (height * across)


def _offsets(points: Tensor, pixel_size: Tensor, box: int) -> tuple[Tensor, Tensor]:
    """Return distances in Å of beads from columns and from rows, shape (b, B, D) each."""
    grid = (torch.arange(box, device=points.device) - box // 2) * pixel_size[:, None, None]
    return grid - points[..., :1], grid - points[..., 1:]


def rendered_misfit(draw: Drawing) -> Callable[[Beads, Tensor, Tensor, ParticleBatch], Tensor]:
    """Return `½‖y - h * v‖² - ½‖y‖²` of each image, shape (b,), at gain 1, called as a likelihood is."""

    def misfit(beads: Beads, rotation: Tensor, shift: Tensor, batch: ParticleBatch) -> Tensor:
        assert batch.image is not None
        box = batch.image.shape[-1]
        image = draw(project(beads.positions, rotation, shift), beads.amplitude, beads.width, batch.pixel_size, box)
        step = 1 / batch.pixel_size[:, None, None]
        frequency_x = torch.fft.rfftfreq(box, device=image.device) * step
        frequency_y = torch.fft.fftfreq(box, device=image.device)[:, None] * step
        seen = torch.fft.irfft2(torch.fft.rfft2(image) * ctf(frequency_x, frequency_y, batch.ctf), s=(box, box))
        return 0.5 * ((batch.image - seen).square() - batch.image.square()).sum((1, 2))

    return misfit
