"""Decoders of a given form: latents stand for coordinates in Å, of which the particles' mean and spread are learned."""

from abc import abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cryomorph.conformations.base import ConformationModel
from cryomorph.structure.model import Template

START = 0.3
"""Å that all coordinates together move the residues at the start at most, root mean square."""
REACH = 20.0
"""Å by which the centre of a soft coordinate moves per unit of its parameter.

Networks learn with steps of some 1e-3: in a few hundred of them this takes a centre through a large motion.
"""
GROWTH = 4.0
"""Powers of e by which a width changes per unit of its parameter: slowly, or widths collapse before centres arrive."""
STEPS = 100
"""Of L-BFGS at most, to the coordinates of given conformations; coordinates are lengths, so that few are needed."""


class Spread(nn.Module):
    """Coordinates `s (centre + width z)` of latents z whose prior is a standard normal distribution.

    When the template is far from the molecule in the images, the way there is the same for all particles: a centre
    that they share is learned from all of them. The widths are those of the prior: coordinates that images do not need
    become narrow (empirical Bayes).

    Parameters
    ----------
    softness : array (d,)
        s: how far coordinates are expected to move relative to each other.
    adapt
        Learn centres and widths. Without, latents are the coordinates themselves.
    """

    softness: Tensor

    def __init__(self, softness: NDArray[np.float64], adapt: bool) -> None:
        super().__init__()
        self.adapt = adapt
        self.register_buffer("softness", torch.from_numpy(softness).float())
        self.start = START / float(np.linalg.norm(softness))
        self.centre = nn.Parameter(torch.zeros(len(softness)), requires_grad=adapt)
        self.log_width = nn.Parameter(torch.zeros(len(softness)), requires_grad=adapt)

    def forward(self, z: Tensor) -> Tensor:
        """Return coordinates in Å for latents, both of shape (b, d)."""
        z = z.to(self.centre.dtype)
        if not self.adapt:
            return z
        width = self.start * (GROWTH * self.log_width).exp()
        coordinates: Tensor = self.softness * (REACH * self.centre + width * z)
        return coordinates

    @torch.no_grad()
    def follow(self, coordinates: Tensor) -> Tensor:
        """Centre on coordinates (k, d) in Å and become as wide as they are; returns their latents (k, d)."""
        if not self.adapt:
            return coordinates
        middle = coordinates.mean(0)
        away = (coordinates - middle) / self.softness
        width = away.square().mean(0).sqrt().clamp(min=self.start)
        self.centre.copy_(middle / (REACH * self.softness))
        self.log_width.copy_((width / self.start).log() / GROWTH)
        return away / width


class Motions(ConformationModel):
    """A decoder that is a sum or product of given motions.

    Parameters
    ----------
    template
        At rest.
    softness : array (d,)
        Of the coordinates, as in `Spread`.
    adapt
        As in `Spread`.
    """

    def __init__(self, template: Template, softness: NDArray[np.float64], adapt: bool) -> None:
        super().__init__(template, len(softness))
        self.spread = Spread(softness, adapt)

    @abstractmethod
    def move(self, coordinates: Tensor) -> Tensor:
        """Return Δ in Å, shape (b, n, 3), for coordinates in Å, shape (b, d)."""

    def displacement(self, z: Tensor) -> Tensor:
        """Return Δ in Å, shape (b, n, 3)."""
        with torch.autocast(z.device.type, enabled=False):  # a displacement of 10 Å must not be rounded
            return self.move(self.spread(z))

    def follow(self, x: Tensor) -> Tensor:
        """Return latents (k, d) of the motions that come nearest to conformations x, about which they are centred."""
        coordinates = x.new_zeros(len(x), self.latent_dim, requires_grad=True)
        optimizer = torch.optim.LBFGS([coordinates], max_iter=STEPS, line_search_fn="strong_wolfe")
        wanted = x - self.template

        def error() -> Tensor:
            off = (self.move(coordinates) - wanted).square().sum(-1).mean(1).sum()
            (coordinates.grad,) = torch.autograd.grad(off, coordinates)
            return off

        with torch.enable_grad():
            optimizer.step(error)  # type: ignore[no-untyped-call]
        return self.spread.follow(coordinates.detach())
