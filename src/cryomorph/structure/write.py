"""Writing models: conformations as traces of representative atoms, and templates with all their atoms."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

import gemmi
import numpy as np
from biotraj import DCDTrajectoryFile
from numpy.typing import NDArray

from cryomorph.errors import InputError
from cryomorph.files import atomic_path
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


def write_models(path: Path, template: Template, conformations: Iterable[Array], count: int) -> None:
    """Write conformations as one trace each: the Cα or C1' atom of every residue.

    Parameters
    ----------
    path
        .cif (several models), .pdb (several models) or .dcd (frames; load them onto a one-conformation .pdb or .cif).
        It is written one conformation at a time.
    template
        The residues.
    conformations
        Coordinates (n, 3) in Å.
    count
        How many there are.

    Raises
    ------
    InputError
        If the suffix is another, the place cannot be written to, or the PDB format has no room for this model.
    ValueError
        If the conformations are not `count` finite arrays (n, 3).
    """
    path = Path(path)
    writers = {".cif": _write_cif, ".pdb": _write_pdb, ".dcd": _write_dcd}
    writer = writers.get(path.suffix.lower())
    if writer is None:
        raise InputError(f"{path}: cannot write this kind of file; expected .cif, .pdb or .dcd")
    if path.suffix.lower() == ".pdb":
        _check_pdb_limits(path, template, len(template), count)
    with atomic_path(path) as temporary:
        writer(temporary, template, _checked(conformations, len(template), count))


def write_template(path: Path, template: Template) -> None:
    """Write all atoms of a template as .cif or .pdb.

    Raises
    ------
    InputError
        If the suffix is another, the place cannot be written to, or the PDB format has no room for this model.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".cif", ".pdb"):
        raise InputError(f"{path}: cannot write this kind of file; expected .cif or .pdb")
    structure = _structure(template)
    if suffix == ".pdb":
        _check_pdb_limits(path, template, len(template.atom_names), 1)
    with atomic_path(path) as temporary:
        if suffix == ".pdb":
            structure.write_pdb(str(temporary))
        else:
            structure.make_mmcif_document().write_file(str(temporary))


def _checked(conformations: Iterable[Array], residues: int, count: int) -> Iterator[Array]:
    total = 0
    for conformation in conformations:
        total += 1
        if np.shape(conformation) != (residues, 3) or not np.isfinite(conformation).all():
            raise ValueError(f"conformation {total} is no finite array ({residues}, 3), but {np.shape(conformation)}")
        yield np.asarray(conformation, dtype=np.float64)
    if total != count:
        raise ValueError(f"{total} conformations were given, not {count}")


def _write_dcd(path: Path, template: Template, conformations: Iterator[Array]) -> None:
    with DCDTrajectoryFile(str(path), "w") as trajectory:
        for conformation in conformations:
            trajectory.write(conformation[None].astype(np.float32))


def _write_pdb(path: Path, template: Template, conformations: Iterator[Array]) -> None:
    starts, ends = _pdb_lines(template)
    with path.open("w", encoding="ascii") as file:
        for model, conformation in enumerate(conformations, start=1):
            if conformation.min() <= -1000 or conformation.max() >= 10000:
                raise InputError(
                    f"{template.source}: the coordinates of model {model} have no room in the PDB format; write .cif"
                )
            file.write(f"MODEL     {model:4d}\n")
            rows = zip(starts, conformation.tolist(), ends, strict=True)
            file.writelines(f"{start}{x:8.3f}{y:8.3f}{z:8.3f}{end}" for start, (x, y, z), end in rows)
            file.write("ENDMDL\n")
        file.write("END\n")


def _pdb_lines(template: Template) -> tuple[list[str], list[str]]:
    """Return what stands before and after the coordinates of each residue's line, TER records included."""
    starts, ends = [], []
    serial = 0
    for i, (atom, element) in enumerate(_trace(template)):
        serial += 1
        number, insertion = split_residue_id(template.residue_ids[i], template.source)
        chain = template.chain_names[template.chain[i]]
        residue = f"{template.residue_names[i]:>3} {chain:1}{number:4d}{insertion or ' '}"
        starts.append(f"ATOM  {serial:5d}  {atom:<3} {residue}   ")
        end = f"  1.00  0.00          {element:>2}\n"
        if i + 1 == len(template) or template.chain[i + 1] != template.chain[i]:
            serial += 1
            end += f"TER   {serial:5d}      {residue}\n"
        ends.append(end)
    return starts, ends


def _write_cif(path: Path, template: Template, conformations: Iterator[Array]) -> None:
    starts, ends = _cif_rows(template)
    with path.open("w", encoding="utf-8") as file:
        _write_cif_header(file, template)
        serial = 0
        for model, conformation in enumerate(conformations, start=1):
            lines = []
            for start, (x, y, z), end in zip(starts, conformation.tolist(), ends, strict=True):
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


def _cif_rows(template: Template) -> tuple[list[str], list[str]]:
    """Return what stands between serial number and coordinates, and between coordinates and model number."""
    starts, ends = [], []
    position = 0
    for i, (atom, element) in enumerate(_trace(template)):
        position = position + 1 if i and template.chain[i] == template.chain[i - 1] else 1
        number, insertion = split_residue_id(template.residue_ids[i], template.source)
        chain = gemmi.cif.quote(template.chain_names[template.chain[i]])
        residue, atom = gemmi.cif.quote(template.residue_names[i]), gemmi.cif.quote(atom)
        entity = template.chain[i] + 1
        starts.append(f"{element} {atom} . {residue} {chain} {entity} {position} {insertion or '?'}")
        ends.append(f"1.00 0.00 {number} {residue} {chain} {atom}")
    return starts, ends


def _trace(template: Template) -> list[tuple[str, str]]:
    """Name and element of the atom that stands for each residue."""
    return [(template.atom_names[row], template.elements[row]) for row in template.representative_atoms]


def split_residue_id(residue_id: str, source: str) -> tuple[int, str]:
    """Split "52A" into number 52 and insertion code "A" (empty where there is none)."""
    match = re.fullmatch(r"(-?\d+)(\D?)", residue_id)
    if match is None:
        raise InputError(f"{source}: residue '{residue_id}' has no number to write; number the residues")
    return int(match[1]), match[2]


def _check_pdb_limits(path: Path, template: Template, atoms: int, models: int) -> None:
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


def _structure(template: Template) -> gemmi.Structure:
    structure = gemmi.Structure()
    structure.name = "cryomorph"
    model = gemmi.Model(1)
    chains = [gemmi.Chain(name) for name in template.chain_names]
    starts = np.searchsorted(template.atom_residue, np.arange(len(template) + 1))
    for i, (name, residue_id) in enumerate(zip(template.residue_names, template.residue_ids, strict=True)):
        number, insertion = split_residue_id(residue_id, template.source)
        residue = gemmi.Residue()
        residue.name, residue.seqid = name, gemmi.SeqId(number, insertion or " ")
        residue.entity_type, residue.het_flag = gemmi.EntityType.Polymer, "A"
        for row in range(starts[i], starts[i + 1]):
            atom = gemmi.Atom()
            atom.name, atom.element = template.atom_names[row], gemmi.Element(template.elements[row])
            atom.pos, atom.serial = gemmi.Position(*template.atom_coordinates[row]), row + 1
            residue.add_atom(atom)
        chains[template.chain[i]].add_residue(residue)
    for chain in chains:
        model.add_chain(chain)
    structure.add_model(model)
    structure.setup_entities()
    return structure
