"""Many conformations of one molecule: models of a file, files of a folder, frames of a trajectory."""

import logging
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from biotraj import DCDTrajectoryFile, XTCTrajectoryFile
from numpy.typing import NDArray

from cryomorph.errors import InputError
from cryomorph.structure.model import Template, template_of_records
from cryomorph.structure.psf import place, read_psf
from cryomorph.structure.records import AtomRecord, read_models, structure_format

logger = logging.getLogger(__name__)

FRAMES_AT_ONCE = 64
NANOMETRE = 10.0  # Å
LONGEST_STEP = 12.0  # Å between the representative atoms of bonded residues; more is a molecule cut by a periodic box


@dataclass(frozen=True)
class Ensemble:
    """K conformations of the same m atoms.

    Attributes
    ----------
    template : Template
        The first conformation.
    atom_coordinates : array (K, m, 3)
        Å, in the order of the template's atoms.
    """

    template: Template
    atom_coordinates: NDArray[np.float32]

    def __len__(self) -> int:
        """Return the number of conformations."""
        return len(self.atom_coordinates)

    @property
    def residue_coordinates(self) -> NDArray[np.float64]:
        """Representative atoms (K, n, 3) in Å."""
        return self.residues(np.arange(len(self)))

    def atoms(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return all atoms of some conformations in Å: rows (b,) to (b, m, 3)."""
        return self.atom_coordinates[rows]

    def residues(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return representative atoms of some conformations in Å: rows (b,) to (b, n, 3)."""
        return self.atom_coordinates[rows[:, None], self.template.representative_atoms].astype(np.float64)

    def conformation(self, row: int) -> Template:
        """Return one of the conformations as a template; its bonds are those of the first."""
        return _at(self.template, self.atom_coordinates[row])


def read_ensemble(path: Path, topology: Path | None = None, chains: Sequence[str] | None = None) -> Ensemble:
    """Read conformations of one molecule.

    Parameters
    ----------
    path
        A PDB or mmCIF file with one or several models, a folder of such files (their first models, in natural order of
        the names) or a trajectory, .dcd or .xtc.
    topology
        Of a trajectory: .pdb, .cif or .psf with the same atoms in the same order.
    chains
        Names of the chains to keep; all when None.

    Returns
    -------
    Ensemble

    Raises
    ------
    InputError
        If something cannot be read, if the atoms are not the same throughout, or if a chain is cut by a periodic box.
    """
    path = Path(path)
    if path.suffix.lower() in (".dcd", ".xtc"):
        if topology is None:
            raise InputError(f"{path}: a trajectory has no atom names; give its topology too (.pdb, .cif or .psf)")
        ensemble = _read_trajectory(path, Path(topology), chains)
    elif topology is not None:
        raise InputError(f"{path}: a topology is for .dcd and .xtc trajectories; leave {topology} out")
    elif path.is_dir():
        ensemble = _join(((str(file), read_models(file)[0]) for file in _structure_files(path)), chains)
    else:
        models = read_models(path)
        names = [f"{path}, model {number}" if len(models) > 1 else str(path) for number in range(1, len(models) + 1)]
        ensemble = _join(zip(names, models, strict=True), chains)
    _check_whole(ensemble, path)
    return ensemble


def _structure_files(folder: Path) -> list[Path]:
    def natural(file: Path) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", file.name)]

    visible = [file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")]
    files = sorted((file for file in visible if structure_format(file)), key=natural)
    if not files:
        raise InputError(f"{folder}: no structure files in this folder; expected .pdb, .ent, .cif or .mmcif (also .gz)")
    if len(files) < len(visible):
        others = len(visible) - len(files)
        logger.info("%s: %d files that are no structures by their names are left out", folder, others)
    return files


def _join(models: Iterator[tuple[str, list[AtomRecord]]], chains: Sequence[str] | None) -> Ensemble:
    templates = (template_of_records(records, source, chains)[0] for source, records in models)
    first = next(templates)
    frames = [first.atom_coordinates.astype(np.float32)]
    expected = _identities(first)
    for template in templates:
        found = _identities(template)
        if found != expected:
            pairs = zip(expected, found, strict=False)
            other = next((f"{_name(b)} in place of {_name(a)}" for a, b in pairs if a != b), "")
            raise InputError(
                f"{template.source}: its {len(found)} atoms are not those of {first.source} ({len(expected)} atoms)"
                f"{': ' + other if other else ''}; all conformations must have the same atoms in the same order"
            )
        frames.append(template.atom_coordinates.astype(np.float32))
    return Ensemble(first, np.stack(frames))


Identity = tuple[str, str, str, str]


def _identities(template: Template) -> list[Identity]:
    return [
        (template.chain_names[template.chain[i]], template.residue_names[i], template.residue_ids[i], name)
        for i, name in zip(template.atom_residue, template.atom_names, strict=True)
    ]


def _name(identity: Identity) -> str:
    chain, residue, number, atom = identity
    return f"{atom} of {residue} {number} in chain {chain}"


def _read_trajectory(path: Path, topology: Path, chains: Sequence[str] | None) -> Ensemble:
    from_psf = topology.suffix.lower() == ".psf"
    records = read_psf(topology) if from_psf else read_models(topology)[0]
    reference = None if from_psf else template_of_records(records, str(topology), chains)
    frames: list[NDArray[np.float32]] = []
    for chunk in _chunks(path):
        if chunk.shape[1] != len(records):
            raise InputError(f"{path}: its frames have {chunk.shape[1]} atoms, but {topology} has {len(records)}")
        if reference is None:
            reference = template_of_records(place(records, chunk[0]), str(topology), chains)
        frames.append(chunk[:, reference[1]])
    if reference is None or not frames:
        raise InputError(f"{path}: no frames in it")
    coordinates = np.concatenate(frames)
    if not np.isfinite(coordinates).all():
        bad = int(np.flatnonzero(~np.isfinite(coordinates).all((1, 2)))[0])
        raise InputError(f"{path}, frame {bad + 1}: coordinates that are no finite numbers; write the trajectory anew")
    return Ensemble(_at(reference[0], coordinates[0]), coordinates)


def _at(template: Template, atom_coordinates: NDArray[np.float32]) -> Template:
    """Return the template in another conformation; its bonds stay those it came with."""
    atoms = atom_coordinates.astype(np.float64)
    fields = vars(template) | {"atom_coordinates": atoms, "coordinates": atoms[template.representative_atoms]}
    return Template(**fields)


def _chunks(path: Path) -> Iterator[NDArray[np.float32]]:
    """Yield frames (k, m, 3) in Å, some at a time."""
    dcd = path.suffix.lower() == ".dcd"
    opener: Callable[[str], DCDTrajectoryFile | XTCTrajectoryFile] = DCDTrajectoryFile if dcd else XTCTrajectoryFile
    unit = 1.0 if dcd else NANOMETRE
    total = 0
    try:
        with opener(str(path)) as trajectory:
            while len(chunk := trajectory.read(FRAMES_AT_ONCE)[0]):
                total += len(chunk)
                yield np.asarray(chunk * np.float32(unit), dtype=np.float32)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"{path}: cannot be read as a trajectory after frame {total} ({reason})") from error
    if dcd and (promised := _dcd_header_frames(path)) > total:
        logger.info("%s: its header promises %d frames, but it has %d", path, promised, total)


def _dcd_header_frames(path: Path) -> int:
    with path.open("rb") as file:
        header = file.read(12)
    order = "<" if header[:4] == struct.pack("<i", 84) else ">"
    return int(struct.unpack(f"{order}i", header[8:12])[0])


def _check_whole(ensemble: Ensemble, path: Path) -> None:
    bonded = np.flatnonzero(ensemble.template.bonded)
    atoms = ensemble.template.representative_atoms
    steps = ensemble.atom_coordinates[:, atoms[bonded + 1]] - ensemble.atom_coordinates[:, atoms[bonded]]
    length = np.linalg.norm(steps, axis=-1)
    if length.size and length.max() > LONGEST_STEP:
        frame, bond = np.unravel_index(int(length.argmax()), length.shape)
        residue = ensemble.template.residue_ids[bonded[bond]]
        raise InputError(
            f"{path}: conformation {frame + 1} is torn after residue {residue} ({length.max():.0f} Å to the next one),"
            " probably by a periodic box; make the molecule whole first (e.g. gmx trjconv -pbc whole)"
        )
