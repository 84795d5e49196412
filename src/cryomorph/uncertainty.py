"""How sure the conformation of every particle is, and whether there is a particle in its image at all."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomorph.conformations.base import ConformationModel
from cryomorph.expansion import STEP, Seen, expand
from cryomorph.fourier import image_coefficients
from cryomorph.particles.batch import ParticleBatch
from cryomorph.particles.stack import ParticleStack
from cryomorph.posterior import WEAKEST_PRIOR, find_posterior, images_at_once, posteriors
from cryomorph.progress import Progress
from cryomorph.reconstruction import Reconstruction
from cryomorph.search.everywhere import Everywhere
from cryomorph.selection import Selection
from cryomorph.widening import widening

SAMPLE = 48
"""Particles that tell along which directions of latent space images say anything."""
CHANGES_AT_ONCE = 256
"""Images times directions that are in memory together."""
SHAPED = 48
"""Particles that tell how much wider posteriors are than normal distributions of their curvature."""
LEAST_INFORMATION = 0.5
"""About a direction that is looked at in every image, relative to the prior's. Of the others, which are hardly narrower
than the prior, the mean over the sample is taken."""
MOST_DIRECTIONS = 8
"""That are looked at in every image, so that decoders with very many latents cost no more."""
ENOUGH = 0.05
"""Nats that a step must promise: latents are then nearer than a third of their uncertainty."""
BEYOND = 0.03
"""Share of what images say about the latents that may be at higher frequencies than those that are looked at."""
ROUNDS, STILL = 1000, 1e-6
"""Of expectation and maximisation, and the change of the share of junk that ends them."""

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Directions:
    """Directions of latent space, those first about which images say most.

    Attributes
    ----------
    basis : Tensor (d, d)
        Orthonormal columns.
    information : Tensor (d,)
        Mean precision that image and geometry give, descending; the prior's own comes on top.
    count : int
        How many are looked at in every image.
    rest : Tensor (n,)
        Mean square displacement of each residue, in Å², by what is not known of the latents along all others.
    highest : int
        Fourier index beyond which images say hardly more about the latents.
    """

    basis: Tensor
    information: Tensor
    count: int
    rest: Tensor
    highest: int

    @property
    def followed(self) -> Tensor:
        """Those that are looked at in every image, shape (d, k)."""
        return self.basis[:, : self.count]


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """What `posterior.npz` holds of the m particles of a run, whose latents have d coordinates.

    Attributes
    ----------
    latents : array (m, d)
        The most probable ones.
    directions : array (d, k)
        Orthonormal columns: those about which images say something.
    covariance : array (m, k, k)
        Of the latents of each particle along these directions.
    rest : array (d, d)
        Covariance along all other directions, the same for all particles.
    deviation : array (m,)
        Å by which residues may be off, root mean square over them.
    residues : array (n,)
        The same for each residue, root mean square over particles.
    relevance : array (d,)
        Precision that images and geometry give along each direction of latent space, those of `directions` first, on
        average over some particles and relative to the prior's: directions about which images say nothing have 0.
    information : array (m,)
        Nats that the image says about the latents: half the logarithm of the ratio of the determinants of prior and
        posterior covariance, the latter by Laplace's approximation as it is; `covariance` is widened beyond it.
    explained : array (m,)
        Nats by which the conformation explains the image better than nothing does.
    junk : array (m,)
        Probability that there is nothing but noise in the image.
    elsewhere : array (m,)
        Probability that the particle lies in quite another pose than the one found, more than 15 degrees from it; 0
        where poses were not searched.
    choices : array (m,)
        How many of the conformations that were searched share the posterior of the particle, e to its entropy over
        them; 1 where poses were not searched.
    """

    latents: Array
    directions: Array
    covariance: Array
    rest: Array
    deviation: Array
    residues: Array
    relevance: Array
    information: Array
    explained: Array
    junk: Array
    elsewhere: Array
    choices: Array

    def with_other_poses(self, everywhere: Everywhere) -> "Uncertainty":
        """Return the same expected over all poses.

        What is kept of each particle's own uncertainty is a part of its mean over residues; of each residue, that part
        of the particles' sum is kept.
        """
        squares = np.square(self.deviation)
        kept = everywhere.kept * squares
        share = kept.sum() / max(squares.sum(), np.finfo(np.float32).tiny)
        return replace(
            self,
            elsewhere=everywhere.elsewhere,
            choices=everywhere.conformations,
            deviation=np.sqrt(kept + everywhere.square),
            residues=np.sqrt(share * np.square(self.residues) + everywhere.residues),
        )

    def full(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the covariance of all latents of some particles, shape (b, d, d)."""
        basis = self.directions.astype(np.float64)
        return np.asarray(basis @ self.covariance[rows] @ basis.T + self.rest)


