"""Misfits of a scan's candidates as the likelihood itself has them."""

import torch
from torch import Tensor

from cryomorph.likelihood.base import Likelihood
from cryomorph.particles.batch import ParticleBatch
from cryomorph.scan.candidates import Candidates
from cryomorph.structure.beads import Beads

AT_ONCE = 256
"""Projections that are compared in one call: bounds the memory."""


@torch.no_grad()
def exact(
    candidates: Candidates, batch: ParticleBatch, library: Beads, likelihood: Likelihood, *, normalised: bool = False
) -> Candidates:
    """Compare images again with what fits them best, and put that in order.

    Parameters
    ----------
    candidates
        k of each of b images; take some more than are wanted, so that none is missed for the scan's small errors.
    batch
        The images.
    library
        L conformations, those that were scanned.
    likelihood
        Its sums for the gain are left as they are.
    normalised
        Whether at the best scale of each image and pose instead of the current gain.
    """
    count = candidates.misfit.shape[1]
    images = torch.arange(len(batch), device=candidates.misfit.device).repeat_interleave(count)
    rotation, shift = candidates.rotation.flatten(0, 1), candidates.shift.flatten(0, 1)
    conformation, misfit = candidates.conformation.flatten(), []
    for part in torch.split(torch.arange(len(images), device=images.device), AT_ONCE):
        many = batch[images[part]]
        beads = Beads(library.positions[conformation[part]], library.amplitude, library.width)
        place: tuple[Tensor, Tensor] = rotation[part].to(beads.positions), shift[part].to(beads.positions)
        terms = likelihood.terms(beads, *place, many)
        misfit.append(likelihood.normalised_misfit(*terms) if normalised else likelihood.misfit(*terms, many))
    return candidates.with_misfit(torch.cat(misfit).view(-1, count))
