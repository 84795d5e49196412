"""The files of simulated images: stack, metadata and truth."""

from pathlib import Path

import mrcfile
import numpy as np
from gemmi import cif
from mrcfile.utils import mode_from_dtype
from numpy.typing import NDArray

from cryomorph.geometry import matrix_to_relion
from cryomorph.progress import Progress
from cryomorph.simulate.images import add_noise, contrasts
from cryomorph.simulate.particles import Particles
from cryomorph.simulate.settings import SimulationSettings
from cryomorph.structure.trajectory import Ensemble

STACK, STAR, TRUTH = "particles.mrcs", "particles.star", "truth.npz"


def star_document(particles: Particles, settings: SimulationSettings) -> cif.Document:
    """Return metadata of simulated images in RELION's 3.1 layout."""
    document = cif.Document()
    optics = {
        "OpticsGroup": ["1"],
        "OpticsGroupName": ["opticsGroup1"],
        "Voltage": [f"{settings.voltage:.6f}"],
        "SphericalAberration": [f"{settings.spherical_aberration:.6f}"],
        "AmplitudeContrast": [f"{settings.amplitude_contrast:.6f}"],
        "ImagePixelSize": [f"{settings.pixel_size:.6f}"],
        "ImageSize": [str(settings.box)],
        "ImageDimensionality": ["2"],
    }
    rot, tilt, psi = matrix_to_relion(particles.rotation)
    count = len(particles)
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
        "OpticsGroup": ["1"] * count,
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
    path: Path, ensemble: Ensemble, particles: Particles, settings: SimulationSettings, progress: Progress
) -> None:
    """Simulate all images, in order, into an MRC stack."""
    mode = mode_from_dtype(np.dtype(settings.dtype))
    shape = (len(particles), settings.box, settings.box)
    progress.start("simulating", len(particles))
    try:
        with mrcfile.new_mmap(path, shape, mrc_mode=mode, overwrite=True) as stack:
            stack.set_image_stack()
            stack.voxel_size = settings.pixel_size
            image = 0
            for batch in contrasts(ensemble, particles, settings):
                for contrast in batch:
                    stack.data[image] = add_noise(contrast, settings, image)
                    image += 1
                progress.advance(len(batch))
    finally:
        progress.finish()


def write_truth(path: Path, ensemble: Ensemble, particles: Particles) -> None:
    """Write the conformations and what was drawn for every image."""
    with path.open("wb") as file:
        np.savez(
            file,
            coordinates=ensemble.residue_coordinates.astype(np.float32),
            conformation=particles.conformation,
            rotation=particles.rotation,
            shift=particles.shift,
        )
