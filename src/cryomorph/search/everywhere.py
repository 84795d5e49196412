"""The posterior of every particle over all poses and conformations that were compared, when training is complete.

Poses and conformations are weighed on a grid: all rotations and shifts of the search times a library of conformations.
The taken pose and the best few elsewhere are climbed as well (`modes`), and where such a mode is too narrow for the
grid its mass is that of the climbed one. All else is summed on the grid.
"""

import math
from dataclasses import dataclass

import numpy as np
import roma
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomorph.errors import InputError
from cryomorph.particles.batch import ParticleBatch
from cryomorph.particles.loader import prefetch
from cryomorph.particles.stack import BatchSource
from cryomorph.posterior import WEAKEST_PRIOR
from cryomorph.progress import Progress, Silent
from cryomorph.scan.candidates import Candidates
from cryomorph.scan.fast import RingScan
from cryomorph.search.joint import IMAGES_AT_ONCE, SAME_DEGREES, JointSearch, same_pose
from cryomorph.search.library import Library
from cryomorph.search.modes import Modes, Objective, climb

Array = NDArray[np.float32]

OTHERS = 4
"""Modes besides the one of the taken pose that are climbed, at most."""
MARGIN = 16.0
"""Nats above the best of the grid within which its candidates may be tops of modes: it can miss one by as much."""
LABELS_AT_ONCE = 2**24
"""Rotations times images times modes whose angles are in memory together."""


@dataclass(frozen=True, eq=False)
class Everywhere:
    """What m particles' posteriors over all poses and conformations say.

    Attributes
    ----------
    elsewhere : array (m,)
        Probability that the particle lies more than 15 degrees from the taken pose.
    entropy : array (m,)
        Of poses in nats, as if conformations were known; a climbed mode is one pose, all others are those of the grid.
    conformations : array (m,)
        How many of the library's conformations share the posterior: e to the entropy over them.
    kept : array (m,)
        Probability of the taken mode and of other climbed ones, in which the conformation is as uncertain as in it.
    square : array (m,)
        Mean square distance of residues in Å² to the conformation found, expected over everything else, and the
        distances to conformations of other climbed modes.
    residues : array (n,)
        The same for each residue, mean over particles.
    """

    elsewhere: Array
    entropy: Array
    conformations: Array
    kept: Array
    square: Array
    residues: Array


@dataclass(frozen=True, eq=False)
class Weights:
    """Posterior of b images over s climbed modes and the grid, whose p = s + 1 parts are their regions and the rest.

    Attributes
    ----------
    modes : Tensor (b, s)
        Probability of climbed modes; 0 where the grid is trusted instead.
    grid : Tensor (b, L, p)
        Probability of each conformation in each part of the grid; 0 where a climbed mode counts instead.
    members : Tensor (b, L)
        Of each conformation, that of climbed modes shared out as the grid has it there.
    entropy : Tensor (b,)
        Of poses, in nats.
    """

    modes: Tensor
    grid: Tensor
    members: Tensor
    entropy: Tensor

    @property
    def elsewhere(self) -> Tensor:
        """Probability of everything but the first mode or part, shape (b,)."""
        return self.modes[:, 1:].sum(1) + self.grid[:, :, 1:].sum((1, 2))


