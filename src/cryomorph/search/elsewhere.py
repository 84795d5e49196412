"""Whether a particle might lie in quite another pose, and so have another conformation, than where the search ended."""

from dataclasses import dataclass

import numpy as np
import roma
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomorph.particles.loader import prefetch
from cryomorph.particles.stack import BatchSource
from cryomorph.progress import Progress, Silent
from cryomorph.search.joint import IMAGES_AT_ONCE, JointSearch, same_pose

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Elsewhere:
    """What is known of the second best poses of m particles.

    Attributes
    ----------
    probability : array (m,)
        That the particle lies in the best pose that is none of the found one's neighbours, rather than in that.
    square : array (m,)
        Mean square distance of residues, in Å², that this adds to what is not known of its conformation.
    residues : array (n,)
        The same for each residue, mean over particles.
    """

    probability: Array
    square: Array
    residues: Array


@torch.no_grad()
def look_elsewhere(search: JointSearch, source: BatchSource, progress: Progress | None = None) -> Elsewhere:
    """Compare all particles once more with what was learned, in all poses, and weigh what is far from where they are.

    Parameters
    ----------
    search
        When training is complete.
    source
        Of batches with windows, all particles.
    progress
        Told of images times conformations.
    """
    progress = progress or Silent()
    count, latents = len(search.stack), search.latents
    probability, square = np.zeros((2, count), np.float32)
    residues = np.zeros(len(search.template))
    training = latents.training
    latents.eval()
    scan, library = search.learned(source)
    progress.start("other poses", count * len(library.conformations))
    try:
        for batch in prefetch(source, np.array_split(np.arange(count), -(-count // IMAGES_AT_ONCE))):
            moved = batch.to(library.conformations.device)
            found = search.compare(scan, moved, library, progress)
            here = same_pose(found.rotation.float(), search.poses.best(moved)[0][:, None])
            which = found.misfit.masked_fill(here, torch.inf).argmin(1)
            value = search.polished(found, which, library, moved)[2]
            share = torch.sigmoid(search.value_now(moved) - value).masked_fill(here.all(1), 0.0)
            member = found.conformation[torch.arange(len(which), device=which.device), which]
            own = search.reconstruction.conformations(latents(moved))
            added = share[:, None] * _squared_distance(library.conformations[member], own)
            rows = moved.index.cpu().numpy()
            probability[rows], square[rows] = share.cpu().numpy(), added.mean(1).cpu().numpy()
            residues += added.double().sum(0).cpu().numpy()
    finally:
        latents.train(training)
        progress.finish()
    return Elsewhere(probability, square, (residues / count).astype(np.float32))


def _squared_distance(x: Tensor, other: Tensor) -> Tensor:
    """Return the squared distances (b, n) of residues in conformations (b, n, 3), the first ones superposed, in Å²."""
    x, other = (each - each.mean(1, keepdim=True) for each in (x, other))
    rotation = roma.special_procrustes(torch.einsum("bni,bnj->bij", other, x))
    return (torch.einsum("bij,bnj->bni", rotation, x) - other).square().sum(2)
