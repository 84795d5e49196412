"""Variational latents: each particle has a distribution over latent space instead of a point.

A point fits noise along every latent coordinate, needed or not. A distribution pays for each coordinate along which
it is narrower than the prior, so coordinates that do not help the images are drawn towards the prior and fit less
noise (Kingma & Welling 2014, without an encoder).
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from cryomorph.components import Settings
from cryomorph.latents._distributions import divergence, draw
from cryomorph.latents._rows import RowLatents
from cryomorph.particles.batch import ParticleBatch


class VariationalLatentsSettings(Settings):
    """A normal distribution with its own mean and widths for each particle."""

    kind: Literal["variational"] = "variational"
    start: float = Field(1.0, ge=0, description="standard deviation of the means' random start")
    start_width: float = Field(0.37, gt=0, description="width of every distribution at the start; the prior's is 1")


class VariationalLatents(RowLatents):
    """A table (particles, 2 d): means, then logarithms of the widths.

    While training, z is drawn from the distributions; in evaluation mode it is their mean.
    """

    Settings = VariationalLatentsSettings

    def __init__(self, settings: VariationalLatentsSettings, blocks: Mapping[str, slice], particles: int) -> None:
        super().__init__(blocks, particles, numbers=2)
        self.settings = settings
        with torch.no_grad():
            nn.init.normal_(self.table.weight[:, : self.latent_dim], std=settings.start)
            self.table.weight[:, self.latent_dim :] = torch.tensor(settings.start_width).log()

    def encode(self, batch: ParticleBatch) -> tuple[Tensor, Tensor]:
        """Return a draw from each particle's distribution, or its mean in evaluation mode, and the divergence."""
        mean, log_width = self.rows(batch).chunk(2, dim=-1)
        z = draw(mean, log_width) if self.training else mean
        return z, divergence(mean, log_width)
