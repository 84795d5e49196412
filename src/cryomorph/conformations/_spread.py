"""What latents of a fixed decoder stand for: coordinates in Å, of which the particles' mean and spread are learned."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

START = 0.3
"""Å that all coordinates together move the residues at the start, root mean square."""
REACH = 20.0
"""Å by which the centre of a soft coordinate moves per unit of its parameter.

Networks learn with steps of some 1e-3: in a few hundred of them this takes a centre through a large motion.
"""
GROWTH = 4.0
"""Powers of e by which a width changes per unit of its parameter: slowly, or widths collapse before centres arrive."""


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
