"""The atomic model that everything starts from: residues, their representative atoms and all their atoms."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryomorph.errors import InputError
from cryomorph.structure.records import AtomRecord, read_models
from cryomorph.structure.residues import Residue, are_bonded, element_of, polymer_residues

logger = logging.getLogger(__name__)

MINIMUM_RESIDUES = 3


@dataclass(frozen=True)
class Template:
    """An atomic model of n residues and m atoms.

    Attributes
    ----------
    source
        File name, for messages.
    coordinates : array (n, 3)
        Representative atoms in Å: Cα of amino acids, C1' of nucleotides.
    residue_names : n strings
        E.g. "ALA", "DA".
    residue_ids : n strings
        Number and insertion code, e.g. "52A".
    chain : array (n,)
        Index into `chain_names`; residues of a chain follow each other.
    chain_names
        Unique names.
    bonded : array (n - 1,)
        Whether residues i and i + 1 are covalently linked.
    atom_coordinates : array (m, 3)
        All atoms of these residues in Å, with hydrogens where the file has them, residue by residue.
    atom_names, elements : m strings
        E.g. "CA" and "C".
    atom_residue : array (m,)
        Index of the residue that each atom belongs to, ascending.
    """

    source: str
    coordinates: NDArray[np.float64]
    residue_names: tuple[str, ...]
    residue_ids: tuple[str, ...]
    chain: NDArray[np.int64]
    chain_names: tuple[str, ...]
    bonded: NDArray[np.bool_]
    atom_coordinates: NDArray[np.float64]
    atom_names: tuple[str, ...]
    elements: tuple[str, ...]
    atom_residue: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of residues."""
        return len(self.residue_names)

    @property
    def representative_atoms(self) -> NDArray[np.int64]:
        """Index (n,) of the atom that stands for each residue: Cα, or C1' where there is none."""
        rows = np.full(len(self), -1, dtype=np.int64)
        names = np.array(self.atom_names)
        for name in ("C1'", "CA"):
            found = np.flatnonzero(names == name)
            rows[self.atom_residue[found]] = found
        return rows

    @property
    def is_nucleotide(self) -> NDArray[np.bool_]:
        """Whether each of the n residues is a nucleotide."""
        return np.array([self.atom_names[row] == "C1'" for row in self.representative_atoms], dtype=np.bool_)

    def named_atoms(self, *names: str) -> NDArray[np.float64]:
        """Coordinates (n, 3) of the atom of each residue with one of these names, NaN where there is none.

        The first name that a residue has counts.
        """
        found = np.full((len(self), 3), np.nan)
        atom_names = np.array(self.atom_names)
        for name in reversed(names):
            rows = np.flatnonzero(atom_names == name)
            found[self.atom_residue[rows]] = self.atom_coordinates[rows]
        return found

    def moved(self, translation: NDArray[np.float64]) -> "Template":
        """Return a copy with all atoms moved by `translation` (3,) in Å."""
        return self.transformed(np.eye(3), translation)

    def transformed(self, rotation: NDArray[np.float64], translation: NDArray[np.float64]) -> "Template":
        """Return a copy with every position x at `rotation @ x + translation`."""
        return replace(
            self,
            coordinates=self.coordinates @ rotation.T + translation,
            atom_coordinates=self.atom_coordinates @ rotation.T + translation,
        )


def read_template(path: Path, chains: Sequence[str] | None = None) -> Template:
    """Read the first model of a PDB or mmCIF file.

    Amino acids with a Cα and nucleotides with a C1' are kept, modified ones too; waters, ligands and caps are left out
    and a log line says so. Of alternate locations the one of highest occupancy counts, the first of equals.

    Parameters
    ----------
    path
        .pdb, .ent, .cif or .mmcif, also with .gz.
    chains
        Names of the chains to keep (`auth_asym_id` in mmCIF); all when None.

    Returns
    -------
    Template

    Raises
    ------
    InputError
        If the file cannot be read, has fewer than three residues or none with Cα or C1', lacks a wanted chain, has
        coordinates that are no numbers, or has an atom or a residue twice.
    """
    path = Path(path)
    models = read_models(path)
    if len(models) > 1:
        logger.info("%s: %d models; the first is used", path, len(models))
    return template_of_records(models[0], str(path), chains)[0]


