"""All atoms of a conformation that is known by its representative atoms.

Atoms are carried by the local frames of their residues, as beads are. Where frames turn against each other this
stretches the bonds between residues, so bonds and angles are then brought back to the template's lengths, atom by atom,
while heavy atoms keep apart. Representative atoms give way a little: a trace that is off by some tenths of an Å would
bend the angles by tens of degrees.
"""

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from cryomorph.structure.beads import frame_sources, local_frames
from cryomorph.structure.covalent import HYDROGENS, Covalent, Sanity, sanity
from cryomorph.structure.model import Template

Array = NDArray[np.float64]

ROUNDS, SWEEPS, LAST_SWEEPS = 20, 5, 20
"""After each round of sweeps over all pairs representative atoms are brought near again; the last sweeps are over bonds
alone, which count most."""
GIVE = 0.2
"""Å by which representative atoms may be off after a round."""
CLOSE = 1e-3
"""Å by which a pair may be off before it is mended."""
ANGLES, CONTACTS = 0.5, 0.3
"""Shares of a deviation that a step takes away; of bonds it takes all."""
APART, REACH = 3.0, 4.5
"""Å that heavy atoms keep apart, unless they are nearer in the template; pairs up to the second are looked after."""


class AllAtoms:
    """Takes conformations, given by the representative atoms of n residues, to all m atoms of the template.

    Parameters
    ----------
    template
        With all its atoms; a template of representative atoms only gives these back.

    Attributes
    ----------
    template : Template
    covalent : Covalent
        Its bonds and angles.
    """

    def __init__(self, template: Template) -> None:
        self.template = template
        self.covalent = Covalent.of(template)
        source = frame_sources(template)
        # Residues without a frame of their own take the row behind the last frame, which is the identity.
        self._frame = np.where(source < 0, len(template) - 2, source - 1)
        residue = template.atom_residue
        displacement = template.atom_coordinates - template.coordinates[residue]
        self._offset = np.einsum("mai,mi->ma", self._frames(template.coordinates)[residue], displacement)

    def __call__(self, coordinates: NDArray[np.floating]) -> Array:
        """Place all atoms of conformations.

        Parameters
        ----------
        coordinates
            Representative atoms in Å, shape (k, n, 3).

        Returns
        -------
        array (k, m, 3)
            In Å. Bonds and angles are the template's as far as representative atoms, which give way by 0.2 Å or little
            more, allow. Equivariant under rigid motions wherever residues have frames.
        """
        return np.stack([self._mended(self.carried(x)) for x in np.asarray(coordinates, dtype=np.float64)])

    def carried(self, coordinates: Array) -> Array:
        """Return atoms (m, 3) as the local frames of the residues carry them, nothing mended."""
        residue = self.template.atom_residue
        turned = np.einsum("ma,mai->mi", self._offset, self._frames(coordinates)[residue])
        placed = coordinates[residue] + turned
        placed[self.template.representative_atoms] = coordinates
        return np.asarray(placed)

    def sanity(self, conformations: NDArray[np.floating]) -> Sanity:
        """Compare the covalent geometry of all atoms (k, m, 3) with the template's."""
        return sanity(self.template, self.covalent, conformations)

    def _frames(self, coordinates: Array) -> Array:
        """Frame that each residue turns with, axis by component, shape (n, 3, 3)."""
        x = torch.from_numpy(np.ascontiguousarray(coordinates))[:, :, None]
        frames = np.concatenate([local_frames(x)[..., 0].numpy(), np.eye(3)[None]])
        return np.asarray(frames[self._frame])

    def _mended(self, atoms: Array) -> Array:
        from cryomorph.structure._mending import mend

        bonds, ends = self.covalent.bonds, self.covalent.ends
        near = self._contacts(atoms)
        pairs = np.concatenate([near, ends, bonds])
        share = np.repeat([CONTACTS, ANGLES, 1.0], [len(near), len(ends), len(bonds)])
        distance = self._at_rest(pairs)
        distance[: len(near)] = np.minimum(distance[: len(near)], APART)
        order = np.lexsort((share, self.template.atom_residue[pairs[:, 0]]))
        at_least = order < len(near)
        representative = self.template.representative_atoms
        trace = atoms[representative]
        for _ in range(ROUNDS):
            mend(atoms, pairs[order], distance[order], share[order], at_least, SWEEPS, CLOSE)
            off = atoms[representative] - trace
            length = np.linalg.norm(off, axis=1, keepdims=True)
            atoms[representative] = trace + off * np.minimum(1, GIVE / np.maximum(length, GIVE))
        exactly = np.zeros(len(bonds), dtype=np.bool_)
        mend(atoms, bonds, self._at_rest(bonds), np.ones(len(bonds)), exactly, LAST_SWEEPS, CLOSE)
        return atoms

    def _contacts(self, atoms: Array) -> NDArray[np.int64]:
        """Pairs of heavy atoms that are or might come too near, shape (p, 2)."""
        heavy = self._heavy
        pairs = np.sort(heavy[cKDTree(atoms[heavy]).query_pairs(REACH, output_type="ndarray")], axis=1)
        size = [len(atoms), 1]
        bound = np.concatenate([self.covalent.bonds, self.covalent.ends]) @ size
        keys = np.sort(np.setdiff1d(pairs @ size, bound))  # an order that does not depend on the orientation
        return np.stack(np.divmod(keys, len(atoms)), axis=1)

    def _at_rest(self, pairs: NDArray[np.int64]) -> Array:
        x = self.template.atom_coordinates
        return np.asarray(np.linalg.norm(x[pairs[:, 0]] - x[pairs[:, 1]], axis=1))

    @cached_property
    def _heavy(self) -> NDArray[np.int64]:
        return np.flatnonzero(~np.isin(self.template.elements, HYDROGENS))
