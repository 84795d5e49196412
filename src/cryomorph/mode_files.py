"""Normal modes of a model as files: arrays, morphs to look at, and NMD for VMD."""

import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

from cryomorph.errors import InputError
from cryomorph.files import atomic_path
from cryomorph.progress import Progress, Silent, track
from cryomorph.structure.domains import Domain, read_domains
from cryomorph.structure.model import Template, read_template
from cryomorph.structure.modes import CUTOFF, RIGID, Modes, displaced, template_modes
from cryomorph.structure.nmd import write_nmd
from cryomorph.structure.write import split_residue_id, write_models

Array = NDArray[np.float64]

COUNT = 20
AMPLITUDE = 3.0  # Å; plain to see in a molecule of any size
FRAMES = 21
ARRAYS, NMD = "modes.npz", "modes.nmd"
MORPHS = ("cif", "pdb")
WRITTEN = re.compile(r"modes\.(npz|nmd)|mode_\d{2,}\.(cif|pdb)")
WHOLE = "molecule"


@dataclass(frozen=True)
class MoleculeModes:
    """The softest k normal modes of a molecule of n residues, or of each of its domains.

    Attributes
    ----------
    template
        At rest, n residues.
    domains
        What moves: one domain of all residues, or several.
    domain : array (k,)
        Index into `domains` of what each mode moves, ascending.
    eigenvalue : array (k,)
        In spring constants, ascending within a domain.
    vectors : array (k, n, 3)
        Normalised, and zero outside the domain.
    """

    template: Template
    domains: tuple[Domain, ...]
    domain: NDArray[np.int64]
    eigenvalue: Array
    vectors: Array

    def __len__(self) -> int:
        """Return the number of modes."""
        return len(self.eigenvalue)

    @property
    def collectivity(self) -> Array:
        """Share (k,) of the r residues of its domain that take part in each mode, from 1 / r to 1.

        `κ = exp(-Σ_i u_i² ln u_i²) / r` with `Σ_i u_i² = 1`, u_i the displacement of residue i (R. Brüschweiler 1995,
        *J. Chem. Phys.* 102, 3396-3403).
        """
        residues = np.array([len(domain.rows) for domain in self.domains])
        share: Array = np.exp(entr((self.vectors**2).sum(2)).sum(1)) / residues[self.domain]
        return share

    def morph(self, mode: int, amplitude: float, frames: int) -> Array:
        """Conformations (frames, n, 3) in Å, in even steps from one side of the template to the other.

        Parameters
        ----------
        mode
            Counted from 0.
        amplitude
            Root mean square displacement, over the residues of the domain, of the first and the last, in Å.
        frames
            Odd, so that the one in the middle is the template.
        """
        rows = self.domains[self.domain[mode]].rows
        half = frames // 2
        along = amplitude * (np.arange(frames) - half) / half
        part = Modes(self.eigenvalue[[mode]], self.vectors[[mode]][:, rows])
        conformations = np.repeat(self.template.coordinates[None], frames, axis=0)
        conformations[:, rows] = displaced(self.template.coordinates[rows], part, along[:, None])
        return conformations


def molecule_modes(
    template: Template,
    count: int = COUNT,
    cutoff: float = CUTOFF,
    domains: Sequence[Domain] | None = None,
    progress: Progress | None = None,
) -> MoleculeModes:
    """Compute normal modes of a molecule, or of each of its domains as if it were alone.

    Parameters
    ----------
    template
        At rest.
    count
        Number of modes of the molecule, or of each domain.
    cutoff
        Residues up to this far apart are joined by a spring, Å.
    domains
        Each has modes of its own; None stands for one domain of all residues.

    Raises
    ------
    InputError
        If there are not that many modes, or springs do not hold a domain together.
    """
    parts = (Domain(WHOLE, np.arange(len(template))),) if domains is None else tuple(domains)
    if not 0 < cutoff < np.inf:
        raise InputError(f"--cutoff: {cutoff:g} Å is no distance; expected a number above 0, such as {CUTOFF:g}")
    for part in parts:
        there = max(3 * len(part.rows) - RIGID, 0)
        if not 1 <= count <= there:
            what = template.source if domains is None else f"{part.name} of {template.source}"
            raise InputError(f"--count: {count} modes are wanted; {what} has {there}, of {len(part.rows)} residues")
    eigenvalues, vectors = [], []
    with closing(track(parts, progress or Silent(), "normal modes", len(parts), "domains")) as tracked:
        for part in tracked:
            found = template_modes(template, count, cutoff, part.rows)
            eigenvalues.append(found.eigenvalue)
            vectors.append(np.zeros((count, len(template), 3)))
            vectors[-1][:, part.rows] = found.vectors
    domain = np.repeat(np.arange(len(parts)), count)
    return MoleculeModes(template, parts, domain, np.concatenate(eigenvalues), np.concatenate(vectors))


