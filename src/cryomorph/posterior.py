"""What one image says about the conformation in it: the most probable latents, and how sure they are.

Everything that particles share is held fast, poses too. About the most probable latents the image changes linearly with
them, so that the posterior is a normal distribution whose precision is the Fisher information of the image, the
curvature of the geometric priors and that of the latents' prior (Laplace's approximation).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomorph.fourier import image_coefficients, inside_circle
from cryomorph.geometry import project
from cryomorph.likelihood.direct import projection_coefficients
from cryomorph.particles.batch import ParticleBatch
from cryomorph.particles.loader import prefetch
from cryomorph.particles.stack import ParticleStack
from cryomorph.progress import Progress, Silent
from cryomorph.reconstruction import Reconstruction
from cryomorph.selection import Selection

IMAGES_AT_ONCE = 32
"""Whose changes along all directions are in memory together."""
STEP = 0.02
"""Of latents, for derivatives: small beside the prior's width of 1, large beside the rounding of coordinates."""
STEPS = 6
ENOUGH = 0.005
"""Nats that a step must promise to be worth taking: latents are then within a tenth of their uncertainty."""
FIRST_DAMPING, LEAST_DAMPING, MOST_DAMPING = 1e-3, 1e-6, 1e6
MORE_DAMPING, LESS_DAMPING = 10.0, 0.1
WEAKEST_PRIOR = 1e-3
"""Strength that a weaker prior of the latents counts as: without any, what images do not determine has no width."""


@dataclass(frozen=True, eq=False)
class Posterior:
    """Normal distributions over the latents of b particles.

    Attributes
    ----------
    mean : Tensor (b, d)
        The most probable latents.
    covariance : Tensor (b, d, d)
    inside : Tensor (b, k, k)
        Covariance along the k directions that were looked at.
    deviation : Tensor (b, n)
        Of each residue in Å: the root of its mean square distance from where it most probably is, as far as these
        directions move it.
    misfit : Tensor (b,)
        Of the most probable conformation, in nats relative to an empty image.
    evidence : Tensor (b,)
        Logarithm of the probability of the image, whatever the latents, relative to that of noise alone, in nats.
    """

    mean: Tensor
    covariance: Tensor
    inside: Tensor
    deviation: Tensor
    misfit: Tensor
    evidence: Tensor


@dataclass(frozen=True, eq=False)
class Seen:
    """What is seen of images in Fourier space, and what would be expected of a conformation, in units of the noise.

    Real and imaginary parts of the c coefficients within the Nyquist circle, divided by the standard deviation of their
    noise, stand in a row, so that inner products are plain ones.

    Attributes
    ----------
    reconstruction
        Trained.
    batch
        The particles.
    box
        Pixels along an edge of their images.
    rotation, shift : Tensor (b, 3, 3), (b, 2)
        Their poses.
    inside : Tensor (c,)
        Numbers of the coefficients.
    transfer : Tensor (b, c)
        Signal of each.
    image : Tensor (b, 2 c)
    """

    reconstruction: Reconstruction
    batch: ParticleBatch
    box: int
    rotation: Tensor
    shift: Tensor
    inside: Tensor
    transfer: Tensor
    image: Tensor

    @classmethod
    def of(
        cls,
        reconstruction: Reconstruction,
        batch: ParticleBatch,
        observed: Tensor,
        box: int,
        selection: Selection | None,
    ) -> "Seen":
        """See the coefficients of a batch that are selected, whatever the likelihood was trained on."""
        likelihood = reconstruction.likelihood
        inside = inside_circle(box, observed.device).flatten().nonzero()[:, 0]

        def within(plane: Tensor) -> Tensor:
            return plane.flatten(1).index_select(1, inside)

        root = likelihood.weight(batch, box, every=True).sqrt()
        root = within(root if selection is None else root * selection.of(batch.index))
        image = torch.view_as_real(within(observed) * root).flatten(1)
        transfer = within(likelihood.transfer(batch, box)) * root
        return cls(reconstruction, batch, box, *reconstruction.poses.best(batch), inside, transfer, image)

    def __getitem__(self, rows: Tensor) -> "Seen":
        """Return some of the particles."""
        return replace(
            self,
            batch=self.batch[rows],
            rotation=self.rotation[rows],
            shift=self.shift[rows],
            transfer=self.transfer[rows],
            image=self.image[rows],
        )

    def expected(self, x: Tensor) -> Tensor:
        """Return what is expected of conformations (b, n, 3) at gain 1, shape (b, 2 c)."""
        beads = self.reconstruction.beads(x)
        points = project(beads.positions, self.rotation, self.shift)
        model = projection_coefficients(points, beads.amplitude, beads.width, self.batch.pixel_size, self.box)
        kept = model.flatten(1).index_select(1, self.inside)
        return torch.view_as_real(kept * self.transfer).flatten(1)


