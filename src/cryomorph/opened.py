"""A finished run as Python sees it: `cryomorph.open_run(path)`."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomorph.analysis.analyse import analyse
from cryomorph.analysis.ensemble import Ensemble
from cryomorph.analysis.result import Analysis, State
from cryomorph.analysis.settings import AnalysisSettings
from cryomorph.analysis.store import ARCHIVE, load_analysis
from cryomorph.errors import InputError
from cryomorph.fitted import FittedRun
from cryomorph.particles.found import FoundPoses
from cryomorph.progress import Progress
from cryomorph.results import MEASURES
from cryomorph.run import RunFolder
from cryomorph.structure.model import Template
from cryomorph.uncertainty import Uncertainty


def open_run(path: str | Path) -> "OpenedRun":
    """Open a finished run for reading.

    Parameters
    ----------
    path
        Run folder that `train` or `infer` wrote.

    Raises
    ------
    InputError
        If there is no run, or its training is not complete.
    """
    return OpenedRun(Path(path))


class OpenedRun:
    """What a finished run holds of its m particles, whose latents have d coordinates and molecules n residues.

    Everything but the latents is read, or computed, when it is first asked for.

    Parameters
    ----------
    folder
        What `train` or `infer` wrote.

    Attributes
    ----------
    fitted : FittedRun
        The model and all that was learned.
    """

    def __init__(self, folder: Path) -> None:
        self.fitted = FittedRun(folder)

    def __len__(self) -> int:
        """Return the number of particles."""
        return len(self.latents)

    def __repr__(self) -> str:
        """Name the folder and what is in it."""
        n, (m, d) = len(self.template), self.latents.shape
        return f"<run {self.folder}: {m:,} particles, {n:,} residues, {d} latents>"

    @property
    def folder(self) -> Path:
        """Where the run is."""
        return self.run.path

    @property
    def run(self) -> RunFolder:
        """The files of the run."""
        return self.fitted.run

    @property
    def template(self) -> Template:
        """The atomic model that conformations are deformations of, in the map frame."""
        return self.fitted.template

    @property
    def latents(self) -> NDArray[np.float32]:
        """Latent coordinates of the particles, shape (m, d)."""
        return self.fitted.latents

    @property
    def source_index(self) -> NDArray[np.int64]:
        """Row of each particle in the original file, shape (m,)."""
        return self.fitted.source_index

    def conformations(self, indices: Any = None) -> NDArray[np.floating]:
        """Return conformations of particles, shape (b, n, 3) in Å, in the frame of the map.

        Parameters
        ----------
        indices
            Rows of the run from 0, a slice or a mask (m,); all by default. Of many particles, take parts: each needs
            12 bytes a residue.

        Raises
        ------
        InputError
            If there is no such row.
        """
        rows = self._rows(slice(None) if indices is None else indices)
        decoded = np.empty((len(rows), len(self.template), 3), dtype=np.float32)
        done = 0
        for part, x in self.ensemble.batches(rows):
            decoded[done : done + len(part)] = x
            done += len(part)
        return decoded

    def decode(self, latents: Any) -> NDArray[np.floating]:
        """Return the conformations (b, n, 3) in Å of any latents (b, d)."""
        latents = np.ascontiguousarray(latents, dtype=np.float32)
        if latents.ndim != 2 or latents.shape[1] != self.latents.shape[1]:
            raise InputError(f"latents of shape {latents.shape}: expected (b, {self.latents.shape[1]})")
        return self.fitted.decode_latents(latents)

    @cached_property
    def ensemble(self) -> Ensemble:
        """The conformations as the functions of `cryomorph.analysis` take them."""
        fitted = self.fitted
        return Ensemble(self.template, self.latents, fitted.model.latent_blocks(), fitted.decode_latents)

    @cached_property
    def poses(self) -> FoundPoses:
        """Rotation (m, 3, 3) and shift (m, 2) in Å of each particle: those that the run found, else the file's."""
        return self.fitted.poses()

    @cached_property
    def uncertainty(self) -> Uncertainty | None:
        """How sure each conformation is; None if the run was made without."""
        return self.run.load_posterior() if self.run.posterior.is_file() else None

    @cached_property
    def measures(self) -> dict[str, NDArray[np.float32]]:
        """Of the posterior, for each particle; see `cryomorph.choosing.MEASURES` and `Uncertainty`."""
        uncertainty = self.uncertainty
        return {} if uncertainty is None else {name: getattr(uncertainty, name) for name in MEASURES}

    @cached_property
    def analysis(self) -> Analysis:
        """What `cryomorph analyze` wrote, else the same computed now with default settings, and not written."""
        if not (self.run.analysis / ARCHIVE).is_file():
            return self.analyse()
        analysis = load_analysis(self.run.analysis)
        if len(analysis) != len(self) or len(analysis.rmsf) != len(self.template):
            raise InputError(
                f"{self.run.analysis}: of {len(analysis)} particles and {len(analysis.rmsf)} residues, the run has "
                f"{len(self)} and {len(self.template)}; run cryomorph analyze again"
            )
        return analysis

    def analyse(self, settings: AnalysisSettings | None = None, progress: Progress | None = None) -> Analysis:
        """Analyse the run anew, without writing anything."""
        return analyse(self.ensemble, settings, self.measures, progress)

    @property
    def states(self) -> tuple[State, ...]:
        """Groups of particles with similar conformations, the most populated first."""
        return self.analysis.states

    @property
    def particles(self) -> Mapping[str, NDArray[Any]]:
        """What there is of each particle, by name: the columns of the analysis, each of shape (m,)."""
        return self.analysis.columns

    def _rows(self, indices: Any) -> NDArray[np.int64]:
        try:
            rows: NDArray[np.int64] = np.atleast_1d(np.arange(len(self))[indices])
        except IndexError as error:
            raise InputError(f"{self.folder}: {error}; rows are numbered from 0 to {len(self) - 1}") from error
        return rows