def write_mode_files(
    model: Path,
    out: Path,
    *,
    count: int = COUNT,
    cutoff: float = CUTOFF,
    chains: Sequence[str] | None = None,
    by_chain: bool = False,
    groups: str | None = None,
    amplitude: float = AMPLITUDE,
    frames: int = FRAMES,
    morphs: str = MORPHS[0],
    overwrite: bool = False,
    progress: Progress | None = None,
) -> MoleculeModes:
    """Compute the normal modes of a model and write them into a folder.

    Parameters
    ----------
    model
        PDB or mmCIF file.
    out
        Folder for `modes.npz`, `modes.nmd`, and a morph `mode_01.cif` of each mode.
    count
        Number of modes; with `by_chain` or `groups`, of each domain.
    cutoff
        Residues up to this far apart are joined by a spring, Å.
    chains
        Names of the chains to use; all when None.
    by_chain
        Modes of each chain, as if it were alone.
    groups
        Modes of each of these domains, as if it were alone; text as in `read_domains`.
    amplitude
        Root mean square displacement of the residues that move, at both ends of a morph, Å.
    frames
        Models of a morph, an odd number; the one in the middle is the template.
    morphs
        Format of the morphs: "cif" or "pdb".
    overwrite
        Replace the modes that are in the folder. Morphs of an earlier command are removed; other files stay.
    progress
        Told of every domain and of every morph.

    Returns
    -------
    MoleculeModes

    Raises
    ------
    InputError
        If the input is at fault, or files exist already.
    """
    if by_chain and groups is not None:
        raise InputError("--by-chain and --groups: choose one")
    if not 0 < amplitude < np.inf:
        raise InputError(f"--amplitude: {amplitude:g} Å; expected a number above 0, such as {AMPLITUDE:g}")
    if frames < 3 or frames % 2 == 0:
        raise InputError(f"--frames: {frames}; expected an odd number from 3, so that the template is in the middle")
    if morphs not in MORPHS:
        raise InputError(f"--format: unknown format {morphs!r}; there are {', '.join(MORPHS)}")
    before = _there_before(model, out, overwrite)
    template = read_template(model, chains)
    for residue_id in template.residue_ids:
        split_residue_id(residue_id, template.source)  # tells of a residue that cannot be written
    domains = read_domains(template, groups) if by_chain or groups is not None else None
    modes = molecule_modes(template, count, cutoff, domains, progress)
    written = {out / ARRAYS, out / NMD}
    # Morphs first: the format that may have no room for the molecule is found out before anything is written.
    with closing(track(range(len(modes)), progress or Silent(), "writing morphs", len(modes), "modes")) as tracked:
        for mode in tracked:
            path = morph_path(out, mode, morphs)
            write_models(path, template, modes.morph(mode, amplitude, frames), frames)
            written.add(path)
    write_nmd(out / NMD, template, modes.eigenvalue, modes.vectors)
    with atomic_path(out / ARRAYS) as temporary:
        np.savez(temporary, **_arrays(modes, cutoff))
    for path in before - written:
        path.unlink(missing_ok=True)
    return modes


def morph_path(out: Path, mode: int, morphs: str = MORPHS[0]) -> Path:
    """Return the file of the morph of a mode, counted from 0: the first is `mode_01.cif`."""
    return out / f"mode_{mode + 1:02d}.{morphs}"


def _there_before(model: Path, out: Path, overwrite: bool) -> set[Path]:
    """Return what an earlier command wrote into the folder.

    Raises
    ------
    InputError
        If it is to stay, if the model is among it, or if the folder is none.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; choose another --out")
    before = {path for path in out.iterdir() if WRITTEN.fullmatch(path.name)} if out.exists() else set()
    if model.resolve() in {path.resolve() for path in before}:
        raise InputError(f"{model}: is the model, and would be replaced; choose another --out")
    if before and not overwrite:
        raise InputError(f"{min(before)}: exists already; choose another --out, or give --overwrite")
    return before


def _arrays(modes: MoleculeModes, cutoff: float) -> dict[str, Any]:
    """Return what `modes.npz` holds; no array needs pickling."""
    template = modes.template
    return {
        "eigenvalue": modes.eigenvalue,
        "collectivity": modes.collectivity,
        "domain": np.array([modes.domains[index].name for index in modes.domain]),
        "vectors": modes.vectors,
        "coordinates": template.coordinates,
        "chain": np.array([template.chain_names[index] for index in template.chain]),
        "residue_id": np.array(template.residue_ids),
        "residue_name": np.array(template.residue_names),
        "cutoff": np.float64(cutoff),
    }
