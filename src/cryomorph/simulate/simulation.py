"""The whole of a simulation: checks, then files."""

import logging
import shutil
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryomorph.errors import InputError
from cryomorph.files import atomic_path
from cryomorph.progress import Progress, Silent
from cryomorph.simulate.files import STACK, STAR, TRUTH, star_document, write_stack, write_truth
from cryomorph.simulate.frame import map_frame, reach
from cryomorph.simulate.particles import draw_particles
from cryomorph.simulate.settings import SimulationSettings
from cryomorph.structure.trajectory import Ensemble

_log = logging.getLogger(__name__)


def simulate(
    ensemble: Ensemble,
    settings: SimulationSettings,
    out: Path,
    *,
    rotations: NDArray[np.float64] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Simulate particle images of every conformation of an ensemble.

    Writes `particles.mrcs`, `particles.star` (RELION 3.1) and `truth.npz`: `coordinates` (K, n, 3) residue positions in
    Å in the map frame, `conformation` (M,), `rotation` (M, 3, 3) and `shift` (M, 2) in Å. Images come conformation by
    conformation. The same seed gives the same images, and the same shifts, defocus and half sets for given rotations.

    Parameters
    ----------
    ensemble
        K conformations; `map_frame` says where they are put.
    settings
        What the images are like.
    out
        Folder to write to, made if need be.
    rotations
        Map frame to image frame, shape (M, 3, 3) with M = K × `images_per_conformation`; drawn uniformly without.
    overwrite
        Replace the files of an earlier simulation.
    progress
        Told about every image.

    Returns
    -------
    Path
        The star file.

    Raises
    ------
    InputError
        If files would be overwritten, the disk is too full, the rotations are no rotations, the box does not hold the
        molecule, or its contrast is too strong for the weak phase approximation.
    """
    out = Path(out)
    _refuse_overwriting(out, overwrite)
    ensemble = map_frame(ensemble, align=settings.align)
    particles = draw_particles(len(ensemble.atom_coordinates), settings, rotations)
    _check_box(ensemble, settings)
    _check_space(out, len(particles), settings)
    if "H" not in ensemble.template.elements:
        _log.info("the model has no hydrogens; their scattering and the ice they displace are missing from the images")
    with ExitStack() as files:
        # Renamed in reverse order: a star file is there only when everything else is.
        star, truth, stack = (files.enter_context(atomic_path(out / name)) for name in (STAR, TRUTH, STACK))
        write_stack(stack, ensemble, particles, settings, progress or Silent())
        write_truth(truth, ensemble, particles)
        star_document(particles, settings).write_file(str(star))
        (out / STAR).unlink(missing_ok=True)
    return out / STAR


def _refuse_overwriting(out: Path, overwrite: bool) -> None:
    present = [name for name in (STAR, STACK, TRUTH) if (out / name).exists()]
    if present and not overwrite:
        raise InputError(f"{out / present[0]}: exists already; choose another --out")


def _check_box(ensemble: Ensemble, settings: SimulationSettings) -> None:
    extent, half = reach(ensemble), settings.box * settings.pixel_size / 2
    if extent > half:
        raise InputError(
            f"box: {settings.box} pixels of {settings.pixel_size:g} Å reach {half:.0f} Å from the centre and the "
            f"molecule {extent:.0f} Å; use at least {int(np.ceil(2 * extent / settings.pixel_size))} pixels"
        )


def _check_space(out: Path, count: int, settings: SimulationSettings) -> None:
    folder = next(parent for parent in (out, *out.absolute().parents) if parent.exists())
    needed = count * settings.box**2 * np.dtype(settings.dtype).itemsize
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(f"{out}: {needed / 1e9:.1f} GB of images, {free / 1e9:.1f} GB free; choose another disk")
