"""Poses of the particle file, corrected by gradient while the conformations are learned."""

from collections.abc import Callable, Iterable
from typing import Literal

from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from cryomorph.likelihood.base import Likelihood
from cryomorph.particles.batch import ParticleBatch
from cryomorph.poses._corrections import CorrectionSettings, PoseCorrections
from cryomorph.poses.base import PoseMeasure, PoseSource, given_poses
from cryomorph.structure.beads import Beads


class RefinedPosesSettings(CorrectionSettings):
    """Poses of the consensus refinement, corrected."""

    kind: Literal["refine"] = "refine"
    start: float = Field(
        0.3, ge=0, le=1, description="share of the training before corrections are learned: conformations come first"
    )


class RefinedPoses(PoseSource):
    """One pose of weight 1 for each particle: the one in its file and a correction of its own."""

    Settings = RefinedPosesSettings
    settings: RefinedPosesSettings
    needs_poses = True

    def __init__(self, settings: RefinedPosesSettings, particles: int) -> None:
        super().__init__(settings, particles)
        self.corrections = PoseCorrections(settings, particles)

    def forward(self, batch: ParticleBatch, beads: Beads, likelihood: Likelihood) -> PoseMeasure:
        """Return the corrected poses of the batch."""
        return PoseMeasure.single(*(self.best(batch) if self._learning else given_poses(batch)))

    @property
    def _learning(self) -> bool:
        return self.done >= self.settings.start

    def best(self, batch: ParticleBatch) -> tuple[Tensor, Tensor]:
        """Return the corrected poses of the batch."""
        rotation, shift = given_poses(batch)
        corrected: tuple[Tensor, Tensor] = self.corrections(batch.index, rotation, shift)
        return corrected

    def cost(self, batch: ParticleBatch) -> Tensor:
        """Return what the corrections cost under a normal prior of the expected spreads, in nats, shape (b,)."""
        return self.corrections.cost(batch.index) if self._learning else super().cost(batch)

    def spread(self, batch: ParticleBatch) -> Tensor:
        """Return the spreads that are expected of corrections; see the base class."""
        return self.corrections.spread(batch.shift)

    def offset(self, batch: ParticleBatch) -> Tensor:
        """Return the corrections; see the base class."""
        correction: Tensor = self.corrections.table(batch.index)
        return correction

    def optimizer(self) -> Optimizer:
        """Return Adam with moments and step counts for each particle."""
        return self.corrections.optimizer()

    def end_of_epoch(self, own: Iterable[ParticleBatch], add_up: Callable[..., None]) -> None:
        """Take out what a motion of the molecule, common to all particles, would do as well."""
        self.corrections.remove_common(((batch.index, given_poses(batch)[0]) for batch in own), add_up)

    def gather(self, optimizer: Optimizer | None, owned: Tensor, add_up: Callable[..., None]) -> None:
        """Make every correction that of the process that owns the particle."""
        assert optimizer is not None
        self.corrections.gather(optimizer, owned, add_up)
