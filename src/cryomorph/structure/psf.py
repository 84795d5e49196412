"""Topologies of CHARMM, NAMD and X-PLOR (PSF): which atoms a trajectory consists of."""

from pathlib import Path

import gemmi
import numpy as np
from numpy.typing import NDArray

from cryomorph.errors import InputError
from cryomorph.structure.records import AtomRecord

MASS_TOLERANCE = 0.3  # dalton
LIGHT_ELEMENTS = [gemmi.Element(number) for number in range(1, 54)]
MASSES = np.array([element.weight for element in LIGHT_ELEMENTS])


def read_psf(path: Path) -> list[AtomRecord]:
    """Read the atoms of a PSF file.

    Parameters
    ----------
    path
        Fixed columns or free format, with names or numbers as atom types.

    Returns
    -------
    list of AtomRecord
        Their positions are NaN, the element is that of the mass (empty where no element has it).

    Raises
    ------
    InputError
        If the file cannot be read or its atom section is not as long as it says.
    """
    try:
        lines = Path(path).read_text(encoding="latin-1").split("\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    start = next((row for row, line in enumerate(lines) if "!NATOM" in line), None)
    if not lines[0].startswith("PSF") or start is None:
        raise InputError(f"{path}: no PSF file; expected a first line 'PSF' and a section !NATOM")
    try:
        count = int(lines[start].split("!")[0])
    except ValueError as error:
        raise InputError(f"{path}, line {start + 1}: expected the number of atoms before !NATOM") from error
    atoms = []
    for number, line in enumerate(lines[start + 1 : start + 1 + count], start=start + 2):
        atoms.append(_atom(line.split(), path, number))
    if len(atoms) != count or count < 1:
        raise InputError(f"{path}: it has {len(atoms)} of its {count} atoms; the file seems cut off")
    return atoms


def place(records: list[AtomRecord], positions: NDArray[np.float32]) -> list[AtomRecord]:
    """Return the records with the positions (m, 3) in Å."""
    return [
        atom._replace(x=x, y=y, z=z) for atom, (x, y, z) in zip(records, positions.astype(float).tolist(), strict=True)
    ]


def _atom(fields: list[str], path: Path, line: int) -> AtomRecord:
    try:
        _, segment, residue_id, residue_name, name, _, _, mass = fields[:8]
        element = _element_of_mass(float(mass))
    except ValueError as error:
        raise InputError(
            f"{path}, line {line}: expected number, segment, residue number, residue, atom, type, charge and mass"
        ) from error
    return AtomRecord(
        name, "", residue_name, "", residue_id, segment, element, False, False, 0, 1.0, np.nan, np.nan, np.nan
    )  # fmt: skip


def _element_of_mass(mass: float) -> str:
    nearest = int(np.abs(MASSES - mass).argmin())
    return LIGHT_ELEMENTS[nearest].name if abs(MASSES[nearest] - mass) < MASS_TOLERANCE else ""
