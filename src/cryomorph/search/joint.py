"""The joint search of poses and conformations, before training and again as the model improves.

No pose can be found with a conformation that is many Å away, and no conformation without poses. So the template first
approaches the images as one (`approach`); then every image is compared with a library of conformations in all poses.
Where it fits best it starts to learn. From what was learned comes the next library, which reaches a little further.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import roma
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from cryomorph.components import Settings
from cryomorph.errors import InputError
from cryomorph.latents.base import Latents
from cryomorph.likelihood.matched_filter import MatchedFilter
from cryomorph.particles.batch import ParticleBatch
from cryomorph.particles.loader import prefetch, spread_over_groups
from cryomorph.particles.stack import BatchSource, ParticleStack
from cryomorph.poses.search import SearchedPoses
from cryomorph.progress import Progress, Silent
from cryomorph.reconstruction import Reconstruction
from cryomorph.scan.candidates import Candidates
from cryomorph.scan.fast import RingScan
from cryomorph.scan.grid import ProductGrid
from cryomorph.scan.polish import polish
from cryomorph.search.approach import ApproachSettings, approach
from cryomorph.search.distil import learn_path
from cryomorph.search.library import Library, along_main_motion, latents_of_some
from cryomorph.structure.beads import Beads
from cryomorph.structure.model import Template

logger = logging.getLogger(__name__)

IMAGES_AT_ONCE = 2048
"""Images that are scanned at a time: their harmonics are kept meanwhile."""
APPROACH_GRID = ProductGrid(200, 48)
"""Coarser than for poses: only the mean over images counts."""
NOISE_IMAGES = 256
"""Images of noise that tell how well a conformation fits by chance."""
SAME_DEGREES = 15.0
"""Poses closer than this are one optimum: then the refined one stays unless the new one fits better."""


class SearchSettings(Settings):
    """How poses are searched, together with conformations, for `poses: search`."""

    epochs: tuple[int, ...] = Field((2, 5, 8, 12, 16, 20), description="after how many epochs to search again")
    directions: int = Field(400, ge=1, description="viewing directions")
    in_plane: int = Field(72, ge=2, multiple_of=2, description="in-plane angles of each direction")
    library: int = Field(8, ge=1, description="conformations along the main motion")
    extension: float = Field(1 / 3, ge=0, description="how far they reach beyond it at both ends, as a share of it")
    models: tuple[Path, ...] = Field((), description="further models of the same residues (PDB, mmCIF) to compare with")
    candidates: int = Field(64, ge=1, description="poses and conformations kept of each image, to tell how sure it is")
    shift_range: float = Field(0.0, ge=0, description="Å around the file's shifts in which particles are looked for")
    shift_step: float = Field(3.0, gt=0, description="Å between shifts that are tried")
    growth: float = Field(10.0, ge=0, description="Å by which the molecule may reach farther than the template")
    approach: ApproachSettings = Field(default_factory=ApproachSettings)

    @property
    def room(self) -> float:
        """Å that windows reach beyond the template for what is still to be found."""
        return self.growth + self.shift_range


class JointSearch:
    """Searches poses and conformations of all particles.

    Parameters
    ----------
    settings
        What is compared, and when.
    reconstruction, latents
        The model; its pose source is `SearchedPoses`, its likelihood `MatchedFilter`.
    stack
        The particles.
    template
        Names the residues.
    models
        Further conformations in the template's frame, shape (k, n, 3) Å.
    seed
        Of what is drawn at random.

    Raises
    ------
    InputError
        If the likelihood has no windows.
    """

    found = "new_poses"
    """Name of what `run` returns."""

    def __init__(
        self,
        settings: SearchSettings,
        reconstruction: Reconstruction,
        latents: Latents,
        stack: ParticleStack,
        template: Template,
        models: NDArray[np.float64],
        *,
        seed: int,
    ) -> None:
        if not isinstance(reconstruction.likelihood, MatchedFilter):
            raise InputError("poses: search needs likelihood: matched_filter, whose windows it compares")
        if not isinstance(reconstruction.poses, SearchedPoses):
            raise ValueError("a search needs poses that it can replace")
        self.settings = settings
        self.reconstruction, self.latents, self.stack, self.template = reconstruction, latents, stack, template
        self.likelihood, self.poses = reconstruction.likelihood, reconstruction.poses
        self.models = torch.from_numpy(models).float()
        self.seed = seed

    def due(self, epoch: int) -> bool:
        """Tell whether to search after so many epochs."""
        return epoch == 0 or epoch in self.settings.epochs

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
        """Find poses, and where in latent space particles go on; before the first epoch, or with what was learned.

        Parameters
        ----------
        epoch
            How many epochs are done.
        source
            Of batches with windows.
        rows
            Particles that this process owns.
        pose_optimizer, latent_optimizer
            Of what is replaced.
        progress
            Told of images times conformations.

        Returns
        -------
        float
            Share of the particles whose pose was replaced.
        """
        assert pose_optimizer is not None  # of `SearchedPoses`
        progress = progress or Silent()
        scan = self._scan(self._grid)
        find: Callable[[RingScan, ParticleBatch, Library, Progress], tuple[Candidates, Tensor]]
        if epoch == 0:
            start = self.reconstruction.conformations.template[None].to(self._device)
            self._that_fit(scan, Library.free(start.new_zeros(0, self.latents.latent_dim), start))
            library, lowest, find = (
                self._first_library(source, progress),
                scan.lowest_normalised,
                self._first_candidates,
            )
            library = self._priced(self._that_fit(scan, library), scan, source, lowest)
        else:
            (scan, library), find = self.learned(source), self._candidates
        return self._replace_by(
            lambda batch: find(scan, batch, library, progress),
            *(source, rows, library, pose_optimizer, latent_optimizer, progress),
        )

    @torch.no_grad()
    def learned(self, source: BatchSource) -> tuple[RingScan, Library]:
        """Return a scan, and the conformations that were learned with their prices, to `compare` images with."""
        scan = self._scan(self._grid)
        return scan, self._priced(self._that_fit(scan, self._learned_library()), scan, source, scan.lowest)

    @property
    def _grid(self) -> ProductGrid:
        return ProductGrid(self.settings.directions, self.settings.in_plane)

    @property
    def _device(self) -> torch.device:
        return self.likelihood.windows.width.device

    def _scan(self, grid: ProductGrid) -> RingScan:
        shifts = {"shift_range": self.settings.shift_range, "shift_step": self.settings.shift_step}
        return RingScan(self.likelihood, grid, **shifts)

    def _replace_by(
        self,
        find: Callable[[ParticleBatch], tuple[Candidates, Tensor]],
        source: BatchSource,
        rows: NDArray[np.int64],
        library: Library,
        pose_optimizer: Optimizer,
        latent_optimizer: Optimizer,
        progress: Progress,
    ) -> float:
        """Take over what is found for particles; `find` says for which. Returns their share."""
        parts = np.array_split(rows, -(-len(rows) // IMAGES_AT_ONCE))
        progress.start("search", len(rows) * len(library.conformations))
        replaced = 0
        training = self.latents.training
        self.latents.eval()
        try:
            for batch in prefetch(source, parts):
                moved = batch.to(self._device)
                found, chosen = find(moved)
                index = moved.index[chosen]
                self.poses.replace(index, found.rotation[chosen, 0], found.shift[chosen, 0], pose_optimizer)
                member = found.conformation[:, 0]
                placed = chosen & (member < len(library.latents))
                z = library.latents[member[placed]]
                self.latents.place(latent_optimizer, moved.index[placed], z)
                replaced += int(chosen.sum())
        finally:
            self.latents.train(training)
            progress.finish()
        return replaced / max(len(rows), 1)

    def _first_candidates(
        self, scan: RingScan, batch: ParticleBatch, library: Library, progress: Progress
    ) -> tuple[Candidates, Tensor]:
        beads = self.reconstruction.beads(library.conformations)
        found = scan.lowest_normalised(scan.see(batch), beads, self.settings.candidates, progress)
        found = found.with_misfit(found.misfit + library.price[found.conformation])
        return found, torch.ones_like(batch.index, dtype=torch.bool)

    def _candidates(
        self, scan: RingScan, batch: ParticleBatch, library: Library, progress: Progress
    ) -> tuple[Candidates, Tensor]:
        """Return what fits each image best, the first polished, and whether it is better than what it has."""
        found = self.compare(scan, batch, library, progress)
        first = torch.zeros_like(batch.index)
        rotation, shift, value = self.polished(found, first, library, batch)
        found.rotation[:, 0], found.shift[:, 0] = rotation, shift
        now, better = self.poses.best(batch)[0], value < self.value_now(batch)
        return found, ~same_pose(rotation, now) | better

    def compare(self, scan: RingScan, batch: ParticleBatch, library: Library, progress: Progress) -> Candidates:
        """Return the poses and conformations that fit each image best, what they cost included."""
        beads = self.reconstruction.beads(library.conformations)
        found = scan.lowest(scan.see(batch), beads, self.settings.candidates, progress)
        return found.with_misfit(found.misfit + library.price[found.conformation])

    def polished(
        self, found: Candidates, which: Tensor, library: Library, batch: ParticleBatch
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Polish one candidate of each image: `which` (b,).

        Returns
        -------
        rotation, shift, value
            Its pose, and its misfit with what its latent coordinates cost, in nats, shape (b,).
        """
        image = torch.arange(len(which), device=which.device)
        member = found.conformation[image, which]
        beads = self.reconstruction.beads(library.conformations[member])
        pose = found.rotation[image, which].float(), found.shift[image, which].float()
        shifts = self.settings.shift_range > 0
        rotation, shift, misfit = polish(self.likelihood, beads, *pose, batch, shifts=shifts)
        return rotation, shift, misfit + self._cost(library)[member]

    def value_now(self, batch: ParticleBatch) -> Tensor:
        """Return the same of the poses and latents that the particles have, shape (b,)."""
        z = self.latents(batch)
        beads = self.reconstruction.beads(self.reconstruction.conformations(z))
        misfit = self.likelihood.misfit(*self.likelihood.terms(beads, *self.poses.best(batch), batch), batch)
        return misfit + self._latent_cost(z)

    def _priced(
        self, library: Library, scan: RingScan, source: BatchSource, lowest: Callable[..., Candidates]
    ) -> Library:
        """Tell what each conformation costs: by the latents' prior, and since it fits noise better than others."""
        rows = spread_over_groups(self.stack.table.optics_group, NOISE_IMAGES, least=1)
        noise = scan.see(self._without_signal(source.batch(rows).to(self._device)))
        beads = self.reconstruction.beads(library.conformations)
        by_chance = torch.stack([lowest(noise, _one(beads, n), 1).misfit.mean() for n in range(len(beads.positions))])
        return replace(library, price=self._cost(library) - by_chance)

    def _cost(self, library: Library) -> Tensor:
        """Return what the latent coordinates of a library cost, shape (L,); 0 where they are not known."""
        cost = self._latent_cost(library.latents)
        return torch.cat([cost, cost.new_zeros(len(library.conformations) - len(cost))])

    def _latent_cost(self, z: Tensor) -> Tensor:
        """Return what latent coordinates (k, d) cost under their prior, in nats, shape (k,)."""
        return 0.5 * self.reconstruction.latent_prior.to(z.dtype) * z.square().sum(1)

    def _first_library(self, source: BatchSource, progress: Progress) -> Library:
        """Let the template approach the images, teach the decoder the way, and return points along it."""
        model, settings = self.reconstruction.conformations, self.settings
        start = model.template.to(self._device)
        way = start[None]
        if settings.approach.rounds:
            score = self._score(source)
            path = approach(self.template, start, score, self.reconstruction.geometry, settings.approach, progress)
            way = path.conformations
            logger.info("the template approached the images in %d steps", len(way) - 1)
        others = torch.cat([start[None], self.models.to(start)])
        way = torch.cat([way, self.models.to(start)])
        if len(way) == 1:
            return Library.free(way.new_zeros(0, model.latent_dim), others)
        if len(self.models):
            way = way[_order(way)]
        with torch.enable_grad():
            z, error = learn_path(model, way, seed=self.seed)
        logger.info("the decoder learned %d conformations to %.2f Å", len(way), error)
        points = torch.linspace(0, len(way) - 1, settings.library, device=way.device)
        before = points.long().clamp(max=len(way) - 2)
        latents = torch.lerp(z[before], z[before + 1], (points - before)[:, None])
        return Library.free(latents, torch.cat([model(latents), others]))

    def _score(self, source: BatchSource) -> Callable[[Tensor], Tensor]:
        """Return what tells how well conformations (L, n, 3) fit each of some images, (L, images), poses unknown.

        The best of many poses fits noise as well, and the better the more different a conformation looks from all
        sides. So it is compared with as many images of noise.
        """
        rows = spread_over_groups(self.stack.table.optics_group, self.settings.approach.images, least=1)
        scan = self._scan(APPROACH_GRID)
        batch = source.batch(rows).to(self._device)
        images, noise = scan.see(batch), scan.see(self._without_signal(batch))

        @torch.no_grad()
        def score(x: Tensor) -> Tensor:
            beads = self.reconstruction.beads(x)
            result = torch.full((len(x), len(rows)), torch.inf, device=x.device)
            for number in torch.nonzero(scan.fits(beads))[:, 0].tolist():
                one = _one(beads, number)
                by_chance = scan.lowest_normalised(noise, one, 1).misfit[:, 0]
                result[number] = scan.lowest_normalised(images, one, 1).misfit[:, 0] - by_chance
            return result

        return score

    def _learned_library(self) -> Library:
        """Return points along the main motion learned so far, the template and models."""
        z = latents_of_some(self.latents, self.stack, self._device)
        others = torch.cat([self.reconstruction.conformations.template[None].to(z), self.models.to(z)])
        settings, model = self.settings, self.reconstruction.conformations
        return along_main_motion(model, z, settings.library, settings.extension, others)

    def _that_fit(self, scan: RingScan, library: Library) -> Library:
        """Leave out what is larger than the windows."""
        fits = scan.fits(self.reconstruction.beads(library.conformations))
        if not fits.any():
            raise InputError(
                f"the template reaches beyond the {scan.radius:.0f} Å that windows leave: is it docked? Is the box "
                f"large enough? Else raise search.growth (it is {self.settings.growth:g} Å)"
            )
        if not fits.all():
            logger.info("%d of the library's conformations are larger than the windows: left out", int((~fits).sum()))
        return Library.free(library.latents[fits[: len(library.latents)]], library.conformations[fits])

    def _without_signal(self, batch: ParticleBatch) -> ParticleBatch:
        return self.likelihood.without_signal(batch, torch.Generator().manual_seed(self.seed))


def same_pose(one: Tensor, other: Tensor) -> Tensor:
    """Tell which rotations (..., 3, 3) are one optimum of the misfit, as far as the angle between them says."""
    same: Tensor = torch.rad2deg(roma.rotmat_geodesic_distance(one, other)) <= SAME_DEGREES
    return same


def _one(beads: Beads, number: int) -> Beads:
    """Return one of some conformations."""
    return Beads(beads.positions[number : number + 1], beads.amplitude, beads.width)


def _order(x: Tensor) -> Tensor:
    """Order of conformations (k, n, 3) along their largest difference."""
    flat = x.flatten(1)
    ends: Any = torch.cdist(flat, flat).argmax()
    first, last = int(ends) // len(x), int(ends) % len(x)
    return (flat @ (flat[last] - flat[first])).argsort()
