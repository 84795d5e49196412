"""What the commands evaluate and export do with a finished run, as functions."""

import json
import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cryomorph.config import RunConfig, build_reconstruction, open_particles, read_config
from cryomorph.conformations.base import ConformationModel
from cryomorph.errors import InputError
from cryomorph.evaluation import Evaluation, PoseErrors, Truth, per_image_rmsd, pose_errors, read_truth, summarise
from cryomorph.export import select_rows, write_conformations
from cryomorph.files import write_text
from cryomorph.geometry import superpose_core
from cryomorph.particles.found import FoundPoses
from cryomorph.particles.stack import read_table
from cryomorph.progress import Progress, Silent, track
from cryomorph.run import RunFolder
from cryomorph.structure.model import read_template

logger = logging.getLogger(__name__)

DECODE_BATCH = 256


class FittedRun:
    """A run folder opened for reading: latents in, conformations out.

    Parameters
    ----------
    folder
        What `train` wrote.

    Attributes
    ----------
    config : RunConfig
    template : Template
        In the map frame.
    source_index : array (m,)
        Row of each particle in the original file.
    latents : array (m, d)
    found_poses : FoundPoses or None
        Poses that the run found; None if it took those of the particle file as they are.
    """

    def __init__(self, folder: Path) -> None:
        self.run = RunFolder(folder)
        self.run.require()
        self.config = read_config(self.run.config)
        state = self.run.load_checkpoint()
        self.template = read_template(self.run.template)
        self.source_index = self.run.source_index()
        gain: torch.Tensor = state["reconstruction"]["likelihood.gain"]
        reconstruction = build_reconstruction(self.config, self.template, len(gain), len(self.source_index))
        reconstruction.load_state_dict(state["reconstruction"])
        self.model: ConformationModel = reconstruction.conformations.eval()
        self.epochs_done = int(state["epoch"])
        if not self.run.latents.is_file() or self.epochs_done < self.config.training.epochs:
            raise InputError(
                f"{folder}: training is not complete ({self.epochs_done} of {self.config.training.epochs} epochs); "
                "run the same train command again to finish it"
            )
        self.latents = self.run.load_latents()
        if len(self.latents) != len(self.source_index):
            raise InputError(f"{self.run.latents}: has {len(self.latents)} rows for {len(self.source_index)} particles")
        self.found_poses = self.run.load_poses()
        if self.found_poses is not None and len(self.found_poses) != len(self.source_index):
            raise InputError(
                f"{self.run.poses}: has {len(self.found_poses)} poses for {len(self.source_index)} particles"
            )

    def poses(self) -> FoundPoses:
        """Return the poses of the particles: those that the run found, else those of the particle file.

        Raises
        ------
        InputError
            If the particle file is not there any more, has changed, or has no poses.
        """
        if self.found_poses is not None:
            return self.found_poses
        particles = self.config.particles
        table = read_table(particles.path, particles.passthrough, particles.pixel_size)
        self.run.check_particles(particles.files(), self.source_index)
        if table.rotation is None:
            raise InputError(f"{particles.path}: has no poses")
        return FoundPoses(table.rotation, table.shift, np.zeros(len(table))).take(self.source_index)

    def decode(self, rows: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.floating]]]:
        """Yield (rows, coordinates (b, n, 3) in Å) in batches, in the frame that the poses refer to."""
        for part in np.array_split(rows, max(1, -(-len(rows) // DECODE_BATCH))):
            with torch.inference_mode():
                decoded = self.model(torch.from_numpy(self.latents[part])).numpy()
            if self.found_poses is not None:
                rotation, translation = superpose_core(decoded, self.template.coordinates)
                decoded = decoded @ np.swapaxes(rotation, 1, 2) + translation[:, None]
            yield part, decoded


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
    indices
        Rows of the run, from 0; default all, or every `every`-th.
    overwrite
        Replace an existing file.
    """
    fitted = FittedRun(folder)
    _refuse_overwriting(path, fitted.config, fitted.run, overwrite)
    rows = select_rows(len(fitted.source_index), indices, every)
    write_conformations(path, fitted.template, fitted.decode(rows), len(rows), progress)
    return len(rows)


def export_particles(
    folder: Path,
    path: Path,
    *,
    indices: NDArray[np.int64] | None = None,
    every: int = 1,
    original_poses: bool = False,
    overwrite: bool = False,
) -> int:
    """Write a selection of the run's particles with every original column, to go on with; returns how many.

    Parameters
    ----------
    folder
        The run. Poses that it found take the place of those in the original file.
    path
        File to write, with the suffix of the original.
    indices
        Rows of the run, from 0; default all, or every `every`-th.
    original_poses
        Leave the poses of the original file.
    overwrite
        Replace an existing file.
    """
    fitted = FittedRun(folder)
    _refuse_overwriting(path, fitted.config, fitted.run, overwrite)
    rows = select_rows(len(fitted.source_index), indices, every)
    stack = open_particles(fitted.config.particles)
    fitted.run.check_particles(fitted.config.particles.files(), stack.source_index)
    poses = None if original_poses else fitted.found_poses
    stack.write(path, rows, poses)
    logger.info("%s: with the poses %s", path, "of the original file" if poses is None else "that the run found")
    return len(rows)


def _refuse_overwriting(path: Path, config: RunConfig, run: RunFolder, overwrite: bool) -> None:
    """Protect what an export would replace: never the run's own input, other files only if told to."""
    inputs = [*config.particles.files(), config.template.path, *run.path.rglob("*")]
    if path.exists() and any(path.resolve() == own.resolve() for own in inputs):
        raise InputError(f"{path}: belongs to the run or is its input; choose another name")
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists already; choose another name, or give --overwrite")
