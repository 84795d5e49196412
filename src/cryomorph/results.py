"""What the commands evaluate and export do with a finished run, as functions."""

import json
import logging
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryomorph.choosing import MEASURES, Choice, particle_columns
from cryomorph.config import RunConfig, open_particles
from cryomorph.errors import InputError
from cryomorph.evaluation import Evaluation, PoseErrors, Truth, per_image_rmsd, pose_errors, read_truth, summarise
from cryomorph.export import file_columns, write_conformations, write_table
from cryomorph.files import write_text
from cryomorph.fitted import DECODE_BATCH, FittedRun
from cryomorph.progress import Progress, Silent, track
from cryomorph.run import RunFolder

__all__ = [
    "MEASURES",
    "FittedRun",
    "evaluate",
    "export_conformations",
    "export_particles",
    "export_table",
]

logger = logging.getLogger(__name__)


def evaluate(folder: Path, truth_file: Path, *, progress: Progress | None = None) -> Evaluation:
    """Compare every particle's conformation with the truth, and write `evaluation.json` into the run folder.

    Poses are compared if the truth has rotations: those that the run found, or those of the particle file, unless that
    is not there any more.

    Raises
    ------
    InputError
        If the truth does not belong to the run's particles.
    """
    fitted = FittedRun(folder)
    truth = read_truth(truth_file)
    if len(truth.conformation) != fitted.run.source_count():
        raise InputError(
            f"{truth_file}: knows {len(truth.conformation)} images, {fitted.config.particles.path} has "
            f"{fitted.run.source_count()}: it belongs to other particles"
        )
    rows = np.arange(len(fitted.source_index))
    batches = -(-len(rows) // DECODE_BATCH)
    tracked = track(fitted.decode(rows), progress or Silent(), "comparing with the truth", batches, "batches")
    with closing(tracked) as decoded:
        errors = per_image_rmsd(decoded, truth, fitted.source_index)
    poses = None if truth.rotation is None else _pose_errors(fitted, truth)
    result = summarise(errors, fitted.template.coordinates, truth, fitted.source_index, poses)
    write_text(fitted.run.evaluation, json.dumps(result.as_dict(), indent=1) + "\n")
    return result


def _pose_errors(fitted: FittedRun, truth: Truth) -> PoseErrors | None:
    try:
        poses = fitted.poses()
    except InputError as error:
        logger.info("poses are not compared: %s", error)
        return None
    return pose_errors(poses.rotation, poses.shift, truth, fitted.source_index)


def export_conformations(
    folder: Path,
    path: Path,
    *,
    indices: NDArray[np.int64] | None = None,
    every: int = 1,
    states: Sequence[int] = (),
    where: str | None = None,
    max_junk: float | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> int:
    """Write conformations of particles as models of one `.cif`, `.pdb` or `.dcd` file; returns how many.

    Parameters
    ----------
    folder
        The run.
    path
        File to write.
    indices, every, states, where, max_junk
        Which particles, see `cryomorph.choosing.Choice`; default all.
    overwrite
        Replace an existing file.
    """
    fitted = FittedRun(folder)
    _refuse_overwriting(path, fitted.config, fitted.run, overwrite)
    rows = Choice(indices, states, where, max_junk, every).rows(fitted, particle_columns(fitted))
    write_conformations(path, fitted.template, fitted.decode(rows), len(rows), progress)
    return len(rows)


def export_particles(
    folder: Path,
    path: Path,
    *,
    indices: NDArray[np.int64] | None = None,
    every: int = 1,
    states: Sequence[int] = (),
    where: str | None = None,
    max_junk: float | None = None,
    original_poses: bool = False,
    columns: bool = True,
    overwrite: bool = False,
) -> int:
    """Write a selection of the run's particles with every original column, to go on with; returns how many.

    Parameters
    ----------
    folder
        The run. Poses that it found take the place of those in the original file.
    path
        File to write, with the suffix of the original.
    indices, every, states, where, max_junk
        Which particles, see `cryomorph.choosing.Choice`; default all.
    original_poses
        Leave the poses of the original file.
    columns
        Write beside them what the run and its analysis say of each: `cryomorphLatent1`, `cryomorphState`,
        `cryomorphPc1`, `cryomorphJunk` and so on; in cs files `cryomorph/latent1`.
    overwrite
        Replace an existing file.
    """
    fitted = FittedRun(folder)
    _refuse_overwriting(path, fitted.config, fitted.run, overwrite)
    known = particle_columns(fitted)
    rows = Choice(indices, states, where, max_junk, every).rows(fitted, known)
    stack = open_particles(fitted.config.particles)
    fitted.run.check_particles(fitted.config.particles.files(), stack.source_index)
    poses = None if original_poses else fitted.found_poses
    stack.write(path, rows, poses, file_columns(known) if columns else {})
    logger.info("%s: with the poses %s", path, "of the original file" if poses is None else "that the run found")
    return len(rows)


def export_table(
    folder: Path,
    path: Path,
    *,
    indices: NDArray[np.int64] | None = None,
    every: int = 1,
    states: Sequence[int] = (),
    where: str | None = None,
    max_junk: float | None = None,
    overwrite: bool = False,
) -> int:
    """Write what there is of each particle as a `.csv` or `.npz` table; returns how many rows it has.

    Its columns are `row`, of the run, `source_row`, of the particle file, both from 0, and those of
    `cryomorph.choosing.particle_columns`.

    Parameters
    ----------
    folder
        The run.
    path
        File to write.
    indices, every, states, where, max_junk
        Which particles, see `cryomorph.choosing.Choice`; default all.
    overwrite
        Replace an existing file.
    """
    fitted = FittedRun(folder)
    _refuse_overwriting(path, fitted.config, fitted.run, overwrite)
    known = particle_columns(fitted)
    rows = Choice(indices, states, where, max_junk, every).rows(fitted, known)
    write_table(path, {"row": np.arange(len(fitted.source_index)), "source_row": fitted.source_index, **known}, rows)
    return len(rows)


def _refuse_overwriting(path: Path, config: RunConfig, run: RunFolder, overwrite: bool) -> None:
    """Protect what an export would replace: never the run's own input, other files only if told to."""
    inputs = [*config.particles.files(), config.template.path, *run.path.rglob("*")]
    if path.exists() and any(path.resolve() == own.resolve() for own in inputs):
        raise InputError(f"{path}: belongs to the run or is its input; choose another name")
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists already; choose another name, or give --overwrite")
