"""Shell calibration: noise power and signal gain of each Fourier shell, from images and current conformations.

The image of a particle is taken as `y(k) = s g(|k|) h(k) v(k) + noise of power n(|k|)` with the projected beads v and
the contrast transfer h. Beads are a coarse picture of a molecule, in solvent, seen by a detector, and conformations
are not known exactly: all that makes a model fade with resolution goes into the signal g, and what the model does not
explain counts as noise, like the σA weights of crystallography (Read 1986).

Poses and latents that were fitted to an image follow its noise as well, most of all where a search chose among many. So
an image correlates with its model better than the particle in it does. Coefficients that were kept out of the fit tell
by how much, like free reflections for σA, and gains are brought down accordingly.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from cryomorph.components import Settings
from cryomorph.fourier import band, image_coefficients, multiplicity, shell_index
from cryomorph.geometry import project
from cryomorph.gridding.projections import bead_coefficients
from cryomorph.latents.base import Latents
from cryomorph.likelihood.base import ShellCalibration, contrast_transfer
from cryomorph.particles.batch import ParticleBatch
from cryomorph.particles.loader import prefetch, spread_over_groups
from cryomorph.particles.stack import ParticleStack
from cryomorph.progress import Progress, Silent
from cryomorph.reconstruction import Reconstruction

PRECISION = 0.05
"""Relative standard error above which a shell is taken together with its neighbours."""
BLURS = torch.cat([torch.zeros(1), torch.logspace(-2, 2, 81)])
"""That are tried, from none on: b of `exp(-b k²)` with k = 1 at the highest shell."""
EVIDENCE = 2.0
"""Nats by which free coefficients must be explained better for a blur, and for one of an optics group's own."""
POSE = 5
"""Numbers of a pose: three turns, two shifts."""
LEAST_NOISE = 0.1
"""Of the mean over shells. Images that were low-pass filtered have shells without noise, which prove nothing."""
LEAST_OF_GROUP = 128
"""Images of each optics group, if it has them."""
IMAGES_AT_ONCE = 64


Shells = Literal["none", "noise", "signal", "both"]


class CalibrationSettings(Settings):
    """What is estimated for each Fourier shell and optics group, from how many images and when."""

    shells: Shells = Field("both", description="what is calibrated")
    images: int = Field(2048, ge=1, description="images it is estimated from; at least 128 of an optics group")
    epochs: tuple[int, ...] = Field((0, 2, 5, 10), description="after how many epochs; 0 is before the first")


@dataclass(frozen=True, eq=False)
class ShellSums:
    """Sums over the coefficients of some images, each of shape (groups, shells), double precision.

    Attributes
    ----------
    count
        Number of coefficients, both halves of the plane.
    image_power, model_power
        `‖y‖²` and `‖h * v‖²`, the shell's part of the sum over pixels.
    cross
        `⟨y, h * v⟩`.
    free_cross, free_power
        `⟨y, h * v⟩` and `‖h * v‖²` of the coefficients that were kept out of the fit, which all others are without.
    """

    count: Tensor
    image_power: Tensor
    cross: Tensor
    model_power: Tensor
    free_cross: Tensor
    free_power: Tensor

    @classmethod
    def zeros(cls, groups: int, shells: int, device: torch.device) -> "ShellSums":
        """Return the sums over no images."""
        return cls(*(torch.zeros(groups, shells, dtype=torch.float64, device=device) for _ in range(6)))

    def add(self, reconstruction: Reconstruction, x: Tensor, batch: ParticleBatch) -> "ImageSums":
        """Add the images of a batch, compared with their conformations (b, n, 3) at their best poses."""
        if batch.image is None:
            raise ValueError("calibration needs the images of the batch")
        box = batch.image.shape[-1]
        group, image = batch.optics_group, image_coefficients(batch.image)
        beads = reconstruction.beads(x)
        transfer = contrast_transfer(batch, box)
        points = project(beads.positions, *reconstruction.poses.best(batch))
        model = bead_coefficients(points, beads.amplitude, beads.width, batch.pixel_size, box) * transfer
        kept = torch.ones_like(transfer)
        if reconstruction.likelihood.selection is not None:
            kept = kept * reconstruction.likelihood.selection.of(batch.index)
        self.count.index_add_(0, group, _shell_sums(kept, box) * box**2)
        self.image_power.index_add_(0, group, _shell_sums(kept * image.abs().square(), box))
        products = (image.conj() * model).real, model.abs().square()
        cross, model_power = (_shell_sums(kept * product, box) for product in products)
        self.cross.index_add_(0, group, cross)
        self.model_power.index_add_(0, group, model_power)
        if reconstruction.likelihood.selection is not None:
            for total, product in zip((self.free_cross, self.free_power), products, strict=True):
                total.index_add_(0, group, _shell_sums((1 - kept) * product, box))
        return ImageSums(group, cross, model_power)


