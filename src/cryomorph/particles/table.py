"""The metadata of particles, whichever program wrote them, and the checks that catch wrong units."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from cryomorph.errors import InputError
from cryomorph.particles.found import FoundPoses

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class TableOrigin(Protocol):
    """The file that a table came from, able to write some of its rows again."""

    def write(
        self, path: Path, rows: Integers, poses: FoundPoses | None = None, measures: Mapping[str, Floats] | None = None
    ) -> None:
        """Write the rows of the original file (k, counted from 0, in this order) with every column it had.

        Poses are of these k particles, and take the place of the file's. Measures are numbers of theirs, each of shape
        (k,), by names in lower case, that are written beside them.
        """


@dataclass(frozen=True, eq=False)
class ParticleTable:
    """Metadata of m particles.

    Attributes
    ----------
    source
        The file they were read from.
    image_name
        Image file of each particle as it is written in the metadata, shape (m,).
    frame
        Number of the image in that file, from 0, shape (m,).
    pixel_size
        Å per pixel of the stored image, shape (m,).
    image_size
        Pixels along an edge as the metadata states it, 0 where it does not, shape (m,).
    defocus_u, defocus_v
        Å, positive for underfocus, shape (m,).
    astigmatism_angle
        Radians, shape (m,).
    voltage
        kV, shape (m,).
    spherical_aberration
        mm, shape (m,).
    amplitude_contrast
        Between 0 and 1, shape (m,).
    phase_shift
        Radians, shape (m,).
    b_factor
        Å², shape (m,).
    optics_group
        From 0, in the order of the file's own table of groups, shape (m,).
    rotation
        Map frame to image frame, shape (m, 3, 3); None if the file has no poses.
    shift
        (x, y) in Å, minus the origin, shape (m, 2).
    half_set
        1 or 2, shape (m,); None if the file has no half sets.
    sign
        What the stored image is multiplied by to make protein bright, 1 or -1, shape (m,).
    origin
        Writes rows of the original file.
    """

    source: Path
    image_name: NDArray[np.str_]
    frame: Integers
    pixel_size: Floats
    image_size: Integers
    defocus_u: Floats
    defocus_v: Floats
    astigmatism_angle: Floats
    voltage: Floats
    spherical_aberration: Floats
    amplitude_contrast: Floats
    phase_shift: Floats
    b_factor: Floats
    optics_group: Integers
    rotation: Floats | None
    shift: Floats
    half_set: Integers | None
    sign: Floats
    origin: TableOrigin

    def __len__(self) -> int:
        return len(self.frame)

    def take(self, rows: Integers) -> Self:
        """Return a table of some of the rows; the origin stays that of the whole file."""
        arrays: dict[str, Any] = {
            name: value[rows] for name, value in vars(self).items() if isinstance(value, np.ndarray)
        }
        return replace(self, **arrays)


@dataclass(frozen=True)
class _Limit:
    field: str
    low: float
    high: float
    expected: str
    hint: str


_LIMITS = (
    _Limit("voltage", 10, 2000, "10 to 2000 kV", "it looks like volts, and {name} is in kV"),
    _Limit("pixel_size", 1e-6, 100, "above 0 and up to 100 Å", "give the pixel size in Å per pixel"),
    _Limit("spherical_aberration", 0, 20, "0 to 20 mm", "{name} is in mm"),
    _Limit("amplitude_contrast", 0, 1, "0 to 1", "{name} is a fraction, not per cent"),
    _Limit("defocus_u", -200_000, 200_000, "at most 200000 Å either way", "{name} is in Å"),
    _Limit("defocus_v", -200_000, 200_000, "at most 200000 Å either way", "{name} is in Å"),
)
_SMALLEST_DEFOCUS = 100.0
_AS_GOOD_AS_INFINITE = 1e30  # well inside the range of float32


def check_units(table: ParticleTable, names: Mapping[str, str]) -> None:
    """Refuse values that no microscope has, which are mostly values in another unit.

    Parameters
    ----------
    table
        The whole file.
    names
        Field of the table to the name of its column in the file, for the message.

    Raises
    ------
    InputError
        Naming the first row and the column that is out of range.
    """
    for limit in _LIMITS:
        values = getattr(table, limit.field)
        wrong = np.flatnonzero(~((values >= limit.low) & (values <= limit.high)))
        if len(wrong):
            name, value = names[limit.field], values[wrong[0]]
            hint = limit.hint.format(name=name) if value > limit.high else "correct it"
            raise InputError(
                f"{table.source}: row {wrong[0] + 1}: {name} is {value:g}, expected {limit.expected}; {hint}"
            )
    if max(np.abs(table.defocus_u).max(), np.abs(table.defocus_v).max()) < _SMALLEST_DEFOCUS:
        raise InputError(
            f"{table.source}: {names['defocus_u']} and {names['defocus_v']} are all below {_SMALLEST_DEFOCUS:g} Å; "
            f"they look like µm: multiply them by 10000"
        )


def check_finite(source: Path, name: str, values: NDArray[np.floating]) -> None:
    """Raise an `InputError` naming the first row of a column (m, ...) with NaN, infinity or what is as good as that."""
    wrong = np.flatnonzero(~(np.abs(values.reshape(len(values), -1)) < _AS_GOOD_AS_INFINITE).all(axis=1))
    if len(wrong):
        raise InputError(f"{source}: row {wrong[0] + 1}: {name} is {values[wrong[0]]}, expected a finite number")


def group_by_values(*columns: NDArray[np.generic]) -> Integers:
    """Return numbers for the distinct combinations of some columns (m,) from 0, in order of appearance."""
    keys = np.stack([np.unique(column, return_inverse=True)[1] for column in columns], axis=1)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[inverse.reshape(-1)], dtype=np.int64)


def read_bytes(path: Path) -> tuple[bytes, str]:
    """Return a file's content and its SHA-256 digest.

    Raises
    ------
    InputError
        If it is not a file that can be read, or is empty.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the path of a RELION .star or cryoSPARC .cs file")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    if not content:
        raise InputError(f"{path}: the file is empty; it may not have been copied completely")
    return content, hashlib.sha256(content).hexdigest()


def check_unchanged(path: Path, digest: str, expected: str) -> None:
    """Raise an `InputError` if a metadata file is no longer the one that the particles were opened from."""
    if digest != expected:
        raise InputError(f"{path}: the file has changed since it was opened; open it again before writing from it")
