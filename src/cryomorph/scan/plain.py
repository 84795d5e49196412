"""The plain scan: every image is compared with its own conformation at every rotation, one by one.

It works with any likelihood and takes no short cut: faster scans are measured by it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cryomorph.likelihood.base import Likelihood
from cryomorph.particles.batch import ParticleBatch
from cryomorph.scan.candidates import Candidates
from cryomorph.structure.beads import Beads

AT_ONCE = 256
"""Projections that are compared in one call, unless a batch has more images: bounds the memory."""


@dataclass(frozen=True, eq=False)
class PlainScan:
    """Compares images with conformations at all rotations of a grid and the known shifts of the particles.

    Attributes
    ----------
    rotations
        Map frame to image frame, shape (n, 3, 3).
    """

    rotations: Tensor

    def lowest(self, batch: ParticleBatch, beads: Beads, likelihood: Likelihood, count: int) -> Candidates:
        """Find the rotations of the lowest misfit at the current gain.

        Parameters
        ----------
        batch
            b images.
        beads
            Of b conformations, one for each image.
        likelihood
            Its sums for the gain are left as they are.
        count
            k, how many are wanted; at most n.
        """
        return self._lowest(batch, beads, likelihood, count, likelihood.misfit)

    def lowest_normalised(self, batch: ParticleBatch, beads: Beads, likelihood: Likelihood, count: int) -> Candidates:
        """Likewise at the best scale of each image and rotation, before a gain is known."""
        return self._lowest(
            batch, beads, likelihood, count, lambda cross, power, _: likelihood.normalised_misfit(cross, power)
        )

    @torch.no_grad()
    def _lowest(
        self,
        batch: ParticleBatch,
        beads: Beads,
        likelihood: Likelihood,
        count: int,
        misfit: Callable[[Tensor, Tensor, ParticleBatch], Tensor],
    ) -> Candidates:
        rotations = self.rotations.to(beads.positions)
        images = len(batch)
        values = rotations.new_full((images, count), torch.inf)
        codes = torch.zeros_like(values, dtype=torch.int64)
        at_once = max(AT_ONCE // images, 1)
        for first in range(0, len(rotations), at_once):
            chunk = rotations[first : first + at_once]
            row = torch.arange(images, device=chunk.device).repeat_interleave(len(chunk))
            many, molecules = batch[row], replace(beads, positions=beads.positions[row])
            terms = likelihood.terms(molecules, chunk.repeat(images, 1, 1), many.shift, many)
            found = misfit(*terms, many).view(images, -1)
            number = torch.arange(first, first + len(chunk), device=chunk.device).expand(images, -1)
            values, place = torch.cat([values, found], dim=1).topk(count, dim=1, largest=False)
            codes = torch.cat([codes, number], dim=1).gather(1, place)
        shift = batch.shift[:, None].expand(-1, count, -1)
        return Candidates(rotations[codes], shift, torch.zeros_like(codes), values)
