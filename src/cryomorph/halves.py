"""Two runs on the two halves of a data set, and whether they find the same motion."""

import json
import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryomorph.comparison import Comparison, compare
from cryomorph.config import RunConfig, open_particles, read_indices
from cryomorph.errors import InputError
from cryomorph.files import atomic_path, write_text
from cryomorph.fitted import FittedRun
from cryomorph.hardware import make_fabric
from cryomorph.particles.stack import ParticleStack
from cryomorph.plots import plot_halves
from cryomorph.progress import Progress
from cryomorph.run import RunFolder
from cryomorph.verdict import as_dict
from cryomorph.workflows import train

logger = logging.getLogger(__name__)

NUMBERS, RESIDUES, FIGURE = "halves.json", "halves.npz", "halves.svg"
LEAST = 10
"""Particles in each half, with which anything can be said."""


def train_halves(config: RunConfig, out: Path, *, resume: bool = False, progress: Progress | None = None) -> Comparison:
    """Train a run on each half of the particles, `half1` and `half2` in a folder, and compare them.

    The halves are those of the particle file, or drawn at random. The runs have nothing in common but their settings:
    not even the seed. A call that was stopped goes on where it was.

    Parameters
    ----------
    config
        Of a run on all particles.
    out
        Folder for the two run folders and what `compare_halves` writes.
    resume
        Insist that there is something to continue.
    progress
        Told of every batch.

    Raises
    ------
    InputError
        If the input is at fault, or the folder holds something else.
    """
    _check(config, out)
    halves = split(open_particles(config.particles), config.seed)
    for number, rows in enumerate(halves, start=1):
        logger.info("half %d of 2: %d particles", number, len(rows))
        indices = out / f"half{number}.npy"
        _keep(indices, rows)
        particles = config.particles.model_copy(update={"indices": indices, "first": None})
        changed = {"particles": particles, "seed": (config.seed + number - 1) % 2**63}
        train(
            config.model_copy(update=changed).resolved(),
            out / f"half{number}",
            resume=resume and number == 1,
            progress=progress,
        )
    return compare_halves(out, progress=progress)


def compare_halves(folder: Path, *, progress: Progress | None = None) -> Comparison:
    """Compare the finished runs `half1` and `half2` of a folder, and write what they agree on.

    `halves.json` has the numbers and the verdict, `halves.npz` what there is of each residue and particle, `halves.svg`
    is a figure.

    Raises
    ------
    InputError
        If a run is not there or not complete, or the particle file has changed.
    """
    first, second = (FittedRun(folder / f"half{number}") for number in (1, 2))
    fabric = make_fabric(first.config.hardware)
    found = compare(first, second, fabric.device, progress)
    motion, alike = found.motion, found.agreement
    with atomic_path(folder / RESIDUES) as temporary:
        np.savez(
            temporary,
            motion=motion.residue_angstrom,
            covariance=motion.residue_covariance,
            covariance_error=motion.residue_error,
            rmsd_between_models=alike.residue_rmsd,
            correlation_between_models=alike.residue_correlation,
            component=found.component,
            means=found.means,
            places=found.places,
            particles=found.particles,
            half=found.half,
        )
    with atomic_path(folder / FIGURE) as temporary:
        plot_halves(
            temporary,
            motion=motion.residue_angstrom,
            error=motion.residue_error,
            between_models=alike.residue_rmsd,
            chain=first.template.chain,
            places=found.places,
        )
    write_text(folder / NUMBERS, json.dumps(as_dict(found), indent=1, ensure_ascii=False) + "\n")
    return found


def split(stack: ParticleStack, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows of the original file for each half, ascending: those of the file, else drawn, group by group.

    Raises
    ------
    InputError
        If there are too few particles, or a half is without particles of an optics group.
    """
    groups, given = stack.table.optics_group, stack.table.half_set
    half = _drawn(groups, seed) if given is None else given
    logger.info("half sets: %s", "drawn at random" if given is None else "those of the particle file")
    first, second = (np.flatnonzero(half == number) for number in (1, 2))
    if min(len(first), len(second)) < LEAST:
        raise InputError(
            f"{stack.table.source}: halves of {len(first)} and {len(second)} particles; --halves needs at least "
            f"{LEAST} in each"
        )
    lonely = np.setxor1d(groups[first], groups[second])
    if len(lonely):
        raise InputError(
            f"{stack.table.source}: optics group {lonely[0] + 1} has particles in one half only; leave it out with "
            "--indices"
        )
    return stack.source_index[first], stack.source_index[second]


def _drawn(groups: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Deal the particles of each optics group (m,) to the halves 1 and 2 in turn, in random order."""
    generator = np.random.default_rng(np.random.SeedSequence([seed, len(groups)]))
    order = generator.permutation(len(groups))
    order = order[np.argsort(groups[order], kind="stable")]
    half = np.empty(len(groups), dtype=np.int64)
    half[order] = np.arange(len(groups)) % 2 + 1
    return half


def _check(config: RunConfig, out: Path) -> None:
    if config.hardware.devices > 1:
        raise InputError("--halves computes on one device; leave --devices out")
    if config.start_from is not None or config.infer_from is not None:
        raise InputError("--halves trains both halves from the template; leave --start-from out")
    if RunFolder(out).exists():
        raise InputError(f"{out}: holds a run on all particles; choose another --out for the halves")
    if out.is_dir() and any(out.iterdir()) and not (out / "half1.npy").exists():
        raise InputError(f"{out}: is not empty and holds no halves; choose another --out")


def _keep(path: Path, rows: NDArray[np.int64]) -> None:
    """Write the rows of a half, or see that they are those that were written before."""
    if not path.exists():
        with atomic_path(path) as temporary:
            np.save(temporary, rows)
    elif not np.array_equal(read_indices(path), rows):
        raise InputError(f"{path.parent}: holds other halves; choose another --out")
