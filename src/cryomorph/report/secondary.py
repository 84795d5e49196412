"""Helices and strands of a template: by its backbone hydrogen bonds, or by its Cα alone where it has no more."""

import numpy as np
from numpy.typing import NDArray

from cryomorph.structure.graph import hydrogen_bonds
from cryomorph.structure.model import Template

COIL, HELIX, STRAND = "-", "H", "E"
LEAST_HELIX, LEAST_STRAND = 5, 3

Flags = NDArray[np.bool_]
Array = NDArray[np.float64]

# Ranges of Labesse et al. (1997), P-SEA: distances of Cα i to i + 2, i + 3, i + 4 in Å, the angle at i + 1 of three and
# the dihedral of four in degrees.
_HELIX = {"d2": (5.5, 0.5), "d3": (5.3, 0.5), "d4": (6.4, 0.6), "angle": (89.0, 12.0), "dihedral": (50.0, 20.0)}
_STRAND = {"d2": (6.7, 0.6), "d3": (9.9, 0.9), "d4": (12.4, 1.1), "angle": (124.0, 14.0), "dihedral": (-170.0, 45.0)}


def secondary_structure(template: Template) -> str:
    """Return a letter for each residue: H in a helix, E in a strand, - elsewhere.

    Chains with a whole backbone follow Kabsch and Sander (1983): a helix is made of two neighbouring turns of three,
    four or five residues, a strand of neighbouring bridges. Others follow P-SEA (Labesse et al. 1997).
    """
    letters = np.full(len(template), COIL)
    complete: Flags = np.all(np.isfinite(template.named_atoms("O") + template.named_atoms("N")), axis=1)
    bonds = {(int(acceptor), int(donor)) for donor, acceptor in hydrogen_bonds(template)}
    for chain in range(len(template.chain_names)):
        rows = np.flatnonzero(template.chain == chain)
        if complete[rows].mean() < 0.5:
            letters[rows] = _by_calpha(template, rows)
    by_bonds = complete & ~template.is_nucleotide
    if bonds:
        strand = by_bonds & _longer(_bridges(bonds, template), 2)
        helix = by_bonds & _helices(bonds, template)
        letters[strand & (letters == COIL)] = STRAND
        letters[helix] = HELIX
    return "".join(letters)


def _connected(template: Template, first: int, last: int) -> bool:
    return first >= 0 and last < len(template) and bool(template.bonded[first:last].all())


def _helices(bonds: set[tuple[int, int]], template: Template) -> Flags:
    """Residues between two turns that follow each other; CO of residue i, NH of residue i + turn."""
    helix = np.zeros(len(template), dtype=np.bool_)
    for turn in (4, 3, 5):
        for start in range(1, len(template) - turn):
            both = (start, start + turn) in bonds and (start - 1, start - 1 + turn) in bonds
            if both and _connected(template, start - 1, start + turn):
                helix[start : start + turn] = True
    return helix


def _bridges(bonds: set[tuple[int, int]], template: Template) -> Flags:
    """Residues that are bridged to another one, parallel or antiparallel."""
    bridged = np.zeros(len(template), dtype=np.bool_)
    for co, nh in bonds:
        # Every pattern has a bond; for each role that this one may play, the other must be there.
        candidates = (
            (co + 1, nh, (nh, co + 2)),  # parallel: CO(i - 1) to NH(j), and CO(j) to NH(i + 1)
            (co, nh, (nh, co)),  # antiparallel: both between i and j
            (co + 1, nh - 1, (nh - 2, co + 2)),  # antiparallel: around i and j
        )
        for i, j, other in candidates:
            if other in bonds and (abs(i - j) > 2 or template.chain[i] != template.chain[j]):
                whole = all(_connected(template, k - 1, k + 1) for k in (i, j))
                bridged[[i, j]] |= whole
    return bridged


def _by_calpha(template: Template, rows: NDArray[np.int64]) -> NDArray[np.str_]:
    letters = np.full(len(rows), COIL)
    breaks = np.flatnonzero(~template.bonded[rows[:-1]]) + 1
    for part in np.split(np.arange(len(rows)), breaks):
        if len(part) >= 5 and not template.is_nucleotide[rows[part]].any():
            letters[part] = _psea(template.coordinates[rows[part]])
    return letters


def _psea(x: Array) -> NDArray[np.str_]:
    measures = _measures(x)

    def near(name: str, ranges: dict[str, tuple[float, float]]) -> Flags:
        middle, width = ranges[name]
        difference = measures[name] - middle
        if name == "dihedral":
            difference = (difference + 180) % 360 - 180
        return np.asarray(np.abs(difference) <= width)

    with np.errstate(invalid="ignore"):
        angles = near("angle", _HELIX) & near("dihedral", _HELIX)
        helix = _longer((near("d3", _HELIX) & near("d4", _HELIX)) | angles, LEAST_HELIX)
        helix = _extended(helix, near("d3", _HELIX) | near("angle", _HELIX))
        angles = near("angle", _STRAND) & near("dihedral", _STRAND)
        distances = near("d2", _STRAND) & near("d3", _STRAND) & near("d4", _STRAND)
        strand = _extended(_longer(distances | angles, LEAST_STRAND), near("d3", _STRAND))
    letters = np.full(len(x), COIL)
    letters[strand] = STRAND
    letters[helix] = HELIX
    return letters


def _measures(x: Array) -> dict[str, Array]:
    """Return what P-SEA looks at, by the second residue of each group; NaN where there is no whole group."""
    count = len(x)
    measures = {}
    for apart in (2, 3, 4):
        measures[f"d{apart}"] = _padded(np.linalg.norm(x[apart:] - x[:-apart], axis=1), count)
    step = np.diff(x, axis=0)
    unit = step / np.linalg.norm(step, axis=1, keepdims=True)
    measures["angle"] = _padded(np.degrees(np.arccos(np.clip(-(unit[:-1] * unit[1:]).sum(1), -1, 1))), count)
    normal = np.cross(unit[:-1], unit[1:])
    sine = (unit[1:-1] * np.cross(normal[:-1], normal[1:])).sum(1)
    measures["dihedral"] = _padded(np.degrees(np.arctan2(sine, (normal[:-1] * normal[1:]).sum(1))), count)
    return measures


def _padded(values: Array, count: int) -> Array:
    return np.concatenate([[np.nan], values, np.full(count - len(values) - 1, np.nan)])


def _extended(flags: Flags, beside: Flags) -> Flags:
    """Mark residues next to a marked one as well where `beside` allows it."""
    extended = flags.copy()
    extended[1:] |= flags[:-1] & beside[1:]
    extended[:-1] |= flags[1:] & beside[:-1]
    return extended


def _longer(flags: Flags, least: int) -> Flags:
    """Keep stretches of at least so many residues."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    kept = np.zeros_like(flags)
    for start, stop in edges.reshape(-1, 2):
        kept[start:stop] = stop - start >= least
    return kept