def template_of_records(
    records: Sequence[AtomRecord], source: str, chains: Sequence[str] | None = None
) -> tuple[Template, NDArray[np.int64]]:
    """Make a template of atom records.

    Parameters
    ----------
    records
        Of one model.
    source
        File name, for messages.
    chains
        As in `read_template`.

    Returns
    -------
    template : Template
    rows : array (m,)
        The record that each of the template's atoms comes from.

    Raises
    ------
    InputError
        As `read_template`.
    """
    kept, left_out = polymer_residues(records, source)
    _say_left_out(source, left_out)
    if not kept:
        raise InputError(
            f"{source}: no Cα or C1' atoms of proteins or nucleic acids among its {len(records)} atoms; expected an"
            " atomic model"
        )
    kept = _select(_chain_by_chain(kept), source, chains)
    if len(kept) < MINIMUM_RESIDUES:
        raise InputError(f"{source}: only {len(kept)} residues; expected at least {MINIMUM_RESIDUES}")
    return _assemble(kept, source)


def _say_left_out(source: str, left_out: Counter[str]) -> None:
    if left_out:
        names = ", ".join(f"{count} {name or 'without name'}" for name, count in left_out.most_common(8))
        more = " and others" if len(left_out) > 8 else ""
        logger.info("%s: left out what is no residue of a chain: %s%s", source, names, more)


def _chain_by_chain(residues: list[Residue]) -> list[Residue]:
    order = {name: index for index, name in enumerate(dict.fromkeys(residue.chain for residue in residues))}
    return sorted(residues, key=lambda residue: order[residue.chain])


def _select(residues: list[Residue], source: str, chains: Sequence[str] | None) -> list[Residue]:
    if chains is None:
        return residues
    present = list(dict.fromkeys(residue.chain for residue in residues))
    unknown = [name for name in chains if name not in present]
    if unknown:
        raise InputError(f"{source}: no chain '{unknown[0]}'; the chains are {', '.join(present)}")
    return [residue for residue in residues if residue.chain in chains]


def _assemble(residues: list[Residue], source: str) -> tuple[Template, NDArray[np.int64]]:
    chain_names = tuple(dict.fromkeys(residue.chain for residue in residues))
    atoms = [(index, name) for index, residue in enumerate(residues) for name in _ordered(residue)]
    elements = []
    for index, name in atoms:
        element = element_of(residues[index].atoms[name])
        if not element:
            residue = residues[index]
            raise InputError(
                f"{source}: the element of atom {name} in residue {residue.name} {residue.residue_id} of chain"
                f" {residue.chain} cannot be told; fill in the file's element column"
            )
        elements.append(element)
    template = Template(
        source=source,
        coordinates=np.array([residue.atoms[residue.representative].position for residue in residues]),
        residue_names=tuple(residue.name for residue in residues),
        residue_ids=tuple(residue.residue_id for residue in residues),
        chain=np.array([chain_names.index(residue.chain) for residue in residues], dtype=np.int64),
        chain_names=chain_names,
        bonded=np.array([are_bonded(*pair) for pair in pairwise(residues)], dtype=np.bool_),
        atom_coordinates=np.array([residues[index].atoms[name].position for index, name in atoms]),
        atom_names=tuple(name for _, name in atoms),
        elements=tuple(elements),
        atom_residue=np.array([index for index, _ in atoms], dtype=np.int64),
    )
    rows = np.array([residues[index].rows[name] for index, name in atoms], dtype=np.int64)
    return template, rows


def _ordered(residue: Residue) -> list[str]:
    """Names of a residue's atoms in the order of the file."""
    return sorted(residue.rows, key=residue.rows.__getitem__)
