"""The files of simulated images: stack, metadata and truth."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
from gemmi import cif
from mrcfile.utils import mode_from_dtype
from numpy.typing import NDArray

from cryomorph.geometry import matrix_to_relion
from cryomorph.progress import Progress
from cryomorph.simulate import images, multislice
from cryomorph.simulate.images import add_noise
from cryomorph.simulate.molecules import Molecules, batches
from cryomorph.simulate.nuisances import Disturbances
from cryomorph.simulate.particles import Particles
from cryomorph.simulate.settings import SimulationSettings

STACK, STAR, TRUTH, TEMPLATE = "particles.mrcs", "particles.star", "truth.npz", "template.cif"


def star_document(
    particles: Particles, settings: SimulationSettings, group: NDArray[np.int64] | None = None
) -> cif.Document:
    """Return metadata of simulated images in RELION's 3.1 layout; `group` (m,) is their optics group, from 0."""
    document = cif.Document()
    count = len(particles)
    groups = len(settings.nuisances.group_contrast)
    group = np.zeros(count, dtype=np.int64) if group is None else group
    optics = {
        "OpticsGroup": [str(number) for number in range(1, groups + 1)],
        "OpticsGroupName": [f"opticsGroup{number}" for number in range(1, groups + 1)],
        "Voltage": [f"{settings.voltage:.6f}"] * groups,
        "SphericalAberration": [f"{settings.spherical_aberration:.6f}"] * groups,
        "AmplitudeContrast": [f"{settings.amplitude_contrast:.6f}"] * groups,
        "ImagePixelSize": [f"{settings.pixel_size:.6f}"] * groups,
        "ImageSize": [str(settings.box)] * groups,
        "ImageDimensionality": ["2"] * groups,
    }
    rot, tilt, psi = matrix_to_relion(particles.rotation)
    columns = {
        "ImageName": [f"{number:06d}@{STACK}" for number in range(1, count + 1)],
        "MicrographName": ["simulated.mrc"] * count,
        "AngleRot": _decimals(rot),
        "AngleTilt": _decimals(tilt),
        "AnglePsi": _decimals(psi),
        "OriginXAngst": _decimals(-particles.shift[:, 0]),
        "OriginYAngst": _decimals(-particles.shift[:, 1]),
        "DefocusU": _decimals(particles.defocus_u),
        "DefocusV": _decimals(particles.defocus_v),
        "DefocusAngle": _decimals(np.rad2deg(particles.astigmatism_angle)),
        "PhaseShift": [f"{settings.phase_shift:.6f}"] * count,
        "OpticsGroup": [str(number) for number in group + 1],
        "RandomSubset": [str(half) for half in particles.half_set],
    }
    if settings.b_factor > 0:
        columns["CtfBfactor"] = [f"{settings.b_factor:.6f}"] * count
    for name, table in (("optics", optics), ("particles", columns)):
        loop = document.add_new_block(name).init_loop("_rln", list(table))
        loop.set_all_values(list(table.values()))
    return document


def _decimals(values: NDArray[np.float64]) -> list[str]:
    return [f"{value:.6f}" for value in values + 0.0]  # + 0.0 turns -0 into 0


def write_stack(
    path: Path,
    molecules: Molecules,
    particles: Particles,
    settings: SimulationSettings,
    extent: float,
    disturbances: Disturbances,
    progress: Progress,
) -> None:
    """Simulate all images, in order, into an MRC stack; `extent` is the `reach` of the molecules."""
    mode = mode_from_dtype(np.dtype(settings.dtype))
    imaging = images.contrasts if settings.physics == "projection" else multislice.contrasts
    shape = (len(particles), settings.box, settings.box)
    progress.start("simulating", len(particles))
    try:
        with mrcfile.new_mmap(path, shape, mrc_mode=mode, overwrite=True) as stack:
            stack.set_image_stack()
            stack.voxel_size = settings.pixel_size
            image = 0
            for batch in imaging(molecules, particles, settings, extent=extent, disturbances=disturbances):
                for contrast in batch:
                    noisy = add_noise(contrast, settings, image, float(disturbances.scale[image]))
                    background = disturbances.background(image, settings.box, settings.pixel_size)
                    stack.data[image] = noisy if background is None else noisy + background
                    image += 1
                progress.advance(len(batch))
    finally:
        progress.finish()


def write_truth(path: Path, molecules: Molecules, particles: Particles, drawn: Mapping[str, NDArray[Any]]) -> None:
    """Write the conformations, some at a time, what was drawn for every image, and what was drawn besides."""
    arrays = {
        "conformation": particles.conformation,
        "rotation": particles.rotation,
        "shift": particles.shift,
        **drawn,
    }
    coordinates = np.dtype(np.float32)
    header = {
        "descr": np.lib.format.dtype_to_descr(coordinates),
        "fortran_order": False,
        "shape": (len(molecules), len(molecules.template), 3),
    }
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("coordinates.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            for rows in batches(molecules):
                member.write(molecules.residues(rows).astype(coordinates).tobytes())
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def write_rows(path: Path, rows: NDArray[np.int64]) -> None:
    """Write row numbers, one a line."""
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