@dataclass(frozen=True, eq=False)
class Expansion:
    """The objective of b particles about latents z, to second order along k directions, in nats.

    Attributes
    ----------
    z : Tensor (b, d)
    misfit, value : Tensor (b,)
        Of the image alone; with the geometric priors and that of the latents.
    gradient : Tensor (b, k)
    fisher : Tensor (b, k, k)
        What the image says: its Fisher information.
    curvature : Tensor (b, k, k)
        Of all terms, by the rule of Gauss and Newton, so that it is positive.
    move : Tensor (b, k, 3 n)
        How residues move with the latents, in Å.
    """

    z: Tensor
    misfit: Tensor
    value: Tensor
    gradient: Tensor
    fisher: Tensor
    curvature: Tensor
    move: Tensor

    def step(self, damping: Tensor) -> Tensor:
        """Return the step of Levenberg and Marquardt, shape (b, k), for dampings (b,)."""
        damped = self.curvature + torch.diag_embed(damping[:, None] * self.curvature.diagonal(dim1=1, dim2=2))
        solution: Tensor = torch.linalg.solve(damped, self.gradient)
        return -solution

    def put(self, rows: Tensor, other: "Expansion") -> None:
        """Take over others for the particles `rows`."""
        for mine, others in zip(vars(self).values(), vars(other).values(), strict=True):
            mine[rows] = others


@torch.no_grad()
def find_posterior(
    reconstruction: Reconstruction,
    batch: ParticleBatch,
    observed: Tensor,
    start: Tensor,
    *,
    box: int,
    latent_prior: float,
    selection: Selection | None = None,
    directions: Tensor | None = None,
    steps: int = STEPS,
) -> Posterior:
    """Find the most probable latents of each particle by damped Gauss–Newton steps, and the covariance about them.

    Parameters
    ----------
    reconstruction
        Trained, in evaluation mode, with gain, calibration and poses, on the device of the batch. Nothing is changed.
    batch
        The particles; their images are not needed.
    observed
        Their `image_coefficients`, shape (b, 2K + 1, K + 1).
    start
        Latents to begin at, shape (b, d). The objective may have other minima, far away.
    box
        Pixels along an edge of the images.
    latent_prior
        Strength T of the latents' prior, a normal distribution of variance 1 / T.
    selection
        Coefficients that count, on the device of the batch: mean and covariance are those of an estimate from these
        alone. None: all, whatever the likelihood was trained on.
    directions
        Orthonormal columns (d, k) along which latents are sought. Along all others they stay where they are, and are as
        uncertain as the prior. None: all d.
    steps
        At most; 0 takes the start as it is.

    Returns
    -------
    Posterior
        In double precision.
    """
    seen = Seen.of(reconstruction, batch, observed, box, selection)
    prior = max(latent_prior, WEAKEST_PRIOR)
    if directions is None:
        directions = torch.eye(start.shape[1], device=start.device)
    best = expand(seen, start, directions, prior)
    damping = torch.full((len(start),), FIRST_DAMPING, dtype=torch.float64, device=start.device)
    for _ in range(steps):
        step = best.step(damping)
        promised = -0.5 * (best.gradient * step).sum(1)
        rows = torch.nonzero((promised > ENOUGH) & (damping < MOST_DAMPING))[:, 0]
        if not len(rows):
            break
        trial = best.z[rows] + step[rows].to(start.dtype) @ directions.T
        there = expand(seen[rows], trial, directions, prior)
        better = there.value < best.value[rows]
        damping[rows] *= torch.where(better, LESS_DAMPING, MORE_DAMPING)
        best.put(rows[better], Expansion(*(part[better] for part in vars(there).values())))
    return _summary(best, directions, prior)


