"""The gain before the first step, and whether the template has anything to do with the images."""

import logging
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from cryomorph.errors import InputError
from cryomorph.latents.base import Latents
from cryomorph.particles.loader import spread_over_groups
from cryomorph.particles.stack import BatchSource, ParticleStack
from cryomorph.reconstruction import Reconstruction

logger = logging.getLogger(__name__)

GAIN_IMAGES = 2048
"""Images from which the first gain is estimated: its relative error is then well below a percent."""
GAIN_IMAGES_OF_GROUP = 128
"""At least so many of each optics group, if it has them."""


def first_gain(
    reconstruction: Reconstruction,
    latents: Latents,
    source: BatchSource,
    stack: ParticleStack,
    share: Callable[[NDArray[np.int64]], NDArray[np.int64]],
    add_up: Callable[..., None],
    *,
    batch_size: int,
    device: torch.device,
) -> None:
    """Set the gain before the first step, when conformations are hardly more than the template's.

    Parameters
    ----------
    reconstruction, latents
        Before training.
    source, stack
        Of batches, and of what is known of the particles.
    share
        Picks those rows that this process looks at.
    add_up
        Adds tensors up over the processes, in place.
    batch_size
        Images at a time.
    device
        Where to compute.

    Raises
    ------
    InputError
        If the images anticorrelate with the template: protein is dark in them.
    """
    rows = spread_over_groups(stack.table.optics_group, GAIN_IMAGES, GAIN_IMAGES_OF_GROUP)
    mine = share(rows)
    likelihood = reconstruction.likelihood
    latents.eval()
    with torch.no_grad():
        for part in np.array_split(mine, -(-len(mine) // batch_size)):
            batch = source.batch(part).to(device)
            beads = reconstruction.beads(reconstruction.conformations(latents(batch)))
            measure = reconstruction.poses.first_measure(batch, beads, likelihood)
            reconstruction.expected_misfit(beads, measure, batch)
    latents.train()
    add_up(likelihood.cross_sum, likelihood.power_sum)
    scores = likelihood.cross_sum / likelihood.power_sum.clamp(min=1e-30).sqrt()
    score = float(likelihood.cross_sum.sum() / likelihood.power_sum.sum().sqrt())
    logger.info("template against %d images: correlation %.1f times its noise", len(rows), score)
    worst = int(scores.argmin())
    if scores[worst] < -5:
        where = f", optics group {worst + 1}" if len(scores) > 1 else ""
        raise InputError(
            f"{stack.table.source}{where}: the images anticorrelate with the template ({scores[worst]:.0f} "
            "times the noise): if protein is dark in them, change --invert; else check that the template is docked"
        )
    if score < 5:
        logger.warning(
            "the template hardly correlates with the images at the given poses (%.1f times the noise): "
            "is it docked into the consensus map, and is the pixel size right?",
            score,
        )
    likelihood.update_gain()
