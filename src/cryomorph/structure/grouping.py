"""Which atoms make up a bead, how strongly they scatter and how wide they are together."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cryomorph.structure.model import Template
from cryomorph.structure.scattering import atomic_variance, forward_scattering

# Krook, Janson et al.: amplitude (electrons of the residue) and σ in Å of one Gaussian on each Cα.
CALPHA_TABLE = {
    "ARG": (85.0, 2.15), "ILE": (62.0, 1.60), "LEU": (62.0, 1.65), "GLY": (30.0, 1.40), "ALA": (38.0, 1.40),
    "PRO": (52.0, 1.50), "LYS": (71.0, 1.85), "THR": (54.0, 1.55), "GLN": (68.0, 1.85), "PHE": (78.0, 1.95),
    "MET": (70.0, 1.85), "GLU": (67.0, 1.90), "TYR": (86.0, 2.10), "SER": (46.0, 1.45), "ASP": (59.0, 1.70),
    "VAL": (54.0, 1.50), "CYS": (54.0, 1.60), "ASN": (60.0, 1.65), "HIS": (72.0, 1.90), "TRP": (98.0, 2.15),
}  # fmt: skip
ALIASES = {
    **dict.fromkeys(("HSD", "HSE", "HSP", "HID", "HIE", "HIP", "HISA", "HISB", "HISD", "HISE", "HISH"), "HIS"),
    **dict.fromkeys(("CYX", "CYM", "CYS2"), "CYS"),
    **dict.fromkeys(("ASH", "ASPH"), "ASP"),
    **dict.fromkeys(("GLH", "GLUH"), "GLU"),
    **dict.fromkeys(("LYN", "LYSH"), "LYS"),
}
# Least squares over the table: electrons (with hydrogens) per Å of the heavy atoms' forward scattering, and how much
# larger its variances (Å²) are than those of the heavy atoms about their centroid.
ELECTRONS_PER_SCATTERING = 3.131
EXCESS_VARIANCE = 1.3
TYPICAL_RESIDUE = (63.3, 1.735)  # mean of the table, for residues known by their representative atom only

BACKBONE = frozenset({"N", "CA", "C", "O", "OXT", "OT1", "OT2", "OC1", "OC2"})
PHOSPHATE = frozenset({"P", "OP1", "OP2", "OP3", "O1P", "O2P", "O3P"})


SPREAD_OF_BACKBONE = 0.1
"""Å, standard deviation along each axis by which a backbone bead lies elsewhere in its residue than in another model
of the same protein. Of adenylate kinase (PDB 4AKE, 1AKE) and NSP13 (a simulation, PDB 5RMM), as what follows."""
LEAST_SPREAD, SPREAD_OF_REACH, REACH_OF_STUB = 0.2, 0.25, 1.5
"""Likewise of side chains: 0.2 Å up to a distance of 1.5 Å from the Cα, and a quarter of what is beyond."""


@dataclass(frozen=True)
class BeadGroup:
    """One bead of the template.

    Attributes
    ----------
    residue
        That carries it.
    centre : array (3,)
        Å.
    amplitude
        Summed scattering.
    width
        Standard deviation of the Gaussian, Å.
    spread
        Standard deviation along each axis by which its place in the residue differs between models, Å.
    """

    residue: int
    centre: NDArray[np.float64]
    amplitude: float
    width: float
    spread: float = 0.0


def calpha_groups(template: Template) -> list[BeadGroup]:
    """One bead on each representative atom, by the published table.

    Nucleotides and other residues have the summed scattering and the variance of their heavy atoms, both brought to the
    table's scale.
    """
    groups = []
    atoms = _heavy_atoms(template)
    for i, name in enumerate(template.residue_names):
        entry = CALPHA_TABLE.get(ALIASES.get(name, name))
        if entry is None and len(atoms[i]) > 1:
            whole = _gather(template, i, atoms[i])
            entry = (whole.amplitude * ELECTRONS_PER_SCATTERING, float(np.hypot(whole.width, np.sqrt(EXCESS_VARIANCE))))
        groups.append(BeadGroup(i, template.coordinates[i], *(entry or TYPICAL_RESIDUE)))
    return groups


def residue_groups(template: Template) -> list[BeadGroup]:
    """Backbone and side chain of amino acids, phosphate, sugar and base of nucleotides: one bead each.

    Hydrogens are not counted, whether the file has them or not.
    """
    groups = []
    nucleotide = template.is_nucleotide
    for i, atoms in enumerate(_heavy_atoms(template)):
        parts: dict[str, list[int]] = {}
        for row in atoms:
            parts.setdefault(_part(template.atom_names[row], bool(nucleotide[i])), []).append(row)
        groups += [_with_spread(template, _gather(template, i, rows), part) for part, rows in parts.items()]
    return groups


def atom_groups(template: Template) -> list[BeadGroup]:
    """One bead on every heavy atom."""
    nucleotide = template.is_nucleotide
    return [
        _with_spread(template, _gather(template, i, [row]), _part(template.atom_names[row], bool(nucleotide[i])))
        for i, atoms in enumerate(_heavy_atoms(template))
        for row in atoms
    ]


def _part(name: str, nucleotide: bool) -> str:
    return _nucleotide_part(name) if nucleotide else _amino_acid_part(name)


def _amino_acid_part(name: str) -> str:
    return "backbone" if name in BACKBONE else "side chain"


def _nucleotide_part(name: str) -> str:
    if name in PHOSPHATE:
        return "phosphate"
    return "sugar" if name.endswith("'") else "base"


def _with_spread(template: Template, group: BeadGroup, part: str) -> BeadGroup:
    """Say how far the place of a bead may differ: that of what turns about bonds more than that of the rest."""
    reach = float(np.linalg.norm(group.centre - template.coordinates[group.residue]))
    side = LEAST_SPREAD + SPREAD_OF_REACH * max(reach - REACH_OF_STUB, 0.0)
    return replace(group, spread=SPREAD_OF_BACKBONE if part in ("backbone", "sugar") else side)


def _heavy_atoms(template: Template) -> list[list[int]]:
    """Rows of the atoms other than hydrogen of each residue."""
    rows: list[list[int]] = [[] for _ in range(len(template))]
    for row, (residue, element) in enumerate(zip(template.atom_residue, template.elements, strict=True)):
        if element not in ("H", "D"):
            rows[residue].append(row)
    return rows


def _gather(template: Template, residue: int, rows: list[int]) -> BeadGroup:
    """Put atoms together to one Gaussian with their volume, centroid and variance (a third of the radius squared)."""
    weight = np.array([forward_scattering(template.elements[row]) for row in rows])
    positions = template.atom_coordinates[rows]
    centre = weight @ positions / weight.sum()
    spread = np.square(positions - centre).sum(1) / 3
    own = np.array([atomic_variance(template.elements[row]) for row in rows])
    variance = weight @ (spread + own) / weight.sum()
    return BeadGroup(residue, centre, float(weight.sum()), float(np.sqrt(variance)))
