"""What an analysis leaves to look at: states, motions and flexibility as models, and a script that opens them."""

import json
import logging
import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cryomorph.analysis.result import Analysis, Motion, State
from cryomorph.chimerax import Opened, script
from cryomorph.errors import InputError
from cryomorph.files import write_text
from cryomorph.progress import Progress, Silent, track
from cryomorph.structure.allatom import AllAtoms
from cryomorph.structure.covalent import Sanity
from cryomorph.structure.model import Template
from cryomorph.structure.write import write_atoms, write_models

logger = logging.getLogger(__name__)

FORMATS = ("cif", "pdb", "dcd")
STATES, MOTIONS, MAPS = "states", "motions", "maps"
RMSF, SCRIPT, GEOMETRY = "rmsf.cif", "open_in_chimerax.cxc", "geometry.json"
WRITTEN = {STATES: re.compile(r"state_\d+\.cif"), MOTIONS: re.compile(r"\w+\.(cif|pdb|dcd)")}
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#dd8833")
"""Of the states, in turn; they can be told apart by colour-blind people too."""


class Fitted(Protocol):
    """A run as far as it matters here: what its conformations are conformations of."""

    template: Template


@dataclass(frozen=True)
class Outputs:
    """What was written.

    Attributes
    ----------
    files : tuple of Path
        All of them.
    script : Path
        Opens the others in ChimeraX.
    sanity : dict of name to Sanity
        How far the covalent geometry of the states, and of each motion, is from the template's; empty where that
        has no more than its representative atoms.
    """

    files: tuple[Path, ...]
    script: Path
    sanity: dict[str, Sanity]


