"""What a report is made of, read from a run folder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomorph.analysis.result import Analysis
from cryomorph.analysis.store import load_analysis
from cryomorph.config import open_particles
from cryomorph.errors import InputError
from cryomorph.files import read_arrays
from cryomorph.fitted import FittedRun
from cryomorph.particles.found import FoundPoses
from cryomorph.particles.stack import ParticleStack, read_table
from cryomorph.particles.table import ParticleTable
from cryomorph.report.examples import examples
from cryomorph.report.halves import agreement
from cryomorph.uncertainty import Uncertainty

HALVES, HALVES_ARRAYS = "halves.json", "halves.npz"
"""What `cryomorph train --halves` writes beside the two runs."""
HALF_RUNS = ("half1", "half2")


@dataclass(frozen=True, eq=False)
class Source:
    """Everything that sections of a report ask for.

    Attributes
    ----------
    fitted : FittedRun
    analysis : Analysis
    metrics, provenance : lists of dict
    posterior : Uncertainty or None
    calibration : mapping of arrays (groups, shells), or None
    table : ParticleTable or None
        Metadata of the run's particles, in its order; None if the particle file is gone.
    poses : FoundPoses or None
    examples : dict or None
        Images beside projections; None if image files are gone.
    halves : dict or None
    evaluation : dict or None
    missing : strings
        Why what is None is not there, where a reader would wonder.
    """

    fitted: FittedRun
    analysis: Analysis
    metrics: list[dict[str, Any]]
    provenance: list[dict[str, Any]]
    posterior: Uncertainty | None
    calibration: dict[str, NDArray[Any]] | None
    table: ParticleTable | None
    poses: FoundPoses | None
    examples: dict[str, Any] | None
    halves: dict[str, Any] | None
    evaluation: dict[str, Any] | None
    missing: tuple[str, ...]


def read_source(folder: Path) -> Source:
    """Open a finished and analysed run.

    Raises
    ------
    InputError
        If there is none, it is not analysed, or what it wrote is damaged. What the run did not write itself, particle
        and image files, may be gone.
    """
    fitted = FittedRun(folder)
    run = fitted.run
    analysis = load_analysis(run.analysis)
    count, residues = len(fitted.source_index), len(fitted.template)
    if (len(analysis), len(analysis.rmsf)) != (count, residues):
        raise InputError(f"{run.analysis}: belongs to another state of the run; run cryomorph analyze {folder} again")
    table, stack, missing = _particles(fitted)
    poses = fitted.found_poses
    if poses is None and table is not None and table.rotation is not None:
        poses = FoundPoses(table.rotation, table.shift, np.zeros(count))
    shown = None
    if stack is not None and poses is not None:
        try:
            shown = examples(fitted, stack, poses, analysis.states)
        except InputError as error:
            missing = (*missing, f"Example images are left out: {error}")
    return Source(
        fitted=fitted,
        analysis=analysis,
        metrics=run.read_metrics(),
        provenance=_json(folder / "provenance.json") or [],
        posterior=run.load_posterior() if run.posterior.is_file() else None,
        calibration=read_arrays(run.calibration, "noise", "signal", "frequency") if run.calibration.is_file() else None,
        table=table,
        poses=poses,
        examples=shown,
        halves=_halves(folder),
        evaluation=_json(run.evaluation),
        missing=missing,
    )


def _particles(fitted: FittedRun) -> tuple[ParticleTable | None, ParticleStack | None, tuple[str, ...]]:
    """Open the particles as far as they are still there; the texts say what is not."""
    settings = fitted.config.particles
    try:
        fitted.run.check_particles(settings.files(), fitted.source_index)
        table = read_table(settings.path, settings.passthrough, settings.pixel_size).take(fitted.source_index)
    except (InputError, OSError) as error:
        text = f"The particle file cannot be read any more, so that views, defocus and images are left out: {error}"
        return None, None, (text,)
    try:
        return table, open_particles(settings), ()
    except (InputError, OSError) as error:
        return table, None, (f"Example images are left out: {error}",)


def _halves(folder: Path) -> dict[str, Any] | None:
    """Read what the comparison with the other half of the data said, if this run is on one half."""
    parent = folder.absolute().parent
    arrays = parent / HALVES_ARRAYS
    if folder.absolute().name not in HALF_RUNS or not arrays.is_file():
        return None
    numbers = _json(parent / HALVES)
    if numbers is None:
        return None
    return agreement(numbers, read_arrays(arrays, "motion", "covariance_error", "rmsd_between_models", "places"))


def _json(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: damaged; it is not JSON any more") from error
