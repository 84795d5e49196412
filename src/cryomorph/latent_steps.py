"""Latents of some particles as they are under another strength of their prior, so that it can be tried."""

import torch
from torch import Tensor
from torch.optim import Optimizer

from cryomorph.expansion import Seen, expand
from cryomorph.held_out import HeldOut
from cryomorph.posterior import WEAKEST_PRIOR

IMAGES = 128
"""At most, whose free coefficients decide: each image costs as many projections as there are latents."""
LONGEST = 1.0
"""Step of latents at most, in widths of the prior: beyond, the expansion says nothing."""


class LatentSteps:
    """Newton's step of each particle from where its latents are, for any strength of their prior.

    The objective is expanded once: the prior's part of it is known for every strength.

    Parameters
    ----------
    held_out
        The particles and the model, at the strength so far.
    """

    def __init__(self, held_out: HeldOut) -> None:
        reconstruction, self.latents = held_out.reconstruction, held_out.latents
        self.prior = max(float(reconstruction.latent_prior), WEAKEST_PRIOR)
        self.expansions: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        with held_out.still():
            for batch, observed in held_out.batches():
                z = self.latents(batch)
                seen = Seen.of(reconstruction, batch, observed, held_out.stack.box, held_out.selection)
                at = expand(seen, z, torch.eye(z.shape[1], device=z.device), self.prior)
                self.expansions.append((batch.index, at.z, at.gradient, at.curvature))

    def take(self, prior: float, optimizer: Optimizer) -> None:
        """Put the latents where the step leads under a strength of their prior.

        Parameters
        ----------
        prior
            The strength.
        optimizer
            Of the latents.
        """
        more = max(prior, WEAKEST_PRIOR) - self.prior
        for rows, z, gradient, curvature in self.expansions:
            towards = gradient + more * z.double()
            there = curvature + more * torch.eye(z.shape[1], dtype=curvature.dtype, device=z.device)
            step = -torch.linalg.solve(there, towards)
            step = step * (LONGEST / step.norm(dim=1, keepdim=True).clamp(min=LONGEST))
            self.latents.place(optimizer, rows, z + step.to(z.dtype))
