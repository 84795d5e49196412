"""Poses that a run found for its particles, as they are kept, exported and compared."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class FoundPoses:
    """The most probable pose of each particle of a run that looked for poses, in the order of the latents.

    Attributes
    ----------
    rotation
        Map frame to image frame, shape (m, 3, 3).
    shift
        Displacement (x, y) in the image in Å, shape (m, 2): minus RELION's origin.
    entropy
        Of the particle's distribution over poses in nats, shape (m,); 0 where a single pose is considered.
    """

    rotation: NDArray[np.float64]
    shift: NDArray[np.float64]
    entropy: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.rotation)

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Return the poses of some of the particles, in the order of `rows` (k,)."""
        return type(self)(self.rotation[rows], self.shift[rows], self.entropy[rows])