def find_uncertainty(
    reconstruction: Reconstruction,
    stack: ParticleStack,
    start: Callable[[ParticleBatch, Tensor], Tensor],
    *,
    latent_prior: float,
    steps: int,
    selection: Selection | None = None,
    progress: Progress | None = None,
) -> Uncertainty:
    """Find the posterior of every particle of a stack, about where its latents are after training.

    Parameters
    ----------
    reconstruction
        Trained, in evaluation mode.
    stack
        All its particles.
    start, latent_prior, steps, selection, progress
        As in `cryomorph.posterior.posteriors`.
    """
    prior = max(latent_prior, WEAKEST_PRIOR)
    directions = informed_directions(reconstruction, stack, start, latent_prior=prior, selection=selection)
    followed, other = directions.followed, directions.basis[:, directions.count :].double()
    parts: list[tuple[NDArray[np.float32], ...]] = []
    evidence, squares = [], torch.zeros_like(directions.rest)
    wider = shape_factor(reconstruction, stack, start, directions, latent_prior=prior, steps=steps, selection=selection)
    found = posteriors(
        reconstruction,
        stack,
        np.arange(len(stack)),
        start,
        latent_prior=latent_prior,
        selection=selection,
        directions=followed,
        highest=directions.highest,
        steps=steps,
        enough=ENOUGH,
        progress=progress,
        title="uncertainty",
    )
    for _, posterior in found:
        square = wider * posterior.deviation.square() + directions.rest
        squares += square.sum(0)
        told = -0.5 * torch.logdet(prior * posterior.inside)
        arrays = (posterior.mean, wider * posterior.inside, square.mean(1).sqrt(), told, -posterior.misfit)
        parts.append(tuple(array.float().cpu().numpy() for array in arrays))
        evidence.append(posterior.evidence.cpu().numpy())
    latents, covariance, deviation, information, explained = (np.concatenate(part) for part in zip(*parts, strict=True))
    information_of_rest = directions.information[directions.count :]
    of_rest = float(0.5 * torch.log1p(information_of_rest / prior).sum())
    return Uncertainty(
        latents=latents,
        directions=followed.float().cpu().numpy(),
        covariance=covariance,
        rest=((other / (prior + information_of_rest)) @ other.T).float().cpu().numpy(),
        deviation=deviation,
        residues=(squares / len(stack)).sqrt().float().cpu().numpy(),
        relevance=(directions.information / prior).float().cpu().numpy(),
        information=(information + of_rest).astype(np.float32),
        explained=explained,
        junk=junk_probability(np.concatenate(evidence)).astype(np.float32),
        elsewhere=np.zeros(len(stack), np.float32),
        choices=np.ones(len(stack), np.float32),
    )


