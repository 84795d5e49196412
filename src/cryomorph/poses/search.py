"""Poses found by searching all of them, together with conformations, and corrected by gradient in between."""

from collections.abc import Callable, Iterable
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from cryomorph.likelihood.base import Likelihood
from cryomorph.particles.batch import ParticleBatch
from cryomorph.poses._corrections import CorrectionSettings, PoseCorrections
from cryomorph.poses.base import PoseMeasure, PoseSource, among_all_rotations
from cryomorph.structure.beads import Beads


class SearchedPosesSettings(CorrectionSettings):
    """Poses unknown: they are found by `cryomorph.search`, whose settings stand under `search`."""

    kind: Literal["search"] = "search"


class SearchedPoses(PoseSource):
    """One pose of weight 1 for each particle: the one that the newest search found and a correction of its own.

    Attributes
    ----------
    rotation, shift : Tensor (particles, 3, 3), (particles, 2)
        Poses as found.
    uncertainty : Tensor (particles,)
        Entropy in nats of the posterior over all poses and conformations that were compared when training was complete.
    """

    Settings = SearchedPosesSettings
    searched: ClassVar[bool] = True
    rotation: Tensor
    shift: Tensor
    uncertainty: Tensor

    def __init__(self, settings: SearchedPosesSettings, particles: int) -> None:
        super().__init__(settings, particles)
        self.corrections = PoseCorrections(settings, particles)
        self.register_buffer("rotation", torch.eye(3).repeat(particles, 1, 1))
        self.register_buffer("shift", torch.zeros(particles, 2))
        self.register_buffer("uncertainty", torch.zeros(particles))

    def forward(self, batch: ParticleBatch, beads: Beads, likelihood: Likelihood) -> PoseMeasure:
        """Return the corrected poses of the batch."""
        return PoseMeasure.single(*self.best(batch))

    def best(self, batch: ParticleBatch) -> tuple[Tensor, Tensor]:
        """Return the corrected poses of the batch."""
        rotation, shift = self.rotation[batch.index], self.shift[batch.index]
        corrected: tuple[Tensor, Tensor] = self.corrections(batch.index, rotation, shift)
        return corrected

    def entropy(self, batch: ParticleBatch) -> Tensor:
        """Return how unsure the pose and conformation of each particle are, in nats, shape (b,)."""
        return self.uncertainty[batch.index]

    def remember(self, entropy: NDArray[np.float32]) -> None:
        """Take over the entropy of all particles, shape (particles,)."""
        self.uncertainty.copy_(torch.from_numpy(entropy))

    @torch.no_grad()
    def replace(self, rows: Tensor, rotation: Tensor, shift: Tensor, optimizer: Optimizer) -> None:
        """Take other poses (k, 3, 3) and (k, 2) Å for particles `rows` (k,); their corrections begin at zero."""
        self.rotation[rows], self.shift[rows] = rotation.to(self.rotation), shift.to(self.shift)
        self.corrections.restart(optimizer, rows)

    def cost(self, batch: ParticleBatch) -> Tensor:
        """Return what the corrections cost under a normal prior of the expected spreads, in nats, shape (b,)."""
        return self.corrections.cost(batch.index)

    def spread(self, batch: ParticleBatch) -> Tensor:
        """Return the spreads that are expected of corrections; see the base class."""
        return self.corrections.spread(batch.shift)

    def offset(self, batch: ParticleBatch) -> Tensor:
        """Return the corrections; see the base class."""
        correction: Tensor = self.corrections.table(batch.index)
        return correction

    def choices(self) -> float:
        """Return the nats of luck that all rotations are worth; see the base class."""
        return among_all_rotations(self.corrections.spread(self.shift)[0].item())

    def optimizer(self) -> Optimizer:
        """Return Adam with moments and step counts for each particle."""
        return self.corrections.optimizer()

    def end_of_epoch(self, own: Iterable[ParticleBatch], add_up: Callable[..., None]) -> None:
        """Take out what a motion of the molecule, common to all particles, would do as well."""
        self.corrections.remove_common(((batch.index, self.rotation[batch.index]) for batch in own), add_up)

    @torch.no_grad()
    def gather(self, optimizer: Optimizer | None, owned: Tensor, add_up: Callable[..., None]) -> None:
        """Make every pose that of the process that owns the particle."""
        for table in (self.rotation, self.shift, self.uncertainty):
            table.mul_(owned.to(table).view(-1, *[1] * (table.ndim - 1)))
            add_up(table)
        if optimizer is not None:
            self.corrections.gather(optimizer, owned, add_up)
