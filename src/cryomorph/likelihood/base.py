"""The seam of likelihoods: how badly a conformation at a pose explains an image, in units of the noise."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from cryomorph.components import Settings
from cryomorph.particles.batch import ParticleBatch
from cryomorph.structure.beads import Beads


class Likelihood(nn.Module, ABC):
    """Gaussian misfit of images and projected beads, relative to an empty image.

    `½‖y - s h * v‖² - ½‖y‖²` with the noise variance as unit: the constant that no conformation changes is left out,
    so that 0 is the score of an empty image and the negative misfit counts the nats by which the particle explains it
    better.

    The gain `s` takes the beads' arbitrary unit of scattering to the unit of the normalised images. There is one for
    each optics group, estimated from the data in closed form: the two sums that determine it are gathered while the
    misfit is computed, and `update_gain` puts their quotient in place.

    Parameters
    ----------
    groups
        Number of optics groups.

    Attributes
    ----------
    gain, cross_sum, power_sum : Tensor (groups,)
        The gain, and the sums gathered since it was last updated.
    """

    Settings: ClassVar[type[Settings]]
    gain: Tensor
    cross_sum: Tensor
    power_sum: Tensor

    def __init__(self, groups: int) -> None:
        super().__init__()
        for name, start in (("gain", 1.0), ("cross_sum", 0.0), ("power_sum", 0.0)):
            self.register_buffer(name, torch.full((groups,), start, dtype=torch.float64))

    @abstractmethod
    def terms(self, beads: Beads, rotation: Tensor, shift: Tensor, batch: ParticleBatch) -> tuple[Tensor, Tensor]:
        """Return the two inner products that the misfit consists of, in units of the noise variance.

        Parameters
        ----------
        beads
            Of b conformations, in the map frame.
        rotation, shift
            One pose for each, shapes (b, 3, 3) and (b, 2) Å.
        batch
            The b images and their optics.

        Returns
        -------
        cross, model_power : Tensor (b,)
            `⟨y, h * v⟩` and `‖h * v‖²`, at gain 1.
        """

    def forward(self, beads: Beads, rotation: Tensor, shift: Tensor, batch: ParticleBatch) -> Tensor:
        """Return the misfit of each image at the current gain, shape (b,)."""
        cross, model_power = self.terms(beads, rotation, shift, batch)
        with torch.no_grad():
            self.cross_sum.index_add_(0, batch.optics_group, cross.double())
            self.power_sum.index_add_(0, batch.optics_group, model_power.double())
        gain = self.gain[batch.optics_group].to(cross.dtype)
        return 0.5 * gain.square() * model_power - gain * cross

    def update_gain(self) -> None:
        """Set the gain of each optics group to its least-squares value over the images seen since the last call.

        A group of which no image was seen takes that of all groups together. A gain is not negative: such a group
        counts for nothing until it correlates again. Across processes the caller adds up the sums first.
        """
        seen = self.power_sum > 0
        if seen.any():
            self.gain.fill_(self.cross_sum.sum() / self.power_sum.sum())
            self.gain[seen] = self.cross_sum[seen] / self.power_sum[seen]
            self.gain.clamp_(min=0.0)
        self.cross_sum.zero_()
        self.power_sum.zero_()