def weigh(modes: Tensor, narrow: Tensor, log_grid: Tensor, surprise: Tensor) -> Weights:
    """Put climbed modes and the grid together.

    Parameters
    ----------
    modes
        Logarithm of the mass of climbed modes, shape (b, s).
    narrow
        Which of them replace their part of the grid, bool, shape (b, s).
    log_grid
        Logarithm of the mass of each conformation in each part of the grid, shape (b, L, s + 1).
    surprise
        Mean of minus the logarithms of the masses of single poses, shape (b, L, s + 1).
    """
    log_modes = modes.masked_fill(~narrow, -torch.inf)
    replaced = torch.nn.functional.pad(narrow, (0, 1))[:, None]
    left = log_grid.masked_fill(replaced, -torch.inf)
    total = torch.cat([log_modes, left.flatten(1)], dim=1).logsumexp(1)
    mode, grid = torch.exp(log_modes - total[:, None]), torch.exp(left - total[:, None, None])
    shares = torch.softmax(log_grid[:, :, :-1].clamp(min=torch.finfo(log_grid.dtype).min), dim=1)
    members = grid.sum(2) + (shares * mode[:, None]).sum(2)
    known = surprise + log_grid.clamp(min=torch.finfo(log_grid.dtype).min)  # entropy of poses for each conformation
    entropy = torch.special.entr(mode).sum(1) + torch.special.entr(grid.sum(1)).sum(1) + (grid * known).sum((1, 2))
    return Weights(mode, grid, members, entropy)


