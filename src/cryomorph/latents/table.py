"""Autodecoder latents (paper A): one row per particle, found by optimisation like the weights."""

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from cryomorph.components import Settings
from cryomorph.latents._rows import RowLatents
from cryomorph.particles.batch import ParticleBatch


class TableLatentsSettings(Settings):
    """One point of latent space for each particle."""

    kind: Literal["table"] = "table"
    start: float = Field(1.0, ge=0, description="standard deviation of the random start")


class TableLatents(RowLatents):
    """A table (particles, d) of points, the maximum of the posterior under a standard normal prior."""

    Settings = TableLatentsSettings

    def __init__(self, settings: TableLatentsSettings, latent_dim: int, particles: int) -> None:
        super().__init__(latent_dim, particles, columns=latent_dim)
        self.settings = settings
        nn.init.normal_(self.table.weight, std=settings.start)

    def forward(self, batch: ParticleBatch) -> Tensor:
        """Return the points of the batch, shape (b, d)."""
        return self.rows(batch)

    def cost(self, batch: ParticleBatch) -> Tensor:
        """Return `½‖z‖²` of each particle, shape (b,)."""
        return 0.5 * self.rows(batch).square().sum(-1)
