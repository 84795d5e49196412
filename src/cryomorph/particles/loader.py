"""Which particles come when, and batches of them read one ahead of their use."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from cryomorph.particles.batch import ParticleBatch
from cryomorph.particles.stack import BatchSource, ParticleStack

ROWS_AT_ONCE = 4096
"""Particles in a batch without images."""
IMAGES_AT_ONCE = 256
"""Particles in a batch with images, where nothing is trained."""


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


@dataclass(frozen=True, eq=False)
class WithImages:
    """Gives out the batches of a source with their images, which a likelihood may need no more.

    Attributes
    ----------
    source
        Of the batches.
    stack
        The particles.
    """

    source: BatchSource
    stack: ParticleStack

    def batch(self, rows: NDArray[np.int64]) -> ParticleBatch:
        """Return what the source has of some particles, and their images, on the CPU."""
        batch = self.source.batch(rows)
        return batch if batch.image is not None else replace(batch, image=torch.from_numpy(self.stack.images(rows)))


def in_order(
    stack: ParticleStack, rows: NDArray[np.int64], device: torch.device, *, images: bool = False
) -> Iterator[ParticleBatch]:
    """Yield rows (k,) of a stack, in their order, as batches on a device; with their images only if asked for."""
    if images:
        yield from (batch.to(device) for batch in prefetch(stack, _parts(rows, IMAGES_AT_ONCE)))
    else:
        yield from (stack.batch(part, images=False).to(device) for part in _parts(rows, ROWS_AT_ONCE))


def _parts(rows: NDArray[np.int64], most: int) -> list[NDArray[np.int64]]:
    return np.array_split(rows, max(1, -(-len(rows) // most)))


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
