"""The seam of likelihoods: how badly a conformation at a pose explains an image, in units of the noise."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from cryomorph.components import Settings
from cryomorph.fourier import band, multiplicity, shell_index
from cryomorph.optics import phase_coefficients
from cryomorph.particles.batch import ParticleBatch
from cryomorph.particles.stack import BatchSource, ParticleStack
from cryomorph.progress import Progress
from cryomorph.selection import Selection
from cryomorph.structure.beads import Beads


@dataclass(frozen=True, eq=False)
class ShellCalibration:
    """What is known of the images shell by shell in Fourier space, for each optics group.

    Attributes
    ----------
    noise : Tensor (groups, shells)
        Noise power of a coefficient; 1 is that of white noise of variance 1 per pixel. Shell k holds the coefficients
        whose Fourier index has a length of k, rounded.
    signal : Tensor (groups, shells)
        How much stronger the particle is than its beads under the contrast transfer function say.
    """

    noise: Tensor
    signal: Tensor

    def to(self, device: torch.device) -> Self:
        """Return a copy on another device."""
        return type(self)(self.noise.to(device), self.signal.to(device))


def contrast_transfer(batch: ParticleBatch, box: int) -> Tensor:
    """Contrast transfer function at each coefficient of `image_coefficients`; shape (b, 2K + 1, K + 1).

    As `cryomorph.optics.ctf`, from a polynomial in Fourier indices, which takes fewer passes over the coefficients.
    """
    highest, step = band(box), 1 / (box * batch.pixel_size)
    kx = torch.arange(highest + 1, dtype=step.dtype, device=step.device)
    ky = torch.arange(-highest, highest + 1, dtype=step.dtype, device=step.device)[:, None]
    square = kx.square() + ky.square()
    terms = phase_coefficients(batch.ctf, step).to(step.dtype)[:, :, None, None].unbind(1)
    turns = (terms[0] * kx.square() + terms[4]) + terms[1] * ky.square()
    turns.addcmul_(terms[2] * ky, kx).addcmul_(terms[3], square.square())
    transfer = turns.mul_(torch.pi).sin_()
    if batch.ctf.b_factor.any():
        transfer.mul_(torch.exp(-0.25 * (batch.ctf.b_factor * step.square())[:, None, None] * square))
    return transfer


class LikelihoodSettings(Settings):
    """What every likelihood has."""

    scale_spread: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="standard deviation of images' scales as a share of their group's gain; 0: all the same; auto: "
        "estimated from the images where shells are calibrated",
    )


class Likelihood(nn.Module, ABC):
    """Gaussian misfit of images and projected beads, relative to an empty image.

    `½‖y - s h * v‖² - ½‖y‖²` with the noise variance as unit: the constant that no conformation changes is left out,
    so that 0 is the score of an empty image and the negative misfit counts the nats by which the particle explains it
    better.

    The gain `s` takes the beads' arbitrary unit of scattering to the unit of the normalised images. There is one for
    each optics group, estimated from the data in closed form: the two sums that determine it are gathered while the
    misfit is computed, and `update_gain` puts their quotient in place. With a `scale_spread` each image has a scale of
    its own, normally distributed about the gain; the most probable one, in closed form, is taken.

    Parameters
    ----------
    settings
        Of the likelihood.
    groups
        Number of optics groups.

    Attributes
    ----------
    gain, cross_sum, power_sum : Tensor (groups,)
        The gain, and the sums gathered since it was last updated.
    kept : Tensor (groups,)
        Share of the quotient of the sums that is no fitted noise: the gain.
    spread : Tensor ()
        Standard deviation of images' scales as a share of the gain.
    calibration : ShellCalibration or None
        None takes noise as white and the contrast transfer as it is. What was prepared with another one is stale.
    selection : Selection or None
        Which coefficients of each image count, on the device of the images; None counts all. It is set once, before
        anything is prepared.
    """

    Settings: ClassVar[type[LikelihoodSettings]]
    gain: Tensor
    cross_sum: Tensor
    power_sum: Tensor
    kept: Tensor
    spread: Tensor

    def __init__(self, settings: LikelihoodSettings, groups: int) -> None:
        super().__init__()
        self.settings = settings
        for name, start in (("gain", 1.0), ("cross_sum", 0.0), ("power_sum", 0.0), ("kept", 1.0)):
            self.register_buffer(name, torch.full((groups,), start, dtype=torch.float64))
        known = 0.0 if settings.scale_spread == "auto" else settings.scale_spread
        self.register_buffer("spread", torch.tensor(known, dtype=torch.float64))
        self.calibration: ShellCalibration | None = None
        self.selection: Selection | None = None

    def prepare(
        self, stack: ParticleStack, beads: Beads, cache: Path, progress: Progress | None = None, *, room: float = 0.0
    ) -> BatchSource:
        """Make ready what is made once for all images, and return where batches come from.

        Parameters
        ----------
        stack
            The particles.
        beads
            Of the template, b = 1, on the device to compute on: how far the molecule reaches, how wide its beads are.
        cache
            Folder for files that can be made again at any time.
        progress
            Told of every image.
        room
            Å beyond the template's beads that conformations and shifts still to be found may need.

        Returns
        -------
        BatchSource
            The stack itself, unless a likelihood has something better than images.
        """
        return stack

    def remarks(self) -> list[str]:
        """Return what is worth saying about the images seen since the last call."""
        return []

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

    def forward(
        self, beads: Beads, rotation: Tensor, shift: Tensor, batch: ParticleBatch, share: Tensor | None = None
    ) -> Tensor:
        """Return the misfit of each image, and add its terms to the sums that determine the gain.

        Parameters
        ----------
        beads, rotation, shift, batch
            As in `terms`.
        share
            What each image counts in the sums, shape (b,), for instance the probability of its pose; default 1.

        Returns
        -------
        Tensor (b,)
            In nats.
        """
        cross, model_power = self.terms(beads, rotation, shift, batch)
        with torch.no_grad():
            for total, term in ((self.cross_sum, cross), (self.power_sum, model_power)):
                counted = term if share is None else share * term
                total.index_add_(0, batch.optics_group, counted.double())
        return self.misfit(cross, model_power, batch)

    def misfit(self, cross: Tensor, model_power: Tensor, batch: ParticleBatch) -> Tensor:
        """Return the misfit at the current gain that terms (b,) stand for, shape (b,); a scale of its own costs."""
        with torch.no_grad():  # at the best scale the misfit does not change with it
            scale = self.scale(cross, model_power, batch)
        misfit = 0.5 * scale.square() * model_power - scale * cross
        if self.settings.scale_spread == 0:
            return misfit
        gain = self.gain[batch.optics_group].to(cross.dtype)
        spread = (self.spread * gain).to(cross.dtype).clamp(min=torch.finfo(cross.dtype).tiny)
        return misfit + 0.5 * ((scale - gain) / spread).square()

    def scale(self, cross: Tensor, model_power: Tensor, batch: ParticleBatch) -> Tensor:
        """Return the most probable scale of each image, shape (b,), given its terms (b,): the gain, or about it."""
        gain = self.gain[batch.optics_group].to(cross.dtype)
        if self.settings.scale_spread == 0:
            return gain
        # Written so that a gain of 0 leaves no room for a scale.
        variance = (self.spread * gain).to(cross.dtype).square()
        return ((cross * variance + gain) / (model_power * variance + 1)).clamp(min=0.0)

    def normalised_misfit(self, cross: Tensor, model_power: Tensor) -> Tensor:
        """Return the misfit at the best scale that is not negative, whatever the gain; any shape.

        It ranks poses before a gain is known.
        """
        return -0.5 * cross.clamp(min=0).square() / model_power.clamp(min=torch.finfo(model_power.dtype).tiny)

    def transfer(self, batch: ParticleBatch, box: int) -> Tensor:
        """Signal in each coefficient of `image_coefficients`, `h` times the calibrated signal; (b, 2K + 1, K + 1)."""
        transfer = contrast_transfer(batch, box)
        if self.calibration is None:
            return transfer
        return transfer * _of_shells(self.calibration.signal.to(transfer.dtype), batch, box)

    def weight(self, batch: ParticleBatch, box: int, *, every: bool = False) -> Tensor:
        """How much each coefficient counts: sums over coefficients become sums over pixels in units of the noise.

        Parameters
        ----------
        batch
            Particles.
        box
            Size of their images in pixels.
        every
            Count those, too, that are not selected.

        Returns
        -------
        Tensor (1 or b, 2K + 1, K + 1)
        """
        weight = multiplicity(box, batch.pixel_size.device)[None] / box**2  # Parseval
        if self.calibration is not None:
            weight = weight / _of_shells(self.calibration.noise.to(weight.dtype), batch, box)
        return weight if self.selection is None or every else weight * self.selection.of(batch.index)

    def set_spread(self, spread: float) -> None:
        """Let the scales of images differ from now on, with this standard deviation as a share of the gain."""
        self.spread.fill_(spread)

    def update_gain(self) -> None:
        """Set the gain of each optics group to its least-squares value over the images seen since the last call.

        Of that value only the share that is no fitted noise counts. A group of which no image was seen takes that of
        all groups together. A gain is not negative: such a group counts for nothing until it correlates again. Across
        processes the caller adds up the sums first.
        """
        seen = self.power_sum > 0
        if seen.any():
            self.gain.fill_(self.cross_sum.sum() / self.power_sum.sum())
            self.gain[seen] = self.kept[seen] * self.cross_sum[seen] / self.power_sum[seen]
            self.gain.clamp_(min=0.0)
        self.cross_sum.zero_()
        self.power_sum.zero_()


def _of_shells(values: Tensor, batch: ParticleBatch, box: int) -> Tensor:
    """Spread values of shells (groups, shells) over the coefficients of each image of a batch.

    Returns
    -------
    Tensor (1 or b, 2K + 1, K + 1)
        One plane if all images are of one group.
    """
    groups, which = torch.unique(batch.optics_group, return_inverse=True)
    planes = values[groups][:, shell_index(box, values.device)]
    return planes if len(groups) == 1 else planes[which]
