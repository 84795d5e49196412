"""What one image says about the conformation in it: the most probable latents, and how sure they are.

Everything that particles share is held fast. About the most probable latents the image changes linearly with them, so
that the posterior is a normal distribution whose precision is the Fisher information of the image, the curvature of the
geometric priors and that of the latents' prior (Laplace's approximation). Poses that are not known exactly explain some
of that change as well, which is no information then.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomorph.expansion import Expansion, Seen, compare, expand, follow, lost_to_poses, value_at
from cryomorph.fourier import image_coefficients
from cryomorph.particles.batch import ParticleBatch
from cryomorph.particles.loader import prefetch
from cryomorph.particles.stack import ParticleStack
from cryomorph.progress import Progress, Silent
from cryomorph.reconstruction import Reconstruction
from cryomorph.selection import Selection

IMAGES_AT_ONCE, PIXELS_AT_ONCE = 128, 2**21
"""Whose changes along all directions are in memory together, at most."""
STEPS = 6
ENOUGH = 0.005
"""Nats that a step must promise to be worth taking: latents are then within a tenth of their uncertainty."""
FAR = 0.05
"""Nats that a step promised after which the objective is expanded anew: latents moved by a third of their uncertainty.
After a shorter one the image is taken to change with the latents as before, which costs one projection, not many."""
FIRST_DAMPING, MOST_DAMPING = 1e-3, 1e6
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
    highest: int | None = None,
    steps: int = STEPS,
    enough: float = ENOUGH,
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
    highest
        Fourier index of the coefficients that count, at most, to save time. None: all within the Nyquist circle.
    steps
        At most; 0 takes the start as it is. The covariance is that at the most probable latents, or, where the last of
        these steps was needed, before it, and before short steps.
    enough
        Nats that a step must promise to be taken.

    Returns
    -------
    Posterior
        In double precision.
    """
    seen = Seen.of(reconstruction, batch, observed, box, selection, highest)
    prior = max(latent_prior, WEAKEST_PRIOR)
    if directions is None:
        directions = torch.eye(start.shape[1], device=start.device)
    best = expand(seen, start, directions, prior)
    damping = torch.full((len(start),), FIRST_DAMPING, dtype=torch.float64, device=start.device)
    for number in range(steps):
        step = best.step(damping)
        promised = -0.5 * (best.gradient * step).sum(1)
        rows = torch.nonzero((promised > enough) & (damping < MOST_DAMPING))[:, 0]
        if not len(rows):
            break
        trial = best.z[rows] + step[rows].to(start.dtype) @ directions.T
        if number + 1 < steps:
            far = promised[rows] > FAR
            better = torch.zeros_like(far)
            for some, anew in ((far, True), (~far, False)):
                if some.any():
                    better[some] = _move(best, seen, rows[some], trial[some], directions, prior, anew=anew)
        else:
            misfit, value = value_at(seen[rows], trial, prior)
            better = value < best.value[rows]
            last = rows[better]
            best.z[last], best.misfit[last], best.value[last] = trial[better], misfit[better], value[better]
        damping[rows] *= torch.where(better, LESS_DAMPING, MORE_DAMPING)
    return _summary(best, directions, prior, *lost_to_poses(seen, best))


def _move(
    best: Expansion, seen: Seen, rows: Tensor, z: Tensor, directions: Tensor, latent_prior: float, *, anew: bool
) -> Tensor:
    """Move particles `rows` to latents z if these are more probable; returns whether they were, bool, as many."""
    if anew:
        there = expand(seen[rows], z, directions, latent_prior)
    else:
        there = follow(seen[rows], best[rows], z, directions, latent_prior)
    better = there.value < best.value[rows]
    best.put(rows[better], there[better])
    return better


def posteriors(
    reconstruction: Reconstruction,
    stack: ParticleStack,
    rows: NDArray[np.int64],
    start: Callable[[ParticleBatch, Tensor], Tensor],
    *,
    latent_prior: float,
    selection: Selection | None = None,
    directions: Tensor | None = None,
    highest: int | None = None,
    steps: int = STEPS,
    enough: float = ENOUGH,
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
    latent_prior, selection, directions, highest, steps, enough
        As in `find_posterior`.
    progress, title
        Told of every image, under a title.
    """
    progress = progress or Silent()
    device = reconstruction.likelihood.gain.device
    parts = np.array_split(rows, -(-len(rows) // images_at_once(stack.box))) if len(rows) else []
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
                    highest=highest,
                    steps=steps,
                    enough=enough,
                ),
            )
            progress.advance(len(part))
    finally:
        progress.finish()


def images_at_once(box: int) -> int:
    """Return how many images of so many pixels along an edge are looked at together."""
    return max(1, min(IMAGES_AT_ONCE, PIXELS_AT_ONCE // box**2))


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
        values = [compare(seen, seen.expected(one.expand(len(batch), -1, -1)))[0] for one in x]
    return places[(torch.stack(values) + cost[:, None]).argmin(0)]


def _summary(best: Expansion, directions: Tensor, latent_prior: float, lost: Tensor, lost_nats: Tensor) -> Posterior:
    """Return the normal distributions that expansions about the most probable latents stand for."""
    basis = directions.double()
    inside = torch.linalg.inv(best.curvature - lost)
    rest = torch.eye(len(basis), dtype=torch.float64, device=basis.device) - basis @ basis.T
    widening = 0.5 * torch.logdet(latent_prior * inside)
    moved = torch.linalg.cholesky(inside).transpose(1, 2) @ best.move.double()
    return Posterior(
        mean=best.z.double(),
        covariance=basis @ inside @ basis.T + rest / latent_prior,
        inside=inside,
        deviation=moved.square().sum(1).view(len(moved), -1, 3).sum(2).sqrt(),
        misfit=best.misfit,
        evidence=widening - best.value - best.scales - lost_nats,
    )
