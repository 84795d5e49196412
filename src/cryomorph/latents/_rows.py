"""What latents kept in a table share."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

from cryomorph.latents.base import Latents
from cryomorph.particles.batch import ParticleBatch
from cryomorph.rows import RowTable


class RowLatents(Latents):
    """One row for each particle; a step moves those of its batch and no others.

    Parameters
    ----------
    blocks
        Names and slices of the latent coordinates.
    particles
        Number of rows.
    numbers
        Kept for each latent coordinate.
    """

    def __init__(self, blocks: Mapping[str, slice], particles: int, numbers: int) -> None:
        super().__init__(blocks, particles)
        self.table = RowTable(particles, numbers * self.latent_dim)

    def rows(self, batch: ParticleBatch) -> Tensor:
        """Return the rows of a batch, shape (b, numbers · d)."""
        found: Tensor = self.table(batch.index)
        return found

    def optimizer(self, learning_rate: float, shared_learning_rate: float) -> Optimizer:
        """Return Adam with moments and step counts for each row."""
        return self.table.optimizer(learning_rate)

    def gather(self, optimizer: Optimizer, owned: Tensor, add_up: Callable[..., None]) -> None:
        """Make every row, and the optimiser's state of it, that of the process that owns the particle."""
        self.table.gather(optimizer, owned, add_up)

    @torch.no_grad()
    def place(self, optimizer: Optimizer, rows: Tensor, z: Tensor) -> None:
        """Put particles at z; what else a row holds stays."""
        others = self.table.weight[rows, self.latent_dim :].clone()
        self.table.restart(optimizer, rows)
        self.table.weight[rows] = torch.cat([z, others], dim=1)
