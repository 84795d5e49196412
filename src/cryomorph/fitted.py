"""A finished run, opened for reading."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cryomorph.config import build_reconstruction, read_config
from cryomorph.conformations.base import ConformationModel
from cryomorph.errors import InputError
from cryomorph.geometry import superpose_core
from cryomorph.likelihood.base import ShellCalibration
from cryomorph.particles.found import FoundPoses
from cryomorph.particles.stack import read_table
from cryomorph.run import RunFolder
from cryomorph.structure.model import read_template

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
    groups : int
        Number of optics groups that it knows.
    reconstruction : Reconstruction
        With everything learned: weights, gain, calibration, poses. Not to be trained any more.
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
        self.groups = len(gain)
        size = self.groups, len(self.source_index)
        self.reconstruction = build_reconstruction(self.config, self.template, *size, state["beads"])
        self.reconstruction.load_state_dict(state["reconstruction"])
        if state["calibration"] is not None:
            self.reconstruction.likelihood.calibration = ShellCalibration(**state["calibration"])
        self.reconstruction.eval().requires_grad_(False)
        self.model: ConformationModel = self.reconstruction.conformations
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
            yield part, self.decode_latents(self.latents[part])

    def decode_latents(self, latents: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the coordinates (b, n, 3) in Å of any latents (b, d), in the frame that the poses refer to."""
        with torch.inference_mode():
            decoded: NDArray[Any] = self.model(torch.from_numpy(latents)).numpy()
        if self.found_poses is not None:
            rotation, translation = superpose_core(decoded, self.template.coordinates)
            decoded = decoded @ np.swapaxes(rotation, 1, 2) + translation[:, None]
        return decoded