def posteriors(
    reconstruction: Reconstruction,
    stack: ParticleStack,
    rows: NDArray[np.int64],
    start: Callable[[ParticleBatch, Tensor], Tensor],
    *,
    latent_prior: float,
    selection: Selection | None = None,
    directions: Tensor | None = None,
    steps: int = STEPS,
    progress: Progress | None = None,
    title: str = "posterior",
) -> Iterator[tuple[NDArray[np.int64], Posterior]]:
    """Yield rows (b,) of a stack and their posteriors, batch by batch, reading images ahead.

    Parameters
    ----------
    reconstruction
        Trained; its device is computed on. Its poses know the particles of the stack by their rows, or are those that
        the particles come with.
    stack, rows
        The particles, and which of them.
    start
        Returns latents (b, d) to begin at for a batch and its `image_coefficients`: those of a run, or what
        `best_start` finds.
    latent_prior, selection, directions, steps
        As in `find_posterior`.
    progress, title
        Told of every image, under a title.
    """
    progress = progress or Silent()
    device = reconstruction.likelihood.gain.device
    parts = np.array_split(rows, -(-len(rows) // IMAGES_AT_ONCE)) if len(rows) else []
    progress.start(title, len(rows))
    try:
        for part, batch in zip(parts, prefetch(stack, parts), strict=True):
            moved = batch.to(device)
            if moved.image is None:
                raise ValueError("the images of the batch are needed")
            observed = image_coefficients(moved.image)
            yield (
                part,
                find_posterior(
                    reconstruction,
                    moved,
                    observed,
                    start(moved, observed),
                    box=stack.box,
                    latent_prior=latent_prior,
                    selection=selection,
                    directions=directions,
                    steps=steps,
                ),
            )
            progress.advance(len(part))
    finally:
        progress.finish()


def best_start(
    reconstruction: Reconstruction,
    batch: ParticleBatch,
    observed: Tensor,
    places: Tensor,
    *,
    box: int,
    latent_prior: float,
    selection: Selection | None = None,
) -> Tensor:
    """Return the one of several places (k, d) in latent space that is most probable for each particle, shape (b, d).

    Other parameters are those of `find_posterior`.
    """
    seen = Seen.of(reconstruction, batch, observed, box, selection)
    with torch.no_grad():
        x = reconstruction.conformations(places)
        cost = reconstruction.geometry(x) + 0.5 * latent_prior * places.square().sum(1)
        values = [_compare(seen, seen.expected(one.expand(len(batch), -1, -1)))[0] for one in x]
    return places[(torch.stack(values) + cost[:, None]).argmin(0)]


def expand(seen: Seen, z: Tensor, directions: Tensor, latent_prior: float) -> Expansion:
    """Expand the objective about latents z (b, d) along directions (d, k); derivatives are differences of one step."""
    reconstruction = seen.reconstruction
    x = reconstruction.conformations(z)
    here = seen.expected(x)
    misfit, scale = _compare(seen, here)
    geometry, force = _geometry(reconstruction, x)
    changes, moves, forces = [], [], []
    for direction in directions.T:
        there = reconstruction.conformations(z + STEP * direction)
        changes.append((seen.expected(there) - here) / STEP)
        moves.append(((there - x) / STEP).flatten(1))
        forces.append((_geometry(reconstruction, there)[1] - force) / STEP)
    change, move = torch.stack(changes, dim=1), torch.stack(moves, dim=1)
    fisher = _fisher(seen, here, change, scale)
    bending = (move @ torch.stack(forces, dim=2)).double()
    residual = scale[:, None] * here - seen.image
    along = (z @ directions).double()
    gradient = (scale[:, None] * (change @ residual[:, :, None])[..., 0] + (move @ force[:, :, None])[..., 0]).double()
    return Expansion(
        z=z.clone(),
        misfit=misfit.double(),
        value=misfit.double() + geometry.double() + 0.5 * latent_prior * z.double().square().sum(1),
        gradient=gradient + latent_prior * along,
        fisher=fisher,
        curvature=fisher + _positive(bending) + latent_prior * torch.eye(len(directions.T), device=z.device),
        move=move,
    )


def _compare(seen: Seen, expected: Tensor) -> tuple[Tensor, Tensor]:
    """Return misfit and scale of each image, both of shape (b,)."""
    likelihood = seen.reconstruction.likelihood
    terms = (seen.image * expected).sum(1), expected.square().sum(1)
    return likelihood.misfit(*terms, seen.batch), likelihood.scale(*terms, seen.batch)


def _fisher(seen: Seen, expected: Tensor, change: Tensor, scale: Tensor) -> Tensor:
    """Return the Fisher information (b, k, k) of images that change by (b, k, 2 c), in double precision.

    A scale of the image's own is not known either: what it could explain of the changes says nothing.
    """
    fisher = scale[:, None, None].square() * (change @ change.transpose(1, 2))
    likelihood = seen.reconstruction.likelihood
    if likelihood.settings.scale_spread > 0:
        gain = likelihood.gain[seen.batch.optics_group].to(expected.dtype)
        variance = (likelihood.settings.scale_spread * gain).square()
        like = scale[:, None] * (change @ expected[:, :, None])[..., 0]
        share = variance / (1 + variance * expected.square().sum(1))
        fisher = fisher - share[:, None, None] * like[:, :, None] * like[:, None, :]
    return fisher.double()


def _geometry(reconstruction: Reconstruction, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return what conformations (b, n, 3) cost in nats, shape (b,), and the gradient of it, shape (b, 3 n)."""
    with torch.enable_grad():
        free = x.detach().requires_grad_()
        cost = reconstruction.geometry(free)
        if not cost.requires_grad:  # there are no priors
            return cost, torch.zeros_like(x).flatten(1)
        (gradient,) = torch.autograd.grad(cost.sum(), free)
    return cost.detach(), gradient.flatten(1)


def _positive(matrix: Tensor) -> Tensor:
    """Return the nearest symmetric matrices (b, k, k) without negative eigenvalues."""
    values, vectors = torch.linalg.eigh(0.5 * (matrix + matrix.transpose(1, 2)))
    positive: Tensor = (vectors * values.clamp(min=0)[:, None]) @ vectors.transpose(1, 2)
    return positive


def _summary(best: Expansion, directions: Tensor, latent_prior: float) -> Posterior:
    """Return the normal distributions that expansions about the most probable latents stand for."""
    basis = directions.double()
    inside = torch.linalg.inv(best.curvature)
    rest = torch.eye(len(basis), dtype=torch.float64, device=basis.device) - basis @ basis.T
    widening = 0.5 * torch.logdet(latent_prior * inside)
    moved = torch.linalg.cholesky(inside).transpose(1, 2) @ best.move.double()
    return Posterior(
        mean=best.z.double(),
        covariance=basis @ inside @ basis.T + rest / latent_prior,
        inside=inside,
        deviation=moved.square().sum(1).view(len(moved), -1, 3).sum(2).sqrt(),
        misfit=best.misfit,
        evidence=widening - best.value,
    )
