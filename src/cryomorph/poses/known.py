"""Poses as the particle file gives them."""

from typing import Literal

from cryomorph.components import Settings
from cryomorph.likelihood.base import Likelihood
from cryomorph.particles.batch import ParticleBatch
from cryomorph.poses.base import PoseMeasure, PoseSource
from cryomorph.structure.beads import Beads


class KnownPosesSettings(Settings):
    """Poses of the consensus refinement, taken as they are."""

    kind: Literal["known"] = "known"


class KnownPoses(PoseSource):
    """One pose of weight 1 for each particle: the one in its star or cs file."""

    Settings = KnownPosesSettings
    needs_poses = True
    finds = False

    def forward(self, batch: ParticleBatch, beads: Beads, likelihood: Likelihood) -> PoseMeasure:
        """Return the poses of the batch."""
        return PoseMeasure.single(*self.best(batch))
