"""Writing models: conformations as traces of representative atoms or with all atoms, and templates."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import gemmi
import numpy as np
from biotraj import DCDTrajectoryFile
from numpy.typing import NDArray

from cryomorph.errors import InputError
from cryomorph.files import atomic_path
from cryomorph.structure.model import Template
from cryomorph.structure.records_text import Written, check_pdb_limits, split_residue_id, write_cif, write_pdb

Array = NDArray[np.float64]

__all__ = ["split_residue_id", "write_atoms", "write_models", "write_template"]


def write_models(
    path: Path,
    template: Template,
    conformations: Iterable[Array],
    count: int,
    values: NDArray[np.floating] | None = None,
) -> None:
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
    values
        Number of each residue for the B-factor column, shape (n,); zeros if not given.

    Raises
    ------
    InputError
        If the suffix is another, the place cannot be written to, or the PDB format has no room for this model.
    ValueError
        If the conformations are not `count` finite arrays (n, 3).
    """
    _write(Path(path), Written(template, template.representative_atoms, _of(template, values)), conformations, count)


def write_atoms(
    path: Path,
    template: Template,
    conformations: Iterable[Array],
    count: int,
    values: NDArray[np.floating] | None = None,
) -> None:
    """Write conformations with all m atoms of the template.

    Parameters
    ----------
    path, template, count, values
        As in `write_models`.
    conformations
        Coordinates (m, 3) in Å.

    Raises
    ------
    InputError, ValueError
        As `write_models`.
    """
    _write(
        Path(path), Written(template, np.arange(len(template.atom_names)), _of(template, values)), conformations, count
    )


def write_template(
    path: Path,
    template: Template,
    occupancy: NDArray[np.floating] | None = None,
    b_factor: NDArray[np.floating] | None = None,
) -> None:
    """Write all atoms of a template as .cif or .pdb.

    Parameters
    ----------
    path
        The file.
    template
        Of n residues.
    occupancy, b_factor
        Of each residue's atoms, shape (n,), the latter in Å²; all 1, and gemmi's default of 20 Å², if not given.

    Raises
    ------
    InputError
        If the suffix is another, the place cannot be written to, or the PDB format has no room for this model.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".cif", ".pdb"):
        raise InputError(f"{path}: cannot write this kind of file; expected .cif or .pdb")
    structure = _structure(template, occupancy, b_factor)
    if suffix == ".pdb":
        check_pdb_limits(path, template, len(template.atom_names), 1)
    with atomic_path(path) as temporary:
        if suffix == ".pdb":
            structure.write_pdb(str(temporary))
        else:
            structure.make_mmcif_document().write_file(str(temporary))


def _of(template: Template, values: NDArray[np.floating] | None) -> Array:
    return np.zeros(len(template)) if values is None else np.asarray(values, dtype=np.float64)


def _write(path: Path, written: Written, conformations: Iterable[Array], count: int) -> None:
    writers = {".cif": write_cif, ".pdb": write_pdb, ".dcd": _write_dcd}
    writer = writers.get(path.suffix.lower())
    if writer is None:
        raise InputError(f"{path}: cannot write this kind of file; expected .cif, .pdb or .dcd")
    if path.suffix.lower() == ".pdb":
        check_pdb_limits(path, written.template, len(written), count)
    with atomic_path(path) as temporary:
        writer(temporary, written, _checked(conformations, len(written), count))


def _checked(conformations: Iterable[Array], atoms: int, count: int) -> Iterator[Array]:
    total = 0
    for conformation in conformations:
        total += 1
        if np.shape(conformation) != (atoms, 3) or not np.isfinite(conformation).all():
            raise ValueError(f"conformation {total} is no finite array ({atoms}, 3), but {np.shape(conformation)}")
        yield np.asarray(conformation, dtype=np.float64)
    if total != count:
        raise ValueError(f"{total} conformations were given, not {count}")


def _write_dcd(path: Path, written: Written, conformations: Iterable[Array]) -> None:
    with DCDTrajectoryFile(str(path), "w") as trajectory:
        for conformation in conformations:
            trajectory.write(conformation[None].astype(np.float32))


def _structure(
    template: Template, occupancy: NDArray[np.floating] | None, b_factor: NDArray[np.floating] | None
) -> gemmi.Structure:
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
            if occupancy is not None:
                atom.occ = float(occupancy[i])
            if b_factor is not None:
                atom.b_iso = float(b_factor[i])
            residue.add_atom(atom)
        chains[template.chain[i]].add_residue(residue)
    for chain in chains:
        model.add_chain(chain)
    structure.add_model(model)
    structure.setup_entities()
    return structure
