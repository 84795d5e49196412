"""How much wider posteriors are than the normal distributions that Laplace's approximation puts in their place.

Images change with latents in a curved way, and the objective has shoulders and other minima nearby. So for some
particles the mean square distance from the most probable latents is computed by importance sampling: draws from the
normal distribution, made wider, each weighted by how probable it really is.
"""

import torch
from torch import Tensor

from cryomorph.expansion import Seen, value_at
from cryomorph.posterior import Posterior

DRAWS = 32
"""Of each particle that is looked at: the mean factor over 48 particles is then known to a few percent."""
WIDER = 1.5
"""How much wider than the approximation draws are, so that they reach what it leaves out."""


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
    root = torch.linalg.cholesky(posterior.inside)
    here = value_at(seen, posterior.mean.to(directions.dtype), latent_prior)[1]
    basis = directions.double()
    logarithms, squares = [], []
    for _ in range(DRAWS):
        u = WIDER * torch.randn(len(here), root.shape[-1], generator=generator, dtype=torch.float64).to(root.device)
        z = posterior.mean + (root @ u[:, :, None])[..., 0] @ basis.T
        value = value_at(seen, z.to(directions.dtype), latent_prior)[1]
        logarithms.append(here - value + 0.5 * (u / WIDER).square().sum(1))
        squares.append(u.square().mean(1))
    weight = torch.softmax(torch.stack(logarithms), dim=0)
    factor: Tensor = (weight * torch.stack(squares)).sum(0)
    return factor
