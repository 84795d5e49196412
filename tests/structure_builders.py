"""Small structures for the tests: PDB text, ideal helices, templates without files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryomorph.structure.model import Template

Array = NDArray[np.float64]


def atom_line(
    name: str,
    residue: str,
    number: int,
    position: Sequence[float],
    chain: str = "A",
    *,
    serial: int = 1,
    alternate: str = " ",
    insertion: str = " ",
    occupancy: float = 1.0,
    element: str = "",
    segment: str = "",
    hetero: bool = False,
) -> str:
    record = "HETATM" if hetero else "ATOM  "
    padded = f" {name:<3}" if len(name) < 4 and len(element) < 2 else f"{name:<4}"
    x, y, z = position
    return (
        f"{record}{serial:5d} {padded}{alternate}{residue:>3} {chain:1}{number:4d}{insertion}   "
        f"{x:8.3f}{y:8.3f}{z:8.3f}{occupancy:6.2f}{0:6.2f}      {segment:<4}{element:>2}\n"
    )


def trace_lines(names: Sequence[str], chain: str = "A", first: int = 1, start: float = 0.0, atom: str = "CA") -> str:
    """Zigzag trace, neighbours 3.8 Å apart."""
    return "".join(
        atom_line(atom, name, first + i, (start + 3.3 * i, 1.9 * (i % 2), 0.0), chain) for i, name in enumerate(names)
    )


def write(folder: Path, text: str, name: str = "model.pdb") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def next_atom(a: Array, b: Array, c: Array, bond: float, angle: float, dihedral: float) -> Array:
    """Position of an atom from three before it and internal coordinates (angles in degrees)."""
    angle, dihedral = np.deg2rad(angle), np.deg2rad(dihedral)
    axis = (c - b) / np.linalg.norm(c - b)
    normal = np.cross(b - a, axis)
    normal /= np.linalg.norm(normal)
    local = bond * np.array([-np.cos(angle), np.sin(angle) * np.cos(dihedral), np.sin(angle) * np.sin(dihedral)])
    return c + local @ np.stack([axis, np.cross(normal, axis), normal])


def backbone(residues: int, phi: float = -57.8, psi: float = -47.0) -> dict[str, Array]:
    """N, CA, C and O (residues, 3) of an ideal chain; the default is an alpha helix."""
    n, ca = np.zeros(3), np.array([1.458, 0.0, 0.0])
    c = next_atom(np.array([0.0, 1.0, 0.0]), n, ca, 1.525, 111.0, -60.0)
    atoms: dict[str, list[Array]] = {"N": [], "CA": [], "C": [], "O": []}
    for _ in range(residues):
        following = next_atom(n, ca, c, 1.329, 116.6, psi)
        oxygen = next_atom(n, ca, c, 1.231, 120.5, psi + 180.0)
        for name, position in zip(atoms, (n, ca, c, oxygen), strict=True):
            atoms[name].append(position)
        next_ca = next_atom(ca, c, following, 1.458, 121.7, 180.0)
        n, ca, c = following, next_ca, next_atom(c, following, next_ca, 1.525, 111.0, phi)
    return {name: np.array(positions) for name, positions in atoms.items()}


def template_of(atoms: dict[str, Array], names: Sequence[str], bonded: Sequence[bool] | None = None) -> Template:
    """Template of one chain in which every residue has all of `atoms`."""
    count = len(names)
    positions = np.stack(list(atoms.values()), axis=1).reshape(-1, 3)
    representative = "CA" if "CA" in atoms else "C1'"
    return Template(
        source="made for a test",
        coordinates=atoms[representative],
        residue_names=tuple(names),
        residue_ids=tuple(str(i + 1) for i in range(count)),
        chain=np.zeros(count, dtype=np.int64),
        chain_names=("A",),
        bonded=np.ones(count - 1, dtype=np.bool_) if bonded is None else np.array(bonded),
        atom_coordinates=positions,
        atom_names=tuple(atoms) * count,
        elements=tuple(name[0] for name in atoms) * count,
        atom_residue=np.repeat(np.arange(count), len(atoms)),
    )
