"""How much wider posteriors are than the normal distributions that Laplace's approximation puts in their place.

Images change with latents, and with poses, in a curved way, and the objective has shoulders and other minima nearby. So
for some particles the mean square distance from the most probable latents is computed by importance sampling: draws of
latents, and of poses that are not known, from the normal distribution, made wider, each weighted by how probable it
really is.
"""

import torch
from torch import Tensor

from cryomorph.expansion import Seen, expand, value_at, with_poses
from cryomorph.posterior import Posterior

DRAWS = 32
"""Of each particle that is looked at: the mean factor over 48 particles is then known to a few percent."""
WIDER, WIDER_WITH_POSES = 1.5, 1.2
"""How much wider than the approximation draws are, so that they reach what it leaves out; less in more dimensions,
where few of the draws would be probable."""


@torch.no_grad()
def widening(seen: Seen, posterior: Posterior, directions: Tensor, latent_prior: float, seed: int = 0) -> Tensor:
    """Return by which factor variances about the most probable latents exceed the approximation's, shape (b,).

    Parameters
    ----------
    seen
        Of b particles.
    posterior
        Theirs, along the directions.
    directions
        Orthonormal columns, shape (d, k).
    latent_prior
        Strength of the latents' prior.
    seed
        Of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    mean, basis = posterior.mean.to(directions.dtype), directions.double()
    latents = directions.shape[1]
    root = torch.linalg.cholesky(_together(seen, posterior, mean, directions, latent_prior))
    wider = WIDER if seen.spread is None else WIDER_WITH_POSES
    precision = torch.linalg.inv(posterior.inside)
    here = _value(seen, mean, None, latent_prior)
    logarithms, squares = [], []
    for _ in range(DRAWS):
        u = wider * torch.randn(len(here), root.shape[-1], generator=generator, dtype=torch.float64).to(root.device)
        step = (root @ u[:, :, None])[..., 0]
        moved, turned = step[:, :latents], step[:, latents:].to(directions.dtype)
        z = posterior.mean + moved @ basis.T
        value = _value(seen, z.to(directions.dtype), turned, latent_prior)
        logarithms.append(here - value + 0.5 * (u / wider).square().sum(1))
        squares.append(torch.einsum("bi,bij,bj->b", moved, precision, moved) / latents)
    weight = torch.softmax(torch.stack(logarithms), dim=0)
    factor: Tensor = (weight * torch.stack(squares)).sum(0)
    return factor


def _together(seen: Seen, posterior: Posterior, mean: Tensor, directions: Tensor, latent_prior: float) -> Tensor:
    """Return the covariance of latents along the directions, and of poses after them if they are not known."""
    if seen.spread is None:
        return posterior.inside
    at = expand(seen, mean, directions, latent_prior)
    mixed, own = with_poses(seen, at)
    rows = torch.cat([at.curvature, mixed], dim=2), torch.cat([mixed.transpose(1, 2), own], dim=2)
    covariance: Tensor = torch.linalg.inv(torch.cat(rows, dim=1))
    return covariance


def _value(seen: Seen, z: Tensor, turned: Tensor | None, latent_prior: float) -> Tensor:
    """Return the objective (b,) at latents z (b, d) and with poses that are off by so many spreads (b, 5)."""
    if seen.spread is not None and turned is not None:
        seen = seen.turned(turned)
    return value_at(seen, z, latent_prior)[1] + 0.5 * seen.offset.double().square().sum(1)
