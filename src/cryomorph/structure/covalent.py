"""Covalent bonds and angles of a template, and how far other conformations of it are from them."""

from dataclasses import dataclass
from itertools import combinations

import gemmi
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from cryomorph.structure.model import Template

Array = NDArray[np.float64]
Rows = NDArray[np.int64]

SLACK = 0.4
"""Å by which atoms of a residue that are bonded may be further apart than the sum of their covalent radii."""
DISULFIDE = 2.5
"""Å within which two sulfur atoms of cysteines are bonded."""
CLASH = 2.2
"""Å; heavy atoms that are nearer than this and neither bonded nor neighbours of one atom clash."""
HYDROGENS = ("H", "D")


@dataclass(frozen=True, eq=False)
class Covalent:
    """Bonds and angles of a template of m atoms.

    Attributes
    ----------
    bonds : array (b, 2)
        Rows of the atoms, the lower one first.
    angles : array (a, 3)
        Rows of the atoms, the one in the middle second.
    """

    bonds: Rows
    angles: Rows

    @classmethod
    def of(cls, template: Template) -> "Covalent":
        """Find the bonds: within residues by distance, between them those of the chains, and disulfides."""
        bonds = np.unique(np.sort(np.concatenate([_inside(template), _between(template)]), axis=1), axis=0)
        return cls(bonds, _angles(bonds, len(template.atom_names)))

    @property
    def ends(self) -> Rows:
        """The two outer atoms of each angle that are not bonded themselves, each pair once, shape (e, 2)."""
        pairs = np.unique(np.sort(self.angles[:, [0, 2]], axis=1), axis=0)
        most = int(max(self.bonds.max(initial=0), pairs.max(initial=0))) + 1
        bonded = np.isin(pairs @ [most, 1], self.bonds @ [most, 1])
        return np.asarray(pairs[~bonded], dtype=np.int64)


@dataclass(frozen=True)
class Sanity:
    """How far the covalent geometry of some conformations is from the template's own.

    Attributes
    ----------
    bond_rms, bond_worst : float
        Root mean square and largest difference of a bond's length, Å.
    angle_rms, angle_worst : float
        The same of the angle between two bonds, degrees.
    clashes : float
        Pairs of heavy atoms nearer than 2.2 Å in a conformation, mean over conformations: neither bonded nor neighbours
        of one atom, and not that near in the template.
    """

    bond_rms: float
    bond_worst: float
    angle_rms: float
    angle_worst: float
    clashes: float

    def __str__(self) -> str:
        """Say it in a line."""
        return (
            f"bonds {self.bond_rms:.3f} Å rms from the template's (worst {self.bond_worst:.2f}), angles"
            f" {self.angle_rms:.1f}° (worst {self.angle_worst:.0f}°), {self.clashes:.1f} clashes a model"
        )


def sanity(template: Template, covalent: Covalent, conformations: NDArray[np.floating]) -> Sanity:
    """Compare bonds, angles and contacts of conformations (k, m, 3) in Å, k at least 1, with the template's."""
    rest = template.atom_coordinates
    bonds = np.stack([_lengths(x, covalent.bonds) for x in conformations]) - _lengths(rest, covalent.bonds)
    angles = np.rad2deg(np.stack([_angle(x, covalent.angles) for x in conformations]) - _angle(rest, covalent.angles))
    known = np.union1d(_keys(template, _excluded(covalent)), _contacts(template, rest))
    clashes = [len(np.setdiff1d(_contacts(template, x), known)) for x in conformations]
    return Sanity(
        bond_rms=_rms(bonds),
        bond_worst=float(np.abs(bonds).max(initial=0)),
        angle_rms=_rms(angles),
        angle_worst=float(np.abs(angles).max(initial=0)),
        clashes=float(np.mean(clashes)),
    )


def _inside(template: Template) -> Rows:
    """Bonds between atoms of one residue."""
    radius = np.array([gemmi.Element(element).covalent_r for element in template.elements])
    pairs = cKDTree(template.atom_coordinates).query_pairs(2 * radius.max() + SLACK, output_type="ndarray")
    hydrogen = np.isin(template.elements, HYDROGENS)
    first, second = pairs.T
    near = _lengths(template.atom_coordinates, pairs) < radius[first] + radius[second] + SLACK
    same = template.atom_residue[first] == template.atom_residue[second]
    return np.asarray(pairs[near & same & ~(hydrogen[first] & hydrogen[second])], dtype=np.int64)


def _between(template: Template) -> Rows:
    """Bonds between residues: peptide bonds, phosphodiester bonds and disulfides."""
    names = np.array(template.atom_names)
    rows = {name: np.full(len(template), -1, dtype=np.int64) for name in ("C", "N", "O3'", "P")}
    for name, of_residue in rows.items():
        named = np.flatnonzero(names == name)
        of_residue[template.atom_residue[named]] = named
    links = [np.stack([rows[a][:-1], rows[b][1:]], axis=1) for a, b in (("C", "N"), ("O3'", "P"))]
    nucleotide = template.is_nucleotide
    both = [~nucleotide[:-1] & ~nucleotide[1:], nucleotide[:-1] & nucleotide[1:]]
    found = [link[(link >= 0).all(1) & template.bonded & alike] for link, alike in zip(links, both, strict=True)]
    sulfur = np.flatnonzero(names == "SG")
    if len(sulfur) > 1:
        tree = cKDTree(template.atom_coordinates[sulfur])
        found.append(sulfur[tree.query_pairs(DISULFIDE, output_type="ndarray")])
    return np.concatenate(found).astype(np.int64)


def _angles(bonds: Rows, atoms: int) -> Rows:
    neighbours: list[list[int]] = [[] for _ in range(atoms)]
    for first, second in bonds.tolist():
        neighbours[first].append(second)
        neighbours[second].append(first)
    triples = [(a, middle, b) for middle, near in enumerate(neighbours) for a, b in combinations(near, 2)]
    return np.array(triples, dtype=np.int64).reshape(-1, 3)


def _lengths(x: NDArray[np.floating], pairs: Rows) -> Array:
    return np.asarray(np.linalg.norm(x[pairs[:, 0]] - x[pairs[:, 1]], axis=1))


def _angle(x: NDArray[np.floating], triples: Rows) -> Array:
    """Angles (a,) in radians at the atoms in the middle."""
    one, two = (x[triples[:, end]] - x[triples[:, 1]] for end in (0, 2))
    across = np.linalg.norm(np.cross(one, two), axis=1)
    return np.asarray(np.arctan2(across, (one * two).sum(1)))


def _excluded(covalent: Covalent) -> Rows:
    return np.concatenate([covalent.bonds, covalent.angles[:, [0, 2]]])


def _contacts(template: Template, x: NDArray[np.floating]) -> Rows:
    """Pairs of heavy atoms that are near, as one number each."""
    heavy = np.flatnonzero(~np.isin(template.elements, HYDROGENS))
    return _keys(template, heavy[cKDTree(x[heavy]).query_pairs(CLASH, output_type="ndarray")])


def _keys(template: Template, pairs: Rows) -> Rows:
    return np.asarray(np.sort(pairs, axis=1) @ [len(template.atom_names), 1], dtype=np.int64)


def _rms(values: Array) -> float:
    return float(np.sqrt(np.square(values).mean())) if values.size else 0.0
