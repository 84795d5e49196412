"""What images show: conformations of one molecule with all atoms, which need not be in memory at once."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cryomorph.structure.model import Template

_ATOMS_AT_ONCE = 2**18


class Molecules(Protocol):
    """K conformations of the n residues and m atoms of a template; an `Ensemble` is the simplest.

    Whoever asks for the atoms of some conformations gets arrays of these only.
    """

    @property
    def template(self) -> Template:
        """The molecule that they are conformations of."""

    def __len__(self) -> int:
        """Return K."""

    def atoms(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return all atoms in Å: rows (b,) to (b, m, 3)."""

    def residues(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return representative atoms in Å: rows (b,) to (b, n, 3)."""


def batches(molecules: Molecules) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of all conformations in order, as many at a time as do not take much memory."""
    size = max(1, _ATOMS_AT_ONCE // len(molecules.template.elements))
    for start in range(0, len(molecules), size):
        yield np.arange(start, min(start + size, len(molecules)))


def mean_residues(molecules: Molecules) -> NDArray[np.float64]:
    """Mean position of each residue over all conformations in Å, shape (n, 3)."""
    total: NDArray[np.float64] = np.zeros_like(molecules.template.coordinates)
    for rows in batches(molecules):
        total += molecules.residues(rows).sum(0)
    return total / len(molecules)


def reach(molecules: Molecules) -> float:
    """Distance in Å of the outermost atom of any conformation from the origin."""
    squared = 0.0
    for rows in batches(molecules):
        atoms = molecules.atoms(rows)
        squared = max(squared, float(np.einsum("bmi,bmi->bm", atoms, atoms).max()))
    return float(np.sqrt(squared))
