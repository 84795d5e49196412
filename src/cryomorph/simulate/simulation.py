"""The whole of a simulation: checks, then files."""

import logging
import shutil
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomorph.errors import InputError
from cryomorph.files import atomic_path
from cryomorph.progress import Progress, Silent
from cryomorph.simulate.files import (
    STACK,
    STAR,
    TEMPLATE,
    TRUTH,
    star_document,
    write_rows,
    write_stack,
    write_truth,
)
from cryomorph.simulate.frame import dock, map_frame
from cryomorph.simulate.molecules import Molecules, reach
from cryomorph.simulate.motion import set_in_motion
from cryomorph.simulate.nuisances import draw_nuisances
from cryomorph.simulate.particles import draw_particles
from cryomorph.simulate.settings import SimulationSettings
from cryomorph.simulate.split import SETS, draw_split
from cryomorph.structure.model import Template
from cryomorph.structure.trajectory import Ensemble
from cryomorph.structure.write import write_template

_log = logging.getLogger(__name__)

_FILES = (TEMPLATE, STAR, *(f"{name}.txt" for name in SETS), TRUTH, STACK)


def simulate(
    ensemble: Ensemble,
    settings: SimulationSettings,
    out: Path,
    *,
    template: Template | None = None,
    rotations: NDArray[np.float64] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Simulate particle images of every conformation of an ensemble, or with motions of its own for every image.

    Writes `particles.mrcs`, `particles.star` (RELION 3.1) and `truth.npz`: `coordinates` (K, n, 3) residue positions in
    Å in the map frame, `conformation` (M,), `rotation` (M, 3, 3) and `shift` (M, 2) in Å, and for motions `domains`
    (D,), their names, `mode_weights` (K, D, modes) in Å and `domain_rotation` (K, D, 3, 3). Of nuisances, as far as
    there are any, it holds `contrast` (M,), `belt` (k, 3) in Å and `neighbour` (M,). Images come conformation by
    conformation. The same seed gives the same images, and the same shifts, defocus and half sets for given rotations.

    Parameters
    ----------
    ensemble
        Conformations; `map_frame` says where they are put. Those that images show are K of them, or with motions K = M.
    settings
        What the images are like.
    out
        Folder to write to, made if need be.
    template
        Model to dock on the mean of the conformations that images show, written as `template.cif`.
    rotations
        Map frame to image frame, shape (M, 3, 3), M being `images_per_conformation` times the conformations of the
        ensemble; drawn uniformly without.
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
        molecule, its contrast is too strong for the weak phase approximation, the template has other residues, or there
        are not the images, domains or normal modes that the settings ask for.
    """
    out = Path(out)
    ensemble = map_frame(ensemble, align=settings.align)
    particles = draw_particles(len(ensemble), settings, rotations)
    sets = {} if settings.split is None else draw_split(settings.split, len(particles), settings.seed)
    written = [STAR, TRUTH, STACK, *(f"{name}.txt" for name in sets), *([] if template is None else [TEMPLATE])]
    _refuse_overwriting(out, written, overwrite)
    molecules: Molecules = ensemble
    drawn: Mapping[str, NDArray[Any]] = {}
    if settings.motion is not None:
        molecules = moving = set_in_motion(ensemble, settings.motion, particles.conformation, settings.seed)
        particles, drawn = replace(particles, conformation=np.arange(len(moving))), moving.drawn()
    docked = None if template is None else dock(template, molecules)
    extent = reach(molecules)
    _check_box(extent, settings)
    disturbances = draw_nuisances(settings.nuisances, molecules, len(particles), extent, settings.seed)
    _check_space(out, molecules, len(particles), settings)
    if "H" not in ensemble.template.elements:
        _log.info("the model has no hydrogens; their scattering and the ice they displace are missing from the images")
    with ExitStack() as files:
        # Renamed in reverse order: a star file is there only when its images are, a template when everything else is.
        paths = {name: files.enter_context(atomic_path(out / name)) for name in _FILES if name in written}
        write_stack(paths[STACK], molecules, particles, settings, extent, disturbances, progress or Silent())
        write_truth(paths[TRUTH], molecules, particles, {**drawn, **disturbances.drawn()})
        for name, rows in sets.items():
            write_rows(paths[f"{name}.txt"], rows)
        star_document(particles, settings, disturbances.group).write_file(str(paths[STAR]))
        if docked is not None:
            write_template(paths[TEMPLATE], docked)
        for name in _FILES if overwrite else ():
            (out / name).unlink(missing_ok=True)
    return out / STAR


def _refuse_overwriting(out: Path, names: Iterable[str], overwrite: bool) -> None:
    present = [name for name in names if (out / name).exists()]
    if present and not overwrite:
        raise InputError(f"{out / present[0]}: exists already; choose another --out")


def _check_box(extent: float, settings: SimulationSettings) -> None:
    half = settings.box * settings.pixel_size / 2
    if extent > half:
        raise InputError(
            f"box: {settings.box} pixels of {settings.pixel_size:g} Å reach {half:.0f} Å from the centre and the "
            f"molecule {extent:.0f} Å; use at least {int(np.ceil(2 * extent / settings.pixel_size))} pixels"
        )


def _check_space(out: Path, molecules: Molecules, count: int, settings: SimulationSettings) -> None:
    folder = next(parent for parent in (out, *out.absolute().parents) if parent.exists())
    images = count * settings.box**2 * np.dtype(settings.dtype).itemsize
    truth = len(molecules) * len(molecules.template) * 3 * np.dtype(np.float32).itemsize
    free = shutil.disk_usage(folder).free
    if images + truth > free:
        raise InputError(
            f"{out}: {(images + truth) / 1e9:.1f} GB of images and truth, {free / 1e9:.1f} GB free; choose another disk"
        )
