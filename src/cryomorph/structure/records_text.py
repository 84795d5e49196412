"""The text of models: which atoms are written, and the lines of their records in the PDB and mmCIF formats."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import gemmi
import numpy as np
from numpy.typing import NDArray

from cryomorph.errors import InputError
from cryomorph.structure.model import Template

Array = NDArray[np.float64]

ATOM_SITE = """
loop_
_atom_site.group_PDB
_atom_site.id
_atom_site.type_symbol
_atom_site.label_atom_id
_atom_site.label_alt_id
_atom_site.label_comp_id
_atom_site.label_asym_id
_atom_site.label_entity_id
_atom_site.label_seq_id
_atom_site.pdbx_PDB_ins_code
_atom_site.Cartn_x
_atom_site.Cartn_y
_atom_site.Cartn_z
_atom_site.occupancy
_atom_site.B_iso_or_equiv
_atom_site.auth_seq_id
_atom_site.auth_comp_id
_atom_site.auth_asym_id
_atom_site.auth_atom_id
_atom_site.pdbx_PDB_model_num
"""


@dataclass(frozen=True, eq=False)
class Written:
    """Atoms of a template that are written, and the number in their B-factor column.

    Attributes
    ----------
    template : Template
    rows : array (a,)
        Of its atoms, residue by residue.
    values : array (n,)
        Of each residue.
    """

    template: Template
    rows: NDArray[np.int64]
    values: Array

    def __len__(self) -> int:
        """Return the number of atoms."""
        return len(self.rows)

    @property
    def residues(self) -> NDArray[np.int64]:
        """Residue of each atom, shape (a,)."""
        return self.template.atom_residue[self.rows]


def write_pdb(path: Path, written: Written, models: Iterable[Array]) -> None:
    """Write models, coordinates (a, 3) in Å."""
    starts, ends = _pdb_lines(written)
    with path.open("w", encoding="ascii") as file:
        for model, coordinates in enumerate(models, start=1):
            if coordinates.min() <= -1000 or coordinates.max() >= 10000:
                raise InputError(
                    f"{written.template.source}: the coordinates of model {model} have no room in the PDB format;"
                    " write .cif"
                )
            file.write(f"MODEL     {model:4d}\n")
            rows = zip(starts, coordinates.tolist(), ends, strict=True)
            file.writelines(f"{start}{x:8.3f}{y:8.3f}{z:8.3f}{end}" for start, (x, y, z), end in rows)
            file.write("ENDMDL\n")
        file.write("END\n")


def _pdb_lines(written: Written) -> tuple[list[str], list[str]]:
    """Return what stands before and after the coordinates of each atom's line, TER records included."""
    template = written.template
    places = [
        f"{name:>3} {chain:1}{number:4d}{insertion or ' '}" for name, chain, number, insertion in _names(template)
    ]
    residues = written.residues.tolist()
    starts, ends = [], []
    serial = 0
    for place, (row, i) in enumerate(zip(written.rows.tolist(), residues, strict=True)):
        serial += 1
        name, element = template.atom_names[row], template.elements[row]
        padded = f" {name:<3}" if len(name) < 4 and len(element) < 2 else f"{name:<4}"
        starts.append(f"ATOM  {serial:5d} {padded} {places[i]}   ")
        end = f"  1.00{min(written.values[i], 999.99):6.2f}          {element:>2}\n"
        if place + 1 == len(written) or template.chain[residues[place + 1]] != template.chain[i]:
            serial += 1
            end += f"TER   {serial:5d}      {places[i]}\n"
        ends.append(end)
    return starts, ends


def write_cif(path: Path, written: Written, models: Iterable[Array]) -> None:
    """Write models, coordinates (a, 3) in Å."""
    starts, ends = _cif_rows(written)
    with path.open("w", encoding="utf-8") as file:
        _write_cif_header(file, written.template)
        serial = 0
        for model, coordinates in enumerate(models, start=1):
            lines = []
            for start, (x, y, z), end in zip(starts, coordinates.tolist(), ends, strict=True):
                serial += 1
                lines.append(f"ATOM {serial} {start} {x:.3f} {y:.3f} {z:.3f} {end} {model}\n")
            file.writelines(lines)


def _write_cif_header(file: TextIO, template: Template) -> None:
    file.write("data_cryomorph\n_entry.id cryomorph\n\nloop_\n_entity.id\n_entity.type\n")
    file.writelines(f"{entity} polymer\n" for entity in range(1, len(template.chain_names) + 1))
    file.write("\nloop_\n_struct_asym.id\n_struct_asym.entity_id\n")
    file.writelines(
        f"{gemmi.cif.quote(chain)} {entity}\n" for entity, chain in enumerate(template.chain_names, start=1)
    )
    file.write(ATOM_SITE)


def _cif_rows(written: Written) -> tuple[list[str], list[str]]:
    """Return what stands between serial number and coordinates, and between coordinates and model number."""
    template = written.template
    names = [
        (gemmi.cif.quote(name), gemmi.cif.quote(chain), number, insertion or "?")
        for name, chain, number, insertion in _names(template)
    ]
    first = np.searchsorted(template.chain, template.chain)  # residues of a chain follow each other
    starts, ends = [], []
    for row, i in zip(written.rows.tolist(), written.residues.tolist(), strict=True):
        residue, chain, number, insertion = names[i]
        element, atom = template.elements[row], gemmi.cif.quote(template.atom_names[row])
        entity, position = template.chain[i] + 1, i - first[i] + 1
        starts.append(f"{element} {atom} . {residue} {chain} {entity} {position} {insertion}")
        ends.append(f"1.00 {written.values[i]:.2f} {number} {residue} {chain} {atom}")
    return starts, ends


def _names(template: Template) -> Iterator[tuple[str, str, int, str]]:
    """Yield name, chain, number and insertion code of each residue."""
    for name, chain, residue_id in zip(template.residue_names, template.chain, template.residue_ids, strict=True):
        yield name, template.chain_names[chain], *split_residue_id(residue_id, template.source)


def split_residue_id(residue_id: str, source: str) -> tuple[int, str]:
    """Split "52A" into number 52 and insertion code "A" (empty where there is none)."""
    match = re.fullmatch(r"(-?\d+)(\D?)", residue_id)
    if match is None:
        raise InputError(f"{source}: residue '{residue_id}' has no number to write; number the residues")
    return int(match[1]), match[2]


def check_pdb_limits(path: Path, template: Template, atoms: int, models: int) -> None:
    """Raise InputError if the PDB format has no room for this."""
    lines = atoms + len(template.chain_names)
    numbers = [split_residue_id(residue_id, template.source)[0] for residue_id in template.residue_ids]
    problems = [
        (max(map(len, template.chain_names)) > 1, "chain names are longer than one character"),
        (max(map(len, template.residue_names)) > 3, "residue names are longer than three characters"),
        (max(numbers) > 9999 or min(numbers) < -999, "residue numbers do not lie between -999 and 9999"),
        (lines > 99_999, f"{atoms} atoms are more than 99,999 with the ends of chains"),
        (models > 9999, f"{models} models are more than 9999"),
    ]
    for there, problem in problems:
        if there:
            raise InputError(f"{path}: the PDB format has no room for this model ({problem}); write .cif instead")
