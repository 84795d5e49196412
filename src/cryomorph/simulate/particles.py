"""What is drawn for every image: pose, defocus and half set."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomorph.errors import InputError
from cryomorph.geometry import random_rotations
from cryomorph.optics import CTFParameters
from cryomorph.simulate.settings import SimulationSettings

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Particles:
    """What was drawn for each of m images; lengths in Å, `astigmatism_angle` in radians."""

    conformation: NDArray[np.int64]
    rotation: Array
    shift: Array
    defocus_u: Array
    defocus_v: Array
    astigmatism_angle: Array
    half_set: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.conformation)


def draw_particles(conformations: int, settings: SimulationSettings, rotations: Array | None = None) -> Particles:
    """Draw pose, defocus and half set of every image.

    Parameters
    ----------
    conformations
        K.
    settings
        `images_per_conformation`, `shift`, `defocus`, `astigmatism`, `astigmatism_angle` and `seed` are used.
    rotations
        Given rotations, shape (M, 3, 3).

    Raises
    ------
    InputError
        If the given rotations are not M rotation matrices.
    """
    generator = np.random.default_rng(settings.seed)
    count = conformations * settings.images_per_conformation
    drawn = random_rotations(count, generator)
    if rotations is not None:
        drawn = _checked_rotations(rotations, count)
    shift = settings.shift * generator.standard_normal((count, 2))
    mean = generator.uniform(*settings.defocus, count)
    half_difference = generator.uniform(*settings.astigmatism, count) / 2
    angle = generator.uniform(0, np.pi, count)
    if settings.astigmatism_angle is not None:
        angle = np.full(count, np.deg2rad(settings.astigmatism_angle))
    return Particles(
        conformation=np.repeat(np.arange(conformations), settings.images_per_conformation),
        rotation=drawn,
        shift=shift,
        defocus_u=mean + half_difference,
        defocus_v=mean - half_difference,
        astigmatism_angle=angle,
        half_set=generator.integers(1, 3, count),
    )


def _checked_rotations(rotations: Array, count: int) -> Array:
    rotations = np.asarray(rotations, dtype=np.float64)
    if rotations.shape != (count, 3, 3):
        raise InputError(f"rotations: shape {rotations.shape}, expected ({count}, 3, 3), a matrix for every image")
    error = np.abs(rotations @ np.swapaxes(rotations, -1, -2) - np.eye(3)).max((-2, -1))
    third_row = np.cross(rotations[:, 0], rotations[:, 1])
    wrong = np.flatnonzero(~(error < 1e-4) | ~((third_row * rotations[:, 2]).sum(-1) > 0))
    if len(wrong):
        raise InputError(f"rotations: matrix {wrong[0]} (from 0) is no rotation; give orthonormal, right-handed ones")
    return rotations


def ctf_parameters(particles: Particles, settings: SimulationSettings) -> CTFParameters:
    """Contrast transfer parameters of all images."""

    def every(value: float) -> Tensor:
        return torch.full((len(particles),), value)

    return CTFParameters(
        defocus_u=torch.from_numpy(particles.defocus_u).float(),
        defocus_v=torch.from_numpy(particles.defocus_v).float(),
        astigmatism_angle=torch.from_numpy(particles.astigmatism_angle).float(),
        voltage=every(settings.voltage),
        spherical_aberration=every(settings.spherical_aberration),
        amplitude_contrast=every(settings.amplitude_contrast),
        phase_shift=every(np.deg2rad(settings.phase_shift)),
        b_factor=every(settings.b_factor),
    )
