"""How well a model explains the Fourier coefficients it was fitted to, and those that were kept out of the fit."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomorph.fourier import band, image_coefficients
from cryomorph.geometry import project
from cryomorph.gridding.projections import bead_coefficients
from cryomorph.latents.base import Latents
from cryomorph.particles.batch import ParticleBatch
from cryomorph.particles.loader import prefetch, spread_over_groups
from cryomorph.particles.stack import ParticleStack
from cryomorph.reconstruction import Reconstruction
from cryomorph.selection import Selection
from cryomorph.shell_sums import shell_sums

Array = NDArray[np.float64]

SHARE_OF_IMAGES = 0.05
"""Of all images that are compared after each epoch, so that it costs little beside training."""
LEAST_IMAGES = 128
MEMORY = 2**28
"""Bytes of Fourier coefficients that are kept at most."""
IMAGES_AT_ONCE = 64
DIGITS = 5
"""Of numbers in the metrics."""


@dataclass(frozen=True, eq=False)
class Explained:
    """Nats by which images are explained better than by nothing, as if all coefficients were like these.

    Attributes
    ----------
    work, free : array (images, shells)
        From coefficients that the fit saw, and from those that it did not.
    """

    work: Array
    free: Array

    def metrics(self) -> dict[str, Any]:
        """Return means over images, of all shells together and of each."""
        shells = {f"{name}_shells": values.mean(0) for name, values in (("work", self.work), ("free", self.free))}
        totals = {name: round(float(shells[f"{name}_shells"].sum()), DIGITS) for name in ("work", "free")}
        return totals | {
            name: [float(f"{value:.{DIGITS - 1}g}") for value in values] for name, values in shells.items()
        }


@dataclass(frozen=True, eq=False)
class ShellTerms:
    """Inner products of images with what a model expects of them, at the current gains and in units of the noise.

    Attributes
    ----------
    cross, power : array (images, shells)
        `⟨y, h * v⟩` and `‖h * v‖²` of coefficients that the fit saw, as if all were like these.
    free_cross, free_power : array (images, shells)
        The same of those that it did not see.
    """

    cross: Array
    power: Array
    free_cross: Array
    free_power: Array

    def explained(self) -> Array:
        """Return the nats of each image's free coefficients, (images,), with the shells' gains that the others ask for.

        A gain is least squares over images, and not negative, so that models are compared whatever the sum of their
        amplitudes is and however it fades with resolution.
        """
        power = self.power.sum(0)
        gain = np.divide(self.cross.sum(0), power, out=np.zeros_like(power), where=power > 0).clip(min=0)
        return np.asarray(self.free_cross @ gain - 0.5 * self.free_power @ gain**2)


def gain(after: Explained, before: Explained, add_up: Callable[..., None] | None = None) -> tuple[float, float]:
    """Return by how many nats an image's free coefficients are explained better after than before, and its error.

    The same images are compared, so what they have in common is no error; of fewer than two images it is infinite.

    Parameters
    ----------
    after, before
        Of the same images.
    add_up
        Adds tensors up over the processes, in place, if there are several.
    """
    difference = torch.from_numpy((after.free - before.free).sum(1))
    sums = torch.tensor([len(difference), difference.sum(), difference.square().sum()], dtype=torch.float64)
    if add_up is not None:
        add_up(sums)
    count, total, squared = sums.tolist()
    if count < 2:
        return 0.0, float("inf")
    mean = total / count
    return mean, max((squared / count - mean**2) / (count - 1), 0.0) ** 0.5


def images_each_epoch(particles: int, most: int) -> int:
    """Return how many of so many particles are compared after each epoch, `most` at most."""
    return min(most, max(int(SHARE_OF_IMAGES * particles), LEAST_IMAGES))


class HeldOut:
    """Some images, of which the model has seen a part of the coefficients.

    Parameters
    ----------
    reconstruction, latents
        Being trained.
    stack
        The particles.
    selection
        Coefficients that the fit sees.
    images
        How many, at most; fewer if their coefficients take too much memory.
    owned
        Which particles are this process's, shape (m,).
    device
        Where to compute.

    Attributes
    ----------
    rows : array
        The images, of all processes together.
    own : array
        Those that are this process's.
    """

    def __init__(
        self,
        reconstruction: Reconstruction,
        latents: Latents,
        stack: ParticleStack,
        selection: Selection,
        images: int,
        owned: NDArray[np.bool_],
        device: torch.device,
    ) -> None:
        self.reconstruction, self.latents, self.stack = reconstruction, latents, stack
        self.selection, self.device = selection, device
        highest = band(stack.box)
        room = MEMORY // ((2 * highest + 1) * (highest + 1) * 8)
        self.rows = spread_over_groups(stack.table.optics_group, min(images, room), 1)
        self.own = self.rows[owned[self.rows]]
        self._coefficients: list[Tensor] = []

    def measure(self, conformation: Tensor | None = None) -> Explained:
        """Compare the images with the current model, at the middle of each particle's latents and its best pose.

        Particles without a pose, as yet, are left out.

        Parameters
        ----------
        conformation
            Shape (n, 3) in Å, taken for that in every image; by default each has its own.
        """
        if conformation is None:
            return self._explained(lambda _, batch: self._decode(batch))
        return self._explained(lambda _, batch: conformation.expand(len(batch), -1, -1))

    def _explained(self, conformations: Callable[[int, ParticleBatch], Tensor]) -> Explained:
        """Compare the images with conformations (b, n, 3), given the number of their batch and the batch."""
        known, parts = self.reconstruction.poses.known.cpu(), []
        with self.still():
            for number, (batch, observed) in enumerate(self.batches()):
                x = conformations(number, batch)
                kept = known[batch.index.cpu()].to(self.device)
                parts.append(torch.stack(self._compare(x, batch, observed))[:, kept])
        if not parts:
            return Explained(*np.zeros((2, 0, band(self.stack.box) + 1)))
        work, free = torch.cat(parts, dim=1).double().cpu().numpy()
        return Explained(work, free)

    def motion(self, add_up: Callable[..., None]) -> tuple[Array, Array]:
        """Return how well each image's free coefficients are explained, and how much better than by the mean of all.

        Parameters
        ----------
        add_up
            Adds tensors up over the processes, in place.

        Returns
        -------
        free, motion : array (images,)
            In nats, as if all coefficients were like these; images of all processes that have a pose.
        """
        with self.still():
            each = [self._decode(batch) for batch, _ in self.batches()]
        total = sum((x.double().sum(0).cpu() for x in each), start=torch.zeros(1, dtype=torch.float64))
        count = torch.tensor(float(len(self.own)), dtype=torch.float64)
        add_up(total, count)
        mean = (total / count).float().to(self.device)
        explained = self._explained(lambda number, _: each[number]), self.measure(mean)
        free, of_mean = (self._of_all(one.free.sum(1), add_up).numpy() for one in explained)
        return free, free - of_mean

    @contextmanager
    def still(self) -> Iterator[None]:
        """Take the middle of each particle's latents, draw no random numbers, keep no gradients."""
        training = self.latents.training
        self.latents.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.latents.train(training)

    def _decode(self, batch: ParticleBatch) -> Tensor:
        x: Tensor = self.reconstruction.conformations(self.latents(batch))
        return x

    def summary(self, add_up: Callable[..., None]) -> tuple[dict[str, Any], Tensor]:
        """Return what is explained on average, of all shells together and of each, and how much of each image.

        Parameters
        ----------
        add_up
            Adds tensors up over the processes, in place.

        Returns
        -------
        means : dict
            Of the nats of `Explained`; empty if no image has a pose.
        free : Tensor (images,)
            Nats of free coefficients of all images that have a pose.
        """
        explained = self.measure()
        sums = {name: torch.from_numpy(part.sum(0)) for name, part in vars(explained).items()}
        add_up(*sums.values())
        free = self._of_all(explained.free.sum(1), add_up)
        if not len(free):
            return {}, free
        means = {name: (part / len(free)).tolist() for name, part in sums.items()}
        totals = {name: round(sum(values), DIGITS) for name, values in means.items()}
        shells = {name: [float(f"{value:.{DIGITS - 1}g}") for value in values] for name, values in means.items()}
        return totals | {f"{name}_shells": values for name, values in shells.items()}, free

    def _of_all(self, values: Array, add_up: Callable[..., None]) -> Tensor:
        """Return values of own images that have a pose together with those of all processes, shape (images,)."""
        known = self.reconstruction.poses.known.cpu().numpy()
        mine = torch.from_numpy(np.isin(self.rows, self.own[known[self.own]]))
        found, seen = torch.zeros(2, len(self.rows), dtype=torch.float64)
        found[mine], seen[mine] = torch.from_numpy(values), 1.0
        add_up(found, seen)
        every: Tensor = found[seen > 0]
        return every

    def batches(self) -> list[tuple[ParticleBatch, Tensor]]:
        """Return the images, whose coefficients are computed once, batch by batch."""
        parts = np.array_split(self.own, -(-len(self.own) // IMAGES_AT_ONCE)) if len(self.own) else []
        if self.latents.sees_images or not self._coefficients:
            batches = [batch.to(self.device) for batch in prefetch(self.stack, parts)]
        else:
            batches = [self.stack.batch(rows, images=False).to(self.device) for rows in parts]
        if not self._coefficients:
            self._coefficients = [_of_images(batch) for batch in batches]
        return list(zip(batches, self._coefficients, strict=True))

    def terms(self, add_up: Callable[..., None]) -> "ShellTerms":
        """Return what a gain of each shell would be fitted to, and what judges it, of images in all processes.

        Parameters
        ----------
        add_up
            Adds tensors up over the processes, in place.
        """
        shells = band(self.stack.box) + 1
        found = torch.zeros(4, len(self.rows), shells, dtype=torch.float64)
        seen_by = torch.zeros(len(self.rows), dtype=torch.float64)
        known = self.reconstruction.poses.known.cpu()
        with self.still():
            for batch, observed in self.batches():
                sums = self._sums(self._decode(batch), batch, observed).double()
                gain = self.reconstruction.likelihood.gain[batch.optics_group].double()[:, None]
                index = batch.index.cpu()
                place = torch.from_numpy(np.searchsorted(self.rows, index.numpy()))
                found[:, place] = (sums * torch.stack([gain, gain.square()] * 2)).cpu()
                seen_by[place] = known[index].double()
        add_up(found, seen_by)
        parts = len(self.selection)
        found[:2] *= parts / (parts - 1)
        found[2:] *= parts
        return ShellTerms(*found[:, seen_by > 0].numpy())

    def _sums(self, x: Tensor, batch: ParticleBatch, observed: Tensor) -> Tensor:
        """Return both inner products of the misfit for x (b, n, 3), as `shell_sums` does, shape (4, b, shells)."""
        reconstruction, box = self.reconstruction, self.stack.box
        likelihood = reconstruction.likelihood
        beads = reconstruction.beads(x)
        points = project(beads.positions, *reconstruction.poses.best(batch))
        model = bead_coefficients(points, beads.amplitude, beads.width, batch.pixel_size, box)
        weight = likelihood.weight(batch, box, every=True)
        return shell_sums(observed, model, likelihood.transfer(batch, box), weight, self.selection.of(batch.index))

    def _compare(self, x: Tensor, batch: ParticleBatch, observed: Tensor) -> tuple[Tensor, Tensor]:
        """Return what x (b, n, 3) gains in each shell, (b, shells), from coefficients seen and from the rest."""
        cross, power, free_cross, free_power = self._sums(x, batch, observed)
        scale = self.reconstruction.likelihood.scale(cross.sum(1), power.sum(1), batch)[:, None]
        work, free = (
            scale * one - 0.5 * scale.square() * other for one, other in ((cross, power), (free_cross, free_power))
        )
        parts = len(self.selection)
        return work * (parts / (parts - 1)), free * parts


def _of_images(batch: ParticleBatch) -> Tensor:
    if batch.image is None:
        raise ValueError("the images of the batch are needed")
    return image_coefficients(batch.image)
