"""Where in latent space particles go on, when their poses are known: along the main motion, and a little beyond it.

A particle moves through latent space by gradient, a step an epoch, and a decoder learns what its particles show. Where
a motion is large, particles of its ends are reached last. So every image is now and then compared with conformations
along the motion that was learned so far and a third beyond its ends, at the pose that it has.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from cryomorph.components import Settings
from cryomorph.latents.base import Latents
from cryomorph.particles.batch import ParticleBatch
from cryomorph.particles.loader import prefetch
from cryomorph.particles.stack import BatchSource, ParticleStack
from cryomorph.progress import Progress, Silent
from cryomorph.reconstruction import Reconstruction
from cryomorph.search.library import Library, along_main_motion, latents_of_some
from cryomorph.structure.beads import Beads

IMAGES_AT_ONCE = 64


class MovingSettings(Settings):
    """When particles whose poses are not searched are compared with conformations along the main motion."""

    epochs: tuple[int, ...] = Field((2, 4, 7, 11), description="after how many epochs; none: never")
    library: int = Field(6, ge=2, description="conformations along the main motion")
    extension: float = Field(1 / 3, ge=0, description="how far they reach beyond it at both ends, as a share of it")


class MotionSearch:
    """Compares particles with conformations along the main motion, and moves those that another one fits better.

    Parameters
    ----------
    settings
        With what, and when.
    reconstruction, latents
        The model; latents are kept particle by particle.
    stack
        The particles.
    """

    found = "moved"
    """Name of what `run` returns."""

    def __init__(
        self,
        settings: MovingSettings,
        reconstruction: Reconstruction,
        latents: Latents,
        stack: ParticleStack,
    ) -> None:
        self.settings = settings
        self.reconstruction, self.latents, self.stack = reconstruction, latents, stack

    def due(self, epoch: int) -> bool:
        """Tell whether to compare after so many epochs."""
        return epoch in self.settings.epochs

    @torch.no_grad()
    def run(
        self,
        epoch: int,
        source: BatchSource,
        rows: NDArray[np.int64],
        pose_optimizer: Optimizer | None,
        latent_optimizer: Optimizer,
        progress: Progress | None = None,
    ) -> float:
        """Compare particles with what was learned, whatever the epoch; poses are left alone.

        Parameters
        ----------
        source
            Of batches for the likelihood.
        rows
            Particles that this process owns.
        latent_optimizer
            Of what is replaced.
        progress
            Told of images.

        Returns
        -------
        float
            Share of the particles that moved.
        """
        progress = progress or Silent()
        training = self.latents.training
        self.latents.eval()
        progress.start("comparing", len(rows))
        moved = 0
        try:
            library = self._library()
            beads = self.reconstruction.beads(library.conformations)
            cost = self._cost(library.latents)
            for batch in prefetch(source, np.array_split(rows, -(-len(rows) // IMAGES_AT_ONCE))):
                there = batch.to(cost.device)
                value = torch.stack([self._misfit(_of(beads, n, len(there)), there) for n in range(len(cost))])
                best = (value + cost[:, None]).min(0)
                better = best.values < self._value_now(there)
                z = library.latents[best.indices[better]]
                self.latents.place(latent_optimizer, there.index[better], z)
                moved += int(better.sum())
                progress.advance(len(batch))
        finally:
            self.latents.train(training)
            self.reconstruction.likelihood.remarks()  # none: this was only to compare
            progress.finish()
        return moved / max(len(rows), 1)

    def _library(self) -> Library:
        model = self.reconstruction.conformations
        z = latents_of_some(self.latents, self.stack, model.template.device)
        none = model.template[:0].reshape(0, *model.template.shape)
        return along_main_motion(model, z, self.settings.library, self.settings.extension, none)

    def _value_now(self, batch: ParticleBatch) -> Tensor:
        z: Tensor = self.latents(batch)
        beads = self.reconstruction.beads(self.reconstruction.conformations(z))
        return self._misfit(beads, batch) + self._cost(z)

    def _cost(self, z: Tensor) -> Tensor:
        """Return what latents (k, d) cost under their prior, shape (k,): those of the library pay as well."""
        return 0.5 * self.reconstruction.latent_prior.to(z.dtype) * z.square().sum(1)

    def _misfit(self, beads: Beads, batch: ParticleBatch) -> Tensor:
        likelihood = self.reconstruction.likelihood
        return likelihood.misfit(*likelihood.terms(beads, *self.reconstruction.poses.best(batch), batch), batch)


def _of(beads: Beads, number: int, images: int) -> Beads:
    """Return one of some conformations, for so many images."""
    return Beads(beads.positions[number].expand(images, -1, -1), beads.amplitude, beads.width)