@torch.no_grad()
def look_everywhere(
    search: JointSearch, source: BatchSource, directions: Array, progress: Progress | None = None
) -> Everywhere:
    """Compare all particles once more with what was learned, in all poses, and weigh everything.

    Parameters
    ----------
    search
        When training is complete.
    source
        Of batches with windows, all particles.
    directions
        Of latent space, about which images say something, orthonormal columns, shape (d, k).
    progress
        Told of images times conformations.

    Raises
    ------
    InputError
        If no conformation that was learned fits the windows.
    """
    progress = progress or Silent()
    count, latents = len(search.stack), search.latents
    values = np.zeros((5, count), np.float32)
    residues = np.zeros(len(search.template))
    training = latents.training
    latents.eval()
    try:
        look = _Look.of(search, source, directions)
        progress.start("all poses", 2 * count * len(look.library.conformations))
        for batch in prefetch(source, np.array_split(np.arange(count), -(-count // IMAGES_AT_ONCE))):
            moved = batch.to(look.library.conformations.device)
            found, added = look.at(moved, progress)
            values[:, moved.index.cpu().numpy()] = found.cpu().numpy()
            residues += added.double().cpu().numpy()
    finally:
        latents.train(training)
        progress.finish()
    elsewhere, entropy, conformations, kept, square = values
    residues /= count
    return Everywhere(elsewhere, entropy, conformations, kept, square, residues.astype(np.float32))


@dataclass(frozen=True, eq=False)
class _Look:
    """What is the same for all images: the grid, the library and their prior."""

    search: JointSearch
    scan: RingScan
    library: Library
    log_prior: Tensor
    objective: Objective

    @classmethod
    def of(cls, search: JointSearch, source: BatchSource, directions: Array) -> "_Look":
        scan, library = search.learned(source)
        known = len(library.latents)
        if known == 0:
            raise InputError(
                "no conformation that was learned fits the windows: raise search.growth "
                f"(it is {search.settings.growth:g} Å)"
            )
        # Those that no latents stand for are none of the model's.
        library = Library(library.latents, library.conformations[:known], library.price[:known])
        latent_prior = max(float(search.reconstruction.latent_prior), WEAKEST_PRIOR)
        density = latent_density(library.latents, latent_prior)
        geometry = search.reconstruction.geometry(library.conformations).double()
        log_geometry = torch.logsumexp(density - geometry, 0)
        spread = search.poses.corrections.settings.shift_spread
        objective = Objective(
            search.reconstruction,
            torch.from_numpy(directions).to(library.latents),
            latent_prior,
            # Of even shifts in a circle, each coordinate has half the radius.
            math.hypot(spread, 0.5 * search.settings.shift_range),
            log_geometry.item(),
        )
        return cls(search, scan, library, density - geometry - log_geometry - math.log(len(scan)), objective)

    def at(self, batch: ParticleBatch, progress: Progress) -> tuple[Tensor, Tensor]:
        """Return the five values of each image in the order of `Everywhere`, (5, b), and squares (n,) of residues."""
        found = self.search.compare(self.scan, batch, self.library, progress)
        pose, own = self.search.poses.best(batch), self.search.latents(batch)
        here = climb(self.objective, *pose, own, batch)
        others, there = self._others(found, pose[0], batch)
        centres = torch.cat([pose[0][:, None], others.rotation.view(len(batch), -1, 3, 3)], dim=1)
        there = _first_of_each(centres, torch.nn.functional.pad(there, (1, 0), value=True))
        log_grid, surprise = self._grid(batch, pose, own, found, centres, there, progress)
        modes, narrow = (
            torch.cat([one[:, None], other.view(len(batch), -1)], dim=1)
            for one, other in ((here.log_mass, others.log_mass), (self._narrow(here), self._narrow(others)))
        )
        narrow = narrow & there
        narrow[:, 0] &= same_pose(here.rotation, pose[0])
        weights = weigh(modes, narrow, log_grid, surprise)
        squares = self._squares(weights, others, own)
        members = torch.exp(torch.special.entr(weights.members).sum(1))
        kept = weights.modes.sum(1) + weights.grid[:, :, 0].sum(1)
        return (
            torch.stack([weights.elsewhere, weights.entropy, members, kept, squares.mean(1)]).float(),
            squares.sum(0),
        )

    def _narrow(self, modes: Modes) -> Tensor:
        """Tell which modes fall between the points of the grid: their width is less than half of a step."""
        grid, settings = self.scan.grid, self.search.settings
        step = max(math.sqrt(4 * math.pi / grid.directions), 2 * math.pi / grid.in_plane)
        narrow = modes.turn < 0.5 * step
        return narrow | (modes.move < 0.5 * settings.shift_step) if settings.shift_range > 0 else narrow

    def _others(self, found: Candidates, here: Tensor, batch: ParticleBatch) -> tuple[Modes, Tensor]:
        """Climb the best poses elsewhere: modes of b times `OTHERS` images, and which of them there are, (b, OTHERS).

        Those that there are not stay where they begin, with no mass.
        """
        images = torch.arange(len(batch), device=here.device)
        taken, starts, are = [here], [], []
        for _ in range(OTHERS):
            near = torch.stack([same_pose(found.rotation.to(here), one[:, None]) for one in taken]).any(0)
            value, which = found.misfit.masked_fill(near, torch.inf).min(1)
            are.append(value < found.misfit[:, 0] + MARGIN)
            taken.append(found.rotation[images, which].to(here))
            starts.append(which)
        which, there = torch.stack(starts, dim=1), torch.stack(are, dim=1)
        image = images[:, None].expand_as(which)
        rotation, shift = found.rotation[image, which].to(here), found.shift[image, which].to(here)
        z = self.library.latents[found.conformation[image, which]]
        start = Modes(
            *(part.flatten(0, 1) for part in (rotation, shift, z)),
            *(rotation.new_full((there.numel(),), value) for value in (-torch.inf, torch.inf, torch.inf)),
        )
        rows = there.flatten().nonzero()[:, 0]
        climbed = climb(
            self.objective, start.rotation[rows], start.shift[rows], start.latents[rows], batch[image.flatten()[rows]]
        )
        parts = zip(vars(start).values(), vars(climbed).values(), strict=True)
        return Modes(*(old.to(new).index_copy(0, rows, new) for old, new in parts)), there

    def _grid(
        self,
        batch: ParticleBatch,
        pose: tuple[Tensor, Tensor],
        z: Tensor,
        found: Candidates,
        centres: Tensor,
        there: Tensor,
        progress: Progress,
    ) -> tuple[Tensor, Tensor]:
        """Return the masses that conformations have in each part of the grid and the surprise, for `weigh`.

        A scan knows one scale of an image: that which it has where it was found.
        """
        reconstruction, likelihood = self.search.reconstruction, self.search.likelihood
        terms = likelihood.terms(reconstruction.beads(reconstruction.conformations(z)), *pose, batch)
        scale = likelihood.scale(*terms, batch)
        cost = likelihood.misfit(*terms, batch) - (0.5 * scale.square() * terms[1] - scale * terms[0])
        parts = self._parts(centres, there)
        lowest = (found.misfit - self.library.price[found.conformation])[:, 0]
        beads, count = reconstruction.beads(self.library.conformations), centres.shape[1] + 1
        log_sum, mean = self.scan.masses(self.scan.see(batch), beads, scale, parts, count, lowest)
        progress.advance(len(batch) * len(self.library.conformations))
        cost, log_prior = cost.double()[:, None, None], self.log_prior[:, None]
        return log_sum + log_prior - cost, mean - log_prior + cost

    def _parts(self, centres: Tensor, there: Tensor) -> Tensor:
        """Tell which mode each rotation of the grid belongs to, int8, (b, in-plane angles, directions).

        The first of centres (b, s, 3, 3) that is there and near; s where there is none.
        """
        grid = self.scan.grid
        angle, direction = np.divmod(np.arange(len(grid)), grid.directions)
        rotations = torch.from_numpy(grid.rotations(direction, angle)).to(centres).flatten(1)
        near = 1 + 2 * math.cos(math.radians(SAME_DEGREES))  # of the trace
        parts = torch.full((len(centres), len(grid)), centres.shape[1], dtype=torch.int8, device=centres.device)
        for rows in torch.split(torch.arange(len(centres)), max(LABELS_AT_ONCE // (len(grid) * centres.shape[1]), 1)):
            for number in reversed(range(centres.shape[1])):
                inside = centres[rows, number].flatten(1) @ rotations.T >= near
                parts[rows] = parts[rows].masked_fill(inside & there[rows, number, None], number)
        return parts.view(-1, grid.in_plane, grid.directions)

    def _squares(self, weights: Weights, others: Modes, z: Tensor) -> Tensor:
        """Return squares (b, n) in Å² by which residues are expected to be off for conformations elsewhere."""
        model = self.search.reconstruction.conformations
        own = model(z)
        squares = torch.zeros_like(own[..., 0])
        count = weights.modes.shape[1] - 1
        for number in range(count):
            x = model(others.latents.view(len(z), count, -1)[:, number])
            squares += weights.modes[:, 1 + number, None].float() * squared_distance(x, own)
        for number, x in enumerate(self.library.conformations):
            share = weights.grid[:, number, 1:].sum(1, keepdim=True).float()
            squares += share * squared_distance(x.expand_as(own), own)
        return squares


def latent_density(z: Tensor, precision: float) -> Tensor:
    """Return logarithms of the shares that places z (L, d) along a curve have in a normal prior; double precision.

    Each stands for half of the way to its neighbours.
    """
    density = -0.5 * precision * z.double().square().sum(1)
    if len(z) > 1:
        ways = (z[1:] - z[:-1]).double().norm(dim=1)
        length = 0.5 * (torch.nn.functional.pad(ways, (1, 0)) + torch.nn.functional.pad(ways, (0, 1)))
        density = density + length.clamp(min=1e-12).log()
    return density.log_softmax(0)


def _first_of_each(centres: Tensor, there: Tensor) -> Tensor:
    """Leave out modes (b, s) that climbed to where an earlier one is already."""
    kept = there.clone()
    for number in range(1, centres.shape[1]):
        same = same_pose(centres[:, :number], centres[:, number : number + 1]) & kept[:, :number]
        kept[:, number] &= ~same.any(1)
    return kept


def squared_distance(x: Tensor, other: Tensor) -> Tensor:
    """Return the squared distances (b, n) of residues in conformations (b, n, 3), the first ones superposed, in Å²."""
    x, other = (each - each.mean(1, keepdim=True) for each in (x, other))
    rotation = roma.special_procrustes(torch.einsum("bni,bnj->bij", other, x))
    return (torch.einsum("bij,bnj->bni", rotation, x) - other).square().sum(2)
