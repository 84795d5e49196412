"""The sample of images that hypotheses are compared on, kept as Fourier coefficients of low resolution."""

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomorph.fourier import band, image_coefficients, multiplicity, shell_index
from cryomorph.particles.batch import ParticleBatch
from cryomorph.particles.loader import prefetch
from cryomorph.particles.stack import ParticleStack
from cryomorph.progress import Progress

T = TypeVar("T", bound=np.generic)

IMAGES = 500
"""At most; of a large molecule fewer, since each says more."""
LEAST_IMAGES = 200
FINEST, COARSEST = 7.0, 12.0
"""Å; what a molecule of `SMALL` residues and a very large one are compared to."""
SMALL = 300
SMALLEST_BOX = 16
AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Sample:
    """Images of some particles.

    Attributes
    ----------
    stack : ParticleStack
        Cropped to the resolution of the comparison.
    rows : array (n,)
        Of the stack.
    batch : ParticleBatch
        What the file says of them, without images.
    coefficients : Tensor (n, 2K + 1, K + 1), complex
        Of their images.
    noise : Tensor (K + 1,)
        Power of a coefficient in each shell, signal included.
    """

    stack: ParticleStack
    rows: NDArray[np.int64]
    batch: ParticleBatch
    coefficients: Tensor
    noise: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def frequency(self) -> NDArray[np.float64]:
        """Of each shell in 1/Å, shape (K + 1,), in the middle of the pixel sizes that there are."""
        pixel = float(self.batch.pixel_size.median())
        return np.arange(band(self.stack.box) + 1) / (self.stack.box * pixel)

    def shell_sums(self, values: Tensor) -> Tensor:
        """Sum values of coefficients (n, 2K + 1, K + 1) over each shell in units of the noise, shape (n, K + 1)."""
        box = self.stack.box
        weighted = (values * multiplicity(box, values.device)).flatten(1)
        sums = weighted.new_zeros(len(values), band(box) + 1)
        sums.index_add_(1, shell_index(box, values.device).flatten(), weighted)
        return sums.double() / (box**2 * self.noise)


def spread(rows: NDArray[T], count: int) -> NDArray[T]:
    """Return at most so many of some rows (m, ...), evenly spaced."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64))]


def images_for(residues: int) -> int:
    """Return how many images of a molecule of so many residues are compared at most."""
    return int(np.clip(IMAGES * SMALL / residues, LEAST_IMAGES, IMAGES))


def resolution_for(residues: int) -> float:
    """Return the finest detail in Å that images of such a molecule are compared in."""
    return float(np.clip(FINEST * (residues / SMALL) ** (1 / 3), FINEST, COARSEST))


def read_sample(stack: ParticleStack, rows: NDArray[np.int64], resolution: float, progress: Progress) -> Sample:
    """Read the images of some rows, low-passed.

    Parameters
    ----------
    stack
        The particles.
    rows
        Whose images can be read, shape (n,), n > 0.
    resolution
        Finest detail in Å that is kept.
    progress
        Told of every image.

    Raises
    ------
    InputError
        If an image cannot be read.
    """
    wanted = int(np.ceil(2 * float(stack.pixel_size.max()) * stack.box / resolution))
    box = min(stack.box, max(SMALLEST_BOX, wanted + wanted % 2))
    small = replace(stack, box=box)
    parts = np.array_split(rows, -(-len(rows) // AT_ONCE))
    coefficients = []
    progress.start("reading images", len(rows))
    try:
        for batch in prefetch(small, parts):
            assert batch.image is not None
            coefficients.append(image_coefficients(batch.image))
            progress.advance(len(batch))
    finally:
        progress.finish()
    sample = Sample(small, rows, small.batch(rows, images=False), torch.cat(coefficients), torch.ones(band(box) + 1))
    count = sample.shell_sums(torch.ones_like(sample.coefficients.real)).sum(0) * box**2
    power = sample.shell_sums(sample.coefficients.abs().square()).sum(0)
    noise = power / count.clamp(min=1)
    return replace(sample, noise=noise.clamp(min=1e-6 * float(noise.max())))
