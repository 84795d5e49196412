"""The conformations of all particles, decoded when they are needed: never all in memory together."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryomorph.structure.model import Template

Array = NDArray[np.floating]
Rows = NDArray[np.int64]

VALUES_AT_ONCE = 2_000_000
"""Coordinates decoded in one batch; what a decoder needs on the way is some ten times that."""
MOST_AT_ONCE = 1024


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Latents of m particles, and what makes conformations of n residues of them.

    Attributes
    ----------
    template : Template
    latents : array (m, d)
    blocks : mapping of name to slice
        Parts of the latents that mean different things; together they cover them.
    decode : callable
        From any latents (b, d) to coordinates (b, n, 3) in Å.
    """

    template: Template
    latents: Array
    blocks: Mapping[str, slice]
    decode: Callable[[Array], Array]

    def __len__(self) -> int:
        """Return the number of particles."""
        return len(self.latents)

    @property
    def batch(self) -> int:
        """Particles that are decoded together."""
        return int(np.clip(VALUES_AT_ONCE // (3 * len(self.template)), 1, MOST_AT_ONCE))

    def batches(self, rows: Rows) -> Iterator[tuple[Rows, Array]]:
        """Yield rows (b,) and the coordinates (b, n, 3) in Å of these particles."""
        for start in range(0, len(rows), self.batch):
            part = rows[start : start + self.batch]
            yield part, self.decode(self.latents[part])


def evenly_spaced(count: int, most: int) -> Rows:
    """Return at most `most` of `count` rows, spread evenly; all of them if they are no more."""
    return np.asarray(np.linspace(0, count - 1, min(count, most)).round(), dtype=np.int64)
