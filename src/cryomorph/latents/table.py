"""Autodecoder latents (paper A): one row per particle, found by optimisation like the weights."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from cryomorph.components import Settings
from cryomorph.latents._distributions import point_cost
from cryomorph.latents._rows import RowLatents
from cryomorph.particles.batch import ParticleBatch


class TableLatentsSettings(Settings):
    """One point of latent space for each particle."""

    kind: Literal["table"] = "table"
    start: float = Field(1.0, ge=0, description="standard deviation of the random start")


class TableLatents(RowLatents):
    """A table (particles, d) of points, the maximum of the posterior under a standard normal prior."""

    Settings = TableLatentsSettings

    def __init__(self, settings: TableLatentsSettings, blocks: Mapping[str, slice], particles: int) -> None:
        super().__init__(blocks, particles, numbers=1)
        self.settings = settings
        nn.init.normal_(self.table.weight, std=settings.start)

    def encode(self, batch: ParticleBatch) -> tuple[Tensor, Tensor]:
        """Return the points of the batch, shape (b, d), and their cost, shape (b,)."""
        z = self.rows(batch)
        return z, point_cost(z)