@dataclass(frozen=True, eq=False)
class ImageSums:
    """What single images add to the sums over coefficients of a shell.

    Attributes
    ----------
    group : Tensor (m,)
        Their optics groups.
    cross, model_power : Tensor (m, shells)
        As in `ShellSums`.
    """

    group: Tensor
    cross: Tensor
    model_power: Tensor

    @classmethod
    def together(cls, parts: "list[ImageSums]", shells: int, device: torch.device) -> "ImageSums":
        """Join the images of some parts, of which there may be none."""
        none = torch.zeros(0, shells, dtype=torch.float64, device=device)
        empty = cls(torch.zeros(0, dtype=torch.int64, device=device), none, none)
        joined = (torch.cat(list(part)) for part in zip(*(vars(p).values() for p in (empty, *parts)), strict=True))
        return cls(*joined)


def _shell_sums(values: Tensor, box: int) -> Tensor:
    """Sum values (b, 2K + 1, K + 1) over each shell, in parts that add up to a sum over pixels; shape (b, K + 1)."""
    weighted = values.double() * multiplicity(box, values.device) / box**2
    sums = weighted.new_zeros(len(values), band(box) + 1)
    return sums.index_add_(1, shell_index(box, values.device).flatten(), weighted.flatten(1))


def gather_sums(
    reconstruction: Reconstruction,
    latents: Latents,
    stack: ParticleStack,
    images: int,
    owned: NDArray[np.bool_],
    device: torch.device,
    progress: Progress | None = None,
) -> tuple[ShellSums, ImageSums]:
    """Compare images of a stack with the conformations that their latents stand for now.

    Parameters
    ----------
    reconstruction, latents
        As trained so far: at first, a decoder returns about the template.
    stack
        The particles.
    images
        How many of them, spread over optics groups, in all processes together.
    owned
        Which of the particles are this process's and have poses, shape (m,).
    device
        Where to compute.
    progress
        Told of every image.
    """
    rows = spread_over_groups(stack.table.optics_group, images, LEAST_OF_GROUP)
    rows = rows[owned[rows]]
    groups = len(reconstruction.likelihood.gain)
    sums = ShellSums.zeros(groups, band(stack.box) + 1, device)
    parts = np.array_split(rows, -(-len(rows) // IMAGES_AT_ONCE)) if len(rows) else []
    seen: list[ImageSums] = []
    progress = progress or Silent()
    progress.start("calibration", len(rows))
    training = latents.training
    latents.eval()  # the middle of each particle's distribution, and no random numbers drawn
    try:
        with torch.no_grad():
            for batch in prefetch(stack, parts):
                moved = batch.to(device)
                seen.append(sums.add(reconstruction, reconstruction.conformations(latents(moved)), moved))
                progress.advance(len(batch))
    finally:
        latents.train(training)
        progress.finish()
    return sums, ImageSums.together(seen, band(stack.box) + 1, device)


def calibrate(sums: ShellSums, shells: Shells, latents: int) -> tuple[ShellCalibration, Tensor]:
    """Estimate noise and signal of each shell.

    The noise is the power of the residual at the shell's own best gain, `(‖y‖² - ⟨y, h * v⟩² / ‖h * v‖²) / count`. The
    signal is the gain of the shell, by least squares, relative to that of all shells together, so that its mean,
    weighted by the power of the model in units of the noise, is 1. Each shell is taken together with as many neighbours
    as a relative standard error of `PRECISION` needs: none in most shells of most data sets. Where coefficients were
    kept out of the fit, gains are without what they tell to be fitted noise.

    Parameters
    ----------
    sums
        Over images of all processes.
    shells
        What is not estimated is 1.
    latents
        Numbers that were fitted to each image, besides those of its pose.

    Returns
    -------
    ShellCalibration
    Tensor (groups,)
        Share of the gain of all shells together that is no fitted noise.
    """
    count, image, cross, model = sums.count, sums.image_power, sums.cross, sums.model_power
    residual = image - torch.where(model > 0, cross.square() / model.clamp(min=1e-300), 0.0)
    level = residual.sum(1, keepdim=True) / count.sum(1, keepdim=True).clamp(min=1)
    width = _width(count / 2)
    noise = _pooled(residual, width) / _pooled(count, width).clamp(min=1)
    noise = noise.clamp(min=LEAST_NOISE * level)
    noise = torch.where(count.sum(1, keepdim=True) * level > 0, noise, 1.0)
    signal, kept = _relative_gain(sums, noise, latents + POSE)
    if shells in ("none", "noise"):
        signal, kept = torch.ones_like(noise), torch.ones_like(kept)
    noise = noise if shells in ("noise", "both") else torch.ones_like(noise)
    return ShellCalibration(noise, signal), kept


def gain_sums(sums: ShellSums, calibration: ShellCalibration) -> tuple[Tensor, Tensor]:
    """Return what a likelihood with a calibration would have summed over the same images, each of shape (groups,)."""
    cross = sums.cross * calibration.signal / calibration.noise
    return cross.sum(1), (sums.model_power * calibration.signal.square() / calibration.noise).sum(1)


def _relative_gain(sums: ShellSums, noise: Tensor, fitted: int) -> tuple[Tensor, Tensor]:
    """Return the gain of each shell over that of all, and what it is of the gain found; (groups, shells), (groups,).

    Never negative; 1 in a group that does not correlate with its model. What a model that turns without getting
    stronger gains where it is fitted it loses outside: the truth lies in the middle. Where poses are quite wrong more
    is lost outside than the numbers that were fitted can have gained.
    """
    cross, model = sums.cross / noise, sums.model_power / noise
    overall = cross.sum(1, keepdim=True) / model.sum(1, keepdim=True).clamp(min=1e-300)
    width = _width(overall.square() * model)  # the variance of a shell's gain is 1 / model
    gain = (_pooled(cross, width) / _pooled(model, width).clamp(min=1e-300)).clamp(min=0)
    lost = 0.5 * _lost_outside(gain, sums.free_cross / noise, sums.free_power / noise)
    # Each number that is fitted explains half a nat of noise; of each image there is one coefficient in shell 0.
    nats, most = (gain.square() * model * lost).sum(1), 0.5 * fitted * sums.count[:, 0]
    true = gain * (1 - lost * (most / nats.clamp(min=1e-300)).clamp(max=1)[:, None])
    mean = (true * model).sum(1, keepdim=True) / model.sum(1, keepdim=True).clamp(min=1e-300)
    signal = torch.where((overall > 0) & (mean > 0), true / mean, 1.0)
    of_signal, of_all = (signal * true * model).sum(1), (signal * gain * model).sum(1)
    return signal, torch.where(of_all > 0, of_signal / of_all.clamp(min=1e-300), 1.0)


def _lost_outside(gain: Tensor, free_cross: Tensor, free_power: Tensor) -> Tensor:
    """Return the share of the gain of each shell that free coefficients lack, `1 - exp(-b k²)`: (groups, shells).

    As if images were blurred where they were not fitted. There is one b for all optics groups, 0 without evidence of
    one, but for those groups that have evidence of another.

    Parameters
    ----------
    gain
        Of each shell, from coefficients that were fitted, shape (groups, shells).
    free_cross, free_power
        Of coefficients that were not, in units of the noise.
    """
    shell = torch.arange(gain.shape[1], dtype=gain.dtype, device=gain.device) / gain.shape[1]
    left = torch.exp(-BLURS.to(gain)[:, None] * shell.square())  # (blurs, shells)
    expected = gain * left[:, None]
    explained = (expected * free_cross - 0.5 * expected.square() * free_power).sum(2)  # nats: (blurs, groups)
    of_all = explained.sum(1)
    common = of_all.argmax() * (of_all.max() > of_all[0] + EVIDENCE)
    own = torch.where(explained.amax(0) > explained[common] + EVIDENCE, explained.argmax(0), common)
    return 1 - left[own]


def _width(information: Tensor, needed: float = PRECISION**-2) -> Tensor:
    """Half the width of the narrowest window about each shell that holds the information needed, else of the widest.

    Parameters
    ----------
    information
        Of each shell, the inverse square of a relative standard error; shape (groups, shells).

    Returns
    -------
    Tensor (groups, shells), int64
    """
    enough = _over_windows(information) >= needed
    enough[..., -1] = True
    return enough.int().argmax(-1)  # the first that is


def _pooled(values: Tensor, width: Tensor) -> Tensor:
    """Sum values (groups, shells) over the window about each shell."""
    return _over_windows(values).gather(-1, width[..., None])[..., 0]


def _over_windows(values: Tensor) -> Tensor:
    """Sum values (groups, shells) from shell k - w to k + w; shape (groups, shells k, shells w)."""
    shells = values.shape[1]
    k, w = torch.arange(shells, device=values.device)[:, None], torch.arange(shells, device=values.device)
    sums = torch.nn.functional.pad(values.cumsum(1), (1, 0))
    return sums[:, (k + w).clamp(max=shells - 1) + 1] - sums[:, (k - w).clamp(min=0)]