class ModelWriter:
    """Writes conformations with all atoms where the template has them, else as traces.

    Parameters
    ----------
    template
        Of the run.
    values
        Of each residue, for the B-factor column, shape (n,).
    """

    def __init__(self, template: Template, values: NDArray[np.floating]) -> None:
        self.template = template
        self.values = values
        has_atoms = len(template.atom_names) > len(template)
        self.atoms = AllAtoms(template) if has_atoms else None

    def models(self, coordinates: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return what is written of conformations (k, n, 3): all m atoms (k, m, 3), or the same again."""
        if self.atoms is None:
            return np.asarray(coordinates, dtype=np.float64)
        return self.atoms(coordinates)

    def sanity(self, models: NDArray[np.float64]) -> Sanity | None:
        """Judge what `models` returned; None for traces."""
        return None if self.atoms is None else self.atoms.sanity(models)

    def write(self, path: Path, models: NDArray[np.float64]) -> None:
        """Write what `models` returned."""
        write = write_models if self.atoms is None else write_atoms
        write(path, self.template, models, len(models), self.values)


def write_outputs(
    folder: Path,
    fitted: Fitted,
    analysis: Analysis,
    *,
    formats: Sequence[str] = FORMATS,
    progress: Progress | None = None,
) -> Outputs:
    """Write the states, motions and flexibility of an analysis as models, and a script for ChimeraX.

    ``states/state_1.cif`` … hold one model each, ``motions/pc1.cif`` … one model a step, ``rmsf.cif`` the template. The
    B-factor column is the residues' root mean square fluctuation in Å. What an earlier analysis wrote there is removed.

    Parameters
    ----------
    folder
        Of the analysis.
    fitted
        The run, whose template has the residues, and the atoms if all are to be written.
    analysis
        What was found.
    formats
        Of motions, among "cif", "pdb" and "dcd", the last with a topology; the PDB format is left out, and a log line
        says so, where it has no room.
    progress
        Told of every file.

    Returns
    -------
    Outputs

    Raises
    ------
    InputError
        If a format is unknown, or the place cannot be written to.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise InputError(f"format {unknown[0]!r}: not known; there are {', '.join(FORMATS)}")
    writer = ModelWriter(fitted.template, analysis.rmsf)
    files: list[Path] = []
    sane: dict[str, Sanity] = {}
    work = len(analysis.states) + len(analysis.motions) + 1
    jobs = [*analysis.states, *analysis.motions, None]
    with closing(track(jobs, progress or Silent(), "writing models", work, "files")) as tracked:
        for job in tracked:
            if isinstance(job, State):
                files.append(folder / STATES / f"state_{job.number}.cif")
                models = writer.models(job.coordinates[None])
                writer.write(files[-1], models)
            elif isinstance(job, Motion):
                models = writer.models(job.coordinates)
                files += _write_motion(folder / MOTIONS, job.name, writer, models, formats)
                _note(sane, job.name, writer.sanity(models))
            else:
                files.append(folder / RMSF)
                writer.write(folder / RMSF, writer.models(fitted.template.coordinates[None]))
    if analysis.states:
        states = writer.models(np.stack([state.coordinates for state in analysis.states]))
        _note(sane, STATES, writer.sanity(states))
    for name, found in sane.items():
        logger.info("%s, all atoms: %s", name, found)
    if sane:
        files.append(folder / GEOMETRY)
        write_text(files[-1], json.dumps({name: asdict(found) for name, found in sane.items()}, indent=1) + "\n")
    _remove_others(folder, files)
    files.append(write_script(folder, analysis))
    return Outputs(tuple(files), folder / SCRIPT, sane)


def write_script(folder: Path, analysis: Analysis) -> Path:
    """Write the script that opens what is in the folder of an analysis, maps too if there are some."""
    path = folder / SCRIPT
    write_text(path, script(_opened(folder, analysis), float(np.max(analysis.rmsf, initial=0.0))))
    return path


def state_name(state: State, particles: int) -> str:
    """Return what a state is called where it is shown: "state 2: 1,024 particles, 33 %"."""
    return f"state {state.number}: {state.population:,} particles, {state.population / particles:.0%}"


def state_colour(number: int) -> str:
    """Return the colour of a state, numbered from 1."""
    return COLOURS[(number - 1) % len(COLOURS)]


def _write_motion(
    folder: Path, name: str, writer: ModelWriter, models: NDArray[np.float64], formats: Sequence[str]
) -> list[Path]:
    written = []
    for suffix in formats:
        path = folder / f"{name}.{suffix}"
        try:
            writer.write(path, models)
        except InputError as error:
            if suffix != "pdb":
                raise
            logger.info("%s", error)
            continue
        written.append(path)
        if suffix == "dcd":
            written.append(folder / f"{name}_topology.cif")
            writer.write(written[-1], models[:1])
    return written


def _note(sane: dict[str, Sanity], name: str, found: Sanity | None) -> None:
    if found is not None:
        sane[name] = found


def _opened(folder: Path, analysis: Analysis) -> list[Opened]:
    """List what the script opens: the first motion is seen, and the states are there to be switched on."""
    opened = []
    for state in analysis.states:
        colour, name = state_colour(state.number), state_name(state, len(analysis))
        opened.append(Opened(f"{STATES}/state_{state.number}.cif", name, "states", colour=colour))
        density = folder / MAPS / f"state_{state.number}" / "map.mrc"
        if density.is_file():
            path = density.relative_to(folder).as_posix()
            opened.append(Opened(path, f"map of {name}", "maps", colour=colour))
    for motion in analysis.motions:
        if (folder / MOTIONS / f"{motion.name}.cif").is_file():
            opened.append(Opened(f"{MOTIONS}/{motion.name}.cif", f"motion {motion.name}", "motions"))
    opened.append(Opened(RMSF, "fluctuation of residues (rmsf in Å as B-factor)", "flexibility"))
    return opened


def _remove_others(folder: Path, files: Sequence[Path]) -> None:
    """Remove what an earlier analysis wrote."""
    for part, pattern in WRITTEN.items():
        for path in (folder / part).glob("*"):
            if pattern.fullmatch(path.name) and path not in files:
                path.unlink()
