"""The seam of pose sources."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from cryomorph.components import Settings
from cryomorph.likelihood.base import Likelihood
from cryomorph.particles.batch import ParticleBatch
from cryomorph.structure.beads import Beads


@dataclass(frozen=True)
class PoseMeasure:
    """A discrete probability measure over poses for each of b particles; a known pose is one atom of weight 1.

    Attributes
    ----------
    rotation
        Map frame to image frame, shape (b, s, 3, 3).
    shift
        Displacement in the image in Å, shape (b, s, 2).
    weight
        Non-negative, summing to one over s, shape (b, s).
    """

    rotation: Tensor
    shift: Tensor
    weight: Tensor


class PoseSource(nn.Module, ABC):
    """Gives every particle of a batch its measure over poses."""

    Settings: ClassVar[type[Settings]]

    @abstractmethod
    def forward(self, batch: ParticleBatch, beads: Beads, likelihood: Likelihood) -> PoseMeasure:
        """Return the pose measure of each particle, given its current conformation and the likelihood."""