def shape_factor(
    reconstruction: Reconstruction,
    stack: ParticleStack,
    start: Callable[[ParticleBatch, Tensor], Tensor],
    directions: Directions,
    *,
    latent_prior: float,
    steps: int,
    selection: Selection | None,
) -> float:
    """Return by which factor variances exceed those of Laplace's approximation, on average over some particles.

    Other parameters are those of `find_uncertainty`.
    """
    device = reconstruction.likelihood.gain.device
    rows = np.linspace(0, len(stack) - 1, min(SHAPED, len(stack))).astype(np.int64)
    factors = []
    for part in np.array_split(rows, -(-len(rows) // images_at_once(stack.box))):
        batch = stack.batch(part).to(device)
        assert batch.image is not None
        observed = image_coefficients(batch.image)
        seen = Seen.of(reconstruction, batch, observed, stack.box, selection, directions.highest)
        posterior = find_posterior(
            reconstruction,
            batch,
            observed,
            start(batch, observed),
            box=stack.box,
            latent_prior=latent_prior,
            selection=selection,
            directions=directions.followed,
            highest=directions.highest,
            steps=steps,
            enough=ENOUGH,
        )
        factors.append(widening(seen, posterior, directions.followed, latent_prior))
    return max(float(torch.cat(factors).mean()), 1.0)


@torch.no_grad()
def informed_directions(
    reconstruction: Reconstruction,
    stack: ParticleStack,
    start: Callable[[ParticleBatch, Tensor], Tensor],
    *,
    latent_prior: float,
    selection: Selection | None = None,
) -> Directions:
    """Find along which directions of latent space the images say something, from some of the particles.

    Parameters are those of `find_uncertainty`.
    """
    device = reconstruction.likelihood.gain.device
    rows = np.linspace(0, len(stack) - 1, min(SAMPLE, len(stack))).astype(np.int64)
    curvatures, moves, shells = [], [], []
    at_once = max(1, CHANGES_AT_ONCE // reconstruction.conformations.latent_dim)
    for part in np.array_split(rows, -(-len(rows) // at_once)):
        batch = stack.batch(part).to(device)
        assert batch.image is not None
        observed = image_coefficients(batch.image)
        z = start(batch, observed)
        seen = Seen.of(reconstruction, batch, observed, stack.box, selection)
        expansion = expand(seen, z, torch.eye(z.shape[1], device=device), latent_prior)
        curvatures.append(expansion.curvature)
        moves.append(expansion.move)
        shells.append(seen.over_shells(expansion.change))
    values, vectors = torch.linalg.eigh(torch.cat(curvatures).mean(0))
    information, basis = (values.flip(0) - latent_prior).clamp(min=0), vectors.flip(1)
    count = int((information > LEAST_INFORMATION * latent_prior).sum())
    count = min(max(count, 1), MOST_DIRECTIONS)
    return Directions(
        basis=basis.to(z.dtype),
        information=information,
        count=count,
        rest=_moved_by_rest(torch.cat(moves), basis[:, count:], latent_prior + information[count:]),
        highest=_highest(torch.stack(shells).sum(0), basis[:, :count]),
    )


def _highest(shells: Tensor, followed: Tensor) -> int:
    """Return the shell beyond which images hardly change along directions (d, k), given the parts of all shells."""
    told = torch.einsum("dk,sde,ek->s", followed, shells, followed).cumsum(0)
    return int((told < (1 - BEYOND) * told[-1]).sum())


def _moved_by_rest(move: Tensor, rest: Tensor, precision: Tensor) -> Tensor:
    """Return the mean square displacement (n,) in Å² of residues by directions (d, r) of given precisions (r,)."""
    scaled = (rest / precision.sqrt()).T
    squares = (scaled @ move.double()).square().sum(1).mean(0)
    return squares.view(-1, 3).sum(1)


@torch.no_grad()
def residue_deviation(model: ConformationModel, z: Tensor, covariance: Tensor) -> Tensor:
    """Return how far each residue may be off in Å, `sqrt(tr J Σ Jᵀ)`, shape (b, n).

    Parameters
    ----------
    model
        Trained.
    z, covariance
        The most probable latents, and their covariance, shapes (b, d) and (b, d, d).
    """
    x = model(z)
    moves = [model(z + STEP * one) - x for one in torch.eye(z.shape[1], dtype=z.dtype, device=z.device)]
    jacobian = torch.stack(moves, dim=3).double() / STEP
    return torch.einsum("bncj,bjk,bnck->bn", jacobian, covariance.double(), jacobian).clamp(min=0).sqrt()


def junk_probability(evidence: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probability that there is nothing but noise in each image, shape (m,).

    Images are a mixture of particles and of noise alone, whose share is the most likely one (expectation and
    maximisation).

    Parameters
    ----------
    evidence
        Logarithm of how much more probable each image is as one of a particle, in nats, shape (m,).
    """
    share = 0.5
    for _ in range(ROUNDS):
        junk = 1 / (1 + (1 - share) / share * np.exp(np.clip(evidence, -500, 500)))
        before, share = share, float(np.clip(junk.mean(), 1e-9, 1 - 1e-9))
        if abs(share - before) < STILL:
            break
    return np.asarray(junk)
