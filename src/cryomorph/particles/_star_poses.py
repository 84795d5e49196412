"""Poses of particles in the columns of star files, read and written in each dialect."""

from collections.abc import Mapping

import numpy as np

from cryomorph.errors import InputError
from cryomorph.geometry import matrix_to_relion, nearest_rotation, relion_to_matrix
from cryomorph.particles._star_document import Columns, Optics
from cryomorph.particles.found import FoundPoses
from cryomorph.particles.table import Floats, Integers

_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
_IN_ANGSTROM = ("rlnOriginXAngst", "rlnOriginYAngst")
_IN_PIXELS = ("rlnOriginX", "rlnOriginY")
_ENTROPY = "cryomorphPoseEntropy"


def rotations(particles: Columns) -> Floats | None:
    """Rotation matrices (m, 3, 3), None without angles."""
    if not _all_or_none(particles, _ANGLES):
        return None
    rot, tilt, psi = (particles.numbers(name) for name in _ANGLES)
    return relion_to_matrix(rot, tilt, psi)


def origins(optics: Optics, pixel_size: Floats) -> Floats:
    """Origins (m, 2) in Å; 3.1 writes Å, 3.0 pixels. Å of a wrong pixel size are mended along with it."""
    particles = optics.particles
    if _all_or_none(particles, _IN_ANGSTROM):
        written = np.stack([particles.numbers(name) for name in _IN_ANGSTROM], axis=1)
        return written * _mending(optics, pixel_size)[:, None]
    if _all_or_none(particles, _IN_PIXELS):
        return np.stack([particles.numbers(name) for name in _IN_PIXELS], axis=1) * pixel_size[:, None]
    return np.zeros((particles.length, 2))


def pose_columns(optics: Optics, pixel_size: Floats, rows: Integers, poses: FoundPoses) -> dict[str, list[str]]:
    """Return the columns that hold other poses of some rows: what `rotations` and `origins` read them from.

    Parameters
    ----------
    optics
        Columns of the m particles of a file, whose dialect is kept.
    pixel_size
        Å per pixel of the images, shape (m,).
    rows
        Of the file, shape (k,).
    poses
        Of these rows.

    Returns
    -------
    dict
        Name of a column, without the leading underscore, to k values.
    """
    angles = matrix_to_relion(nearest_rotation(poses.rotation))
    columns = {name: _decimals(values) for name, values in zip(_ANGLES, angles, strict=True)}
    in_angstrom, in_pixels = (_all_or_none(optics.particles, names) for names in (_IN_ANGSTROM, _IN_PIXELS))
    if not (in_angstrom or in_pixels):
        in_angstrom, in_pixels = optics.groups is not None, optics.groups is None
    for names, unit, wanted in (
        (_IN_ANGSTROM, _mending(optics, pixel_size), in_angstrom),
        (_IN_PIXELS, pixel_size, in_pixels),
    ):
        if wanted:
            written = -poses.shift / unit[rows, None]
            columns |= {name: _decimals(written[:, axis]) for axis, name in enumerate(names)}
    return columns | {_ENTROPY: _decimals(poses.entropy)}


def measure_columns(measures: Mapping[str, Floats]) -> dict[str, list[str]]:
    """Columns of numbers (k,) of the particles, by names such as `junk`, which becomes `cryomorphJunk`."""
    return {f"cryomorph{name.title().replace('_', '')}": _measured(values) for name, values in measures.items()}


def _measured(values: Floats) -> list[str]:
    """Spell whole numbers, such as those of states, without decimals."""
    return [str(value) for value in values.tolist()] if values.dtype.kind in "iu" else _decimals(values)


def _mending(optics: Optics, pixel_size: Floats) -> Floats:
    """Return by what Å of the file are multiplied (m,): they belong to the pixel size that it states."""
    if "rlnImagePixelSize" not in optics:
        return np.ones(len(pixel_size))
    stored = optics.numbers("rlnImagePixelSize")
    return np.divide(pixel_size, stored, out=np.ones_like(stored), where=stored > 0)


def _decimals(values: Floats) -> list[str]:
    return [f"{value:.6f}" for value in np.round(values, 6) + 0.0]  # + 0.0 turns -0 into 0


def _all_or_none(particles: Columns, names: tuple[str, ...]) -> bool:
    missing = [name for name in names if name not in particles]
    if missing and len(missing) < len(names):
        present = [name for name in names if name in particles]
        raise InputError(
            f"{particles.source}: has {', '.join(present)} but not {', '.join(missing)}; poses need them all"
        )
    return not missing
