"""What latents of a fixed decoder stand for: coordinates in Å, of which the particles' mean and spread are learned."""

import torch
from torch import Tensor, nn

START = 0.3
"""Å that all coordinates together move the residues at the start, root mean square."""
REACH = 10.0
"""Å by which a centre moves, and powers of e by which a width changes, per unit of their parameters.

Networks learn with steps of some 1e-3: this takes a centre through a large motion in some hundred steps.
"""


class Spread(nn.Module):
    """Coordinates `centre + width z` of latents z whose prior is a standard normal distribution.

    When the template is far from the molecule in the images, the way there is the same for all particles: a centre
    that they share is learned from all of them. The widths are those of the prior: coordinates that images do not need
    become narrow (empirical Bayes).

    Parameters
    ----------
    size
        Number of coordinates.
    adapt
        Learn centres and widths. Without, latents are the coordinates themselves.
    """

    def __init__(self, size: int, adapt: bool) -> None:
        super().__init__()
        self.adapt = adapt
        self.start = START / size**0.5
        self.centre = nn.Parameter(torch.zeros(size), requires_grad=adapt)
        self.log_width = nn.Parameter(torch.zeros(size), requires_grad=adapt)

    def forward(self, z: Tensor) -> Tensor:
        """Return coordinates in Å for latents, both of shape (b, size)."""
        z = z.to(self.centre.dtype)
        if not self.adapt:
            return z
        width = self.start * (REACH * self.log_width).exp()
        coordinates: Tensor = REACH * self.centre + width * z
        return coordinates
