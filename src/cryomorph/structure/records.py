"""Atom records of PDB and mmCIF files, in the order of the file and with nothing left out.

PDB lines are read here rather than by gemmi, which takes an unreadable coordinate for zero and joins residues of the
same number, as simulation programs write them.
"""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import gemmi
import numpy as np

from cryomorph.errors import InputError

PDB_SUFFIXES = (".pdb", ".ent")
CIF_SUFFIXES = (".cif", ".mmcif")


class AtomRecord(NamedTuple):
    """One atom as a file gives it; strings are stripped and empty where the file says nothing."""

    name: str
    alternate: str
    residue_name: str
    chain: str
    residue_id: str  # number and insertion code
    segment: str
    element: str
    hetero: bool  # HETATM
    in_sequence: bool  # mmCIF numbers the residue in a polymer's sequence
    stretch: int  # number of TER records before it
    occupancy: float
    x: float
    y: float
    z: float

    @property
    def position(self) -> tuple[float, float, float]:
        """Coordinates in Å."""
        return self.x, self.y, self.z


def structure_format(path: Path) -> str:
    """Return "pdb" or "cif" by the suffix of `path` (or the one before ".gz"), or an empty string for any other."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    if suffixes and suffixes[-1] in PDB_SUFFIXES:
        return "pdb"
    return "cif" if suffixes and suffixes[-1] in CIF_SUFFIXES else ""


def read_models(path: Path) -> list[list[AtomRecord]]:
    """Read the atom records of each model of a PDB or mmCIF file.

    Parameters
    ----------
    path
        .pdb, .ent, .cif or .mmcif, also with .gz.

    Returns
    -------
    list
        At least one model, each with at least one atom, all coordinates finite.

    Raises
    ------
    InputError
        If the file cannot be read, is of another kind, has no atoms or something in it that is no number.
    """
    path = Path(path)
    readers: dict[str, Callable[[Path], list[list[AtomRecord]]]] = {"pdb": _read_pdb, "cif": _read_cif}
    kind = structure_format(path)
    if not kind:
        raise InputError(f"{path}: not a structure file by its name; expected .pdb, .ent, .cif or .mmcif (also .gz)")
    models = [model for model in readers[kind](path) if model]
    if not models:
        raise InputError(f"{path}: no atoms found; expected ATOM records of PDB or the _atom_site table of mmCIF")
    return models


def _read_pdb(path: Path) -> list[list[AtomRecord]]:
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix.lower() == ".gz" else raw).decode("latin-1")
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({_reason(error)})") from error
    except Exception as error:  # zlib.error, which gzip lets through, is no OSError
        raise InputError(f"{path}: cannot be unpacked ({error})") from error
    models: list[list[AtomRecord]] = [[]]
    stretch = 0
    for number, line in enumerate(text.split("\n"), start=1):
        kind = line[:6].rstrip()
        if kind in ("ATOM", "HETATM"):
            try:
                models[-1].append(_pdb_atom(line.rstrip("\r"), stretch))
            except ValueError as error:
                raise InputError(f"{path}, line {number}: {error}; expected the columns of the PDB format") from error
        elif kind == "TER":
            stretch += 1
        elif kind in ("MODEL", "ENDMDL") and models[-1]:
            models.append([])
            stretch = 0
    return models


def _pdb_atom(line: str, stretch: int) -> AtomRecord:
    residue_name, chain = line[17:21].strip(), line[21:22].strip()
    # Column 21 belongs to a residue name of four letters (CHARMM) or to a chain name of two (gemmi, Phenix).
    if len(residue_name) == 4 and gemmi.find_tabulated_residue(residue_name[:3]).kind != gemmi.ResidueKind.UNKNOWN:
        residue_name, chain = residue_name[:3], residue_name[3] + chain
    return AtomRecord(
        name=line[12:16].strip(),
        alternate=line[16:17].strip(),
        residue_name=residue_name,
        chain=chain,
        residue_id=_pdb_residue_number(line[22:26].strip()) + line[26:27].strip(),
        segment=line[72:76].strip(),
        element=line[76:78].strip(),
        hetero=line.startswith("HETATM"),
        in_sequence=False,
        stretch=stretch,
        occupancy=_number(line[54:60], "occupancy") if line[54:60].strip() else 1.0,
        x=_number(line[30:38], "x"),
        y=_number(line[38:46], "y"),
        z=_number(line[46:54], "z"),
    )


def _pdb_residue_number(field: str) -> str:
    """Residue number, also in the hybrid-36 notation that goes on with A000 after 9999."""
    try:
        if len(field) == 4 and field[0].isupper():
            return str(int(field, 36) - 10 * 36**3 + 10_000)
        return str(int(field))
    except ValueError:
        raise ValueError(f"the residue number '{field}' is no number") from None


def _number(field: str, what: str) -> float:
    try:
        value = float(field)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise ValueError(f"{what} is '{field.strip()}', which is no finite number")
    return value


def _read_cif(path: Path) -> list[list[AtomRecord]]:
    try:
        document = gemmi.cif.read(str(path))
    except (OSError, ValueError, RuntimeError, IndexError) as error:
        raise InputError(f"{path}: cannot be read as mmCIF ({_reason(error)})") from error
    for block in document:
        if len(block.find_values("_atom_site.Cartn_x")):
            return _cif_models(path, block)
    return []


def _cif_models(path: Path, block: gemmi.cif.Block) -> list[list[AtomRecord]]:
    count = len(block.find_values("_atom_site.Cartn_x"))

    def column(*tags: str) -> list[str]:
        """Return the first of these columns that is there, empty strings where it has no value."""
        for tag in tags:
            values = block.find_values(f"_atom_site.{tag}")
            if len(values) == count:
                return [gemmi.cif.as_string(value) for value in values]
        return [""] * count

    models: dict[str, list[AtomRecord]] = {}
    fields = zip(
        column("label_atom_id", "auth_atom_id"),
        column("label_alt_id"),
        column("label_comp_id", "auth_comp_id"),
        column("auth_asym_id", "label_asym_id"),
        column("auth_seq_id", "label_seq_id"),
        column("pdbx_PDB_ins_code"),
        column("type_symbol"),
        column("group_PDB"),
        column("label_seq_id"),
        column("pdbx_PDB_model_num"),
        column("occupancy"),
        column("Cartn_x"),
        column("Cartn_y"),
        column("Cartn_z"),
        strict=True,
    )
    for row, (name, alternate, residue, chain, number, insertion, element, group, label, model, *values) in enumerate(
        fields, start=1
    ):
        try:
            occupancy = _cif_number(values[0], "occupancy") if values[0] else 1.0
            x, y, z = (_cif_number(value, axis) for value, axis in zip(values[1:], "xyz", strict=True))
        except ValueError as error:
            raise InputError(f"{path}, row {row} of _atom_site: {error}; correct the file") from error
        atom = AtomRecord(
            name, alternate, residue, chain, number + insertion, "", element, group == "HETATM", bool(label), 0,
            occupancy, x, y, z,
        )  # fmt: skip
        models.setdefault(model, []).append(atom)
    return list(models.values())


def _cif_number(value: str, what: str) -> float:
    number = gemmi.cif.as_number(value)
    if not np.isfinite(number):
        raise ValueError(f"{what} is '{value}', which is no finite number")
    return number


def _reason(error: Exception) -> str:
    """First line of an error's message, without what follows."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.strip().split("\n")[0]
