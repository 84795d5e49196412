"""Poses as the particle file gives them."""

from typing import Literal

import torch

from cryomorph.components import Settings
from cryomorph.errors import InputError
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

    def __init__(self, settings: KnownPosesSettings) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, batch: ParticleBatch, beads: Beads, likelihood: Likelihood) -> PoseMeasure:
        """Return the poses of the batch.

        Raises
        ------
        InputError
            If the particles came without poses.
        """
        if batch.rotation is None:
            raise InputError(
                "the particles have no poses (rlnAngleRot, rlnAngleTilt, rlnAnglePsi or alignments3D/pose)"
            )
        weight = torch.ones(len(batch), 1, dtype=batch.rotation.dtype, device=batch.rotation.device)
        return PoseMeasure(batch.rotation[:, None], batch.shift[:, None], weight)
