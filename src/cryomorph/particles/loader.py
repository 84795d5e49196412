"""Which particles come when, and batches of them read one ahead of their use."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from cryomorph.particles.batch import ParticleBatch
from cryomorph.particles.stack import BatchSource, ParticleStack

ROWS_AT_ONCE = 4096
"""Particles in a batch without images."""


def epoch_batches(
    particles: int, batch_size: int, *, seed: int, epoch: int, rank: int = 0, processes: int = 1
) -> list[NDArray[np.int64]]:
    """Rows of each batch of one process in one epoch, shuffled.

    Process `rank` owns the rows `rank, rank + processes, ...` for good. All processes make the same number of batches,
    which differ by one row at most, and none of them is empty.

    Parameters
    ----------
    particles
        Number of rows in all, at least one for each process.
    batch_size
        Most rows of a batch, of one process; where it is 1, a batch has 2 rather than another process none.
    seed, epoch
        Determine the order.
    """
    most = -(-particles // processes)
    own = np.arange(rank, particles, processes, dtype=np.int64)
    np.random.default_rng([seed, epoch, rank]).shuffle(own)
    return np.array_split(own, min(-(-most // batch_size), particles // processes))


def spread_over_groups(optics_group: NDArray[np.int64], images: int, least: int) -> NDArray[np.int64]:
    """Rows of a sample of particles, spread evenly over each optics group.

    Parameters
    ----------
    optics_group
        Of each particle, shape (m,).
    images
        How many are wanted, the same number of each group.
    least
        At least so many of each group, if it has them.

    Returns
    -------
    array (k,)
        In ascending order.
    """
    numbers = np.unique(optics_group)
    most = max(images // len(numbers), least)
    members = (np.flatnonzero(optics_group == number) for number in numbers)
    picked = [rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(np.int64)] for rows in members]
    return np.sort(np.concatenate(picked))


def without_images(stack: ParticleStack, rows: NDArray[np.int64], device: torch.device) -> Iterator[ParticleBatch]:
    """Yield rows (k,) of a stack, in their order, as batches without images on a device."""
    for part in np.array_split(rows, -(-len(rows) // ROWS_AT_ONCE)):
        yield stack.batch(part, images=False).to(device)


def prefetch(source: BatchSource, batches: list[NDArray[np.int64]]) -> Iterator[ParticleBatch]:
    """Yield the batches in their order, reading the next one in the background while this one is used."""
    if not batches:
        return
    with ThreadPoolExecutor(max_workers=1) as reader:
        pending = reader.submit(source.batch, batches[0])
        for rows in batches[1:]:
            ready = pending.result()
            pending = reader.submit(source.batch, rows)
            yield ready
        yield pending.result()
