"""cryoSPARC `.cs` files: structured NumPy arrays, the fields of one particle possibly spread over two files."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomorph.errors import InputError
from cryomorph.files import atomic_path
from cryomorph.geometry import cryosparc_to_matrix, matrix_to_cryosparc
from cryomorph.particles.found import FoundPoses
from cryomorph.particles.table import (
    Floats,
    Integers,
    ParticleTable,
    check_finite,
    check_unchanged,
    check_units,
    group_by_values,
    read_bytes,
)

_log = logging.getLogger(__name__)

Records = NDArray[np.void]

_CTF = {
    "defocus_u": "ctf/df1_A",
    "defocus_v": "ctf/df2_A",
    "astigmatism_angle": "ctf/df_angle_rad",
    "voltage": "ctf/accel_kv",
    "spherical_aberration": "ctf/cs_mm",
    "amplitude_contrast": "ctf/amp_contrast",
}
_PIXEL = "blob/psize_A"
_POSE, _SHIFT, _ALIGNMENT_PIXEL = "alignments3D/pose", "alignments3D/shift", "alignments3D/psize_A"
_ENTROPY = "cryomorph/pose_entropy"


def read_cryosparc(path: Path, passthrough: Path | None = None, pixel_size: float | None = None) -> ParticleTable:
    """Read the particles of a cryoSPARC file.

    `blob/sign` is 1 for images as cryoSPARC extracts them, protein dark, and -1 for images imported from RELION,
    protein bright; the table's sign is its negative.

    Parameters
    ----------
    path
        The `.cs` file.
    passthrough
        A second `.cs` file with further fields of the same particles, matched by `uid`.
    pixel_size
        Å per pixel of the images; overrides `blob/psize_A`, and the shifts change by the same factor.

    Raises
    ------
    InputError
        If a file is not such a file, lacks a field or a particle, or holds a value that is out of range.
    """
    origin, records = _open(path, passthrough, pixel_size)
    fields = _Fields(path, records)
    _require(fields)
    stored = fields.numbers(_PIXEL)
    pixels = stored if pixel_size is None else np.full(len(records), pixel_size)
    ctf = {field: fields.numbers(name) for field, name in _CTF.items()}
    size = _image_sizes(fields)
    table = ParticleTable(
        source=path,
        image_name=_image_names(fields),
        frame=_frames(fields),
        pixel_size=pixels,
        image_size=size,
        phase_shift=fields.numbers_or_zero("ctf/phase_shift_rad"),
        b_factor=fields.numbers_or_zero("ctf/bfactor"),
        optics_group=group_by_values(
            fields.numbers_or_zero("ctf/exp_group_id"),
            ctf["voltage"],
            ctf["spherical_aberration"],
            ctf["amplitude_contrast"],
            pixels,
            size,
        ),
        rotation=_rotations(fields),
        shift=-_origins(fields, stored) * (pixels / stored)[:, None],
        half_set=_half_sets(fields),
        sign=_signs(fields),
        origin=origin,
        **ctf,
    )
    check_units(table, {**_CTF, "pixel_size": _PIXEL if pixel_size is None else "the given pixel size"})
    return table


@dataclass(frozen=True)
class CryosparcOrigin:
    """The `.cs` files of a table, read again when rows of them are written.

    Attributes
    ----------
    path
        The main file, whose rows and order count.
    digest
        SHA-256 of its content when it was opened.
    passthrough
        The second file, if there is one.
    passthrough_digest
        SHA-256 of its content when it was opened.
    pixel_size
        Å; overrides the files'.
    """

    path: Path
    digest: str
    passthrough: Path | None = None
    passthrough_digest: str = ""
    pixel_size: float | None = None

    def write(
        self, path: Path, rows: Integers, poses: FoundPoses | None = None, measures: Mapping[str, Floats] | None = None
    ) -> None:
        """Write some particles with all fields, those of the passthrough file in the same array.

        Parameters
        ----------
        path
            The `.cs` file to write.
        rows
            Of the original file, from 0, shape (k,).
        poses
            Poses of these k particles; fields that the file has not got are added. Default: the file's own.
        measures
            Further numbers of these k particles, by names such as `junk`, which becomes `cryomorph/junk`.

        Raises
        ------
        InputError
            If an original is gone or has changed, or `path` cannot be written.
        """
        now, records = _open(self.path, self.passthrough, self.pixel_size)
        check_unchanged(self.path, now.digest, self.digest)
        if self.passthrough is not None:
            check_unchanged(self.passthrough, now.passthrough_digest, self.passthrough_digest)
        chosen = records[rows]
        if poses is not None:
            chosen = _with_fields(chosen, _pose_fields(_Fields(self.path, chosen), self.pixel_size, poses))
        further = {
            f"cryomorph/{name}": values.astype(np.int32 if values.dtype.kind in "iu" else np.float32)
            for name, values in (measures or {}).items()
        }
        chosen = _with_fields(chosen, further)
        with atomic_path(path) as temporary, temporary.open("wb") as out:
            np.save(out, chosen, allow_pickle=False)


def _open(path: Path, passthrough: Path | None, pixel_size: float | None) -> tuple[CryosparcOrigin, Records]:
    records, digest = _load(path)
    if passthrough is None:
        return CryosparcOrigin(path, digest, pixel_size=pixel_size), records
    further, further_digest = _load(passthrough)
    origin = CryosparcOrigin(path, digest, passthrough, further_digest, pixel_size)
    return origin, _merge(path, records, passthrough, further)


def _load(path: Path) -> tuple[Records, str]:
    content, digest = read_bytes(path)
    if content.startswith(b"\x94CSDAT"):
        raise InputError(f"{path}: is a compressed cryoSPARC stream, not a table; export the job's results again")
    try:
        # A memory map compares the size that the header promises with the file's before anything is allocated.
        records: NDArray[Any] = np.array(np.lib.format.open_memmap(path, mode="r"))
    except Exception as error:  # NumPy's parser of an untrusted header fails in many ways; all mean the same here
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: not a readable .cs file ({reason}); it may be truncated") from error
    if records.dtype.names is None or records.ndim != 1:
        raise InputError(f"{path}: holds a plain array, expected one record with named fields for each particle")
    if len(records) == 0:
        raise InputError(f"{path}: has no particles; choose another file")
    return records, digest


def _merge(path: Path, main: Records, other_path: Path, other: Records) -> Records:
    """Add the fields of `other` that `main` lacks, row by row with the same `uid`."""
    for source, records in ((path, main), (other_path, other)):
        if "uid" not in (records.dtype.names or ()):
            raise InputError(f"{source}: has no uid field, by which particles and passthrough are matched")
        if len(np.unique(records["uid"])) < len(records):
            raise InputError(f"{source}: a uid occurs twice, so particles and passthrough cannot be matched")
    order = np.argsort(other["uid"])
    place = np.minimum(np.searchsorted(other["uid"][order], main["uid"]), len(other) - 1)
    rows = order[place]
    missing = np.flatnonzero(other["uid"][rows] != main["uid"])
    if len(missing):
        raise InputError(
            f"{other_path}: has no particle with uid {main['uid'][missing[0]]} (row {missing[0] + 1} of {path}); "
            f"give the passthrough file of the same job"
        )
    have = set(main.dtype.names or ())
    return _with_fields(main, {name: other[name][rows] for name in other.dtype.names or () if name not in have})


def _with_fields(records: Records, fields: Mapping[str, NDArray[Any]]) -> Records:
    """Return the records (m,) with the values of some fields, (m, ...), replaced or added."""
    types = {name: records.dtype[name] for name in records.dtype.names or ()}
    types |= {name: np.dtype((values.dtype, values.shape[1:])) for name, values in fields.items()}
    result = np.empty(len(records), dtype=list(types.items()))
    for name in types:
        result[name] = fields[name] if name in fields else records[name]
    return result


def _pose_fields(fields: "_Fields", pixel_size: float | None, poses: FoundPoses) -> dict[str, NDArray[Any]]:
    """Fields that hold other poses of the records: what `_rotations` and `_origins` read them from.

    Shifts stay in the pixels of the images that were aligned, whose size is then always stated.
    """
    stored = fields.numbers(_PIXEL)
    aligned = _aligned_pixels(fields, stored)
    pixels = stored if pixel_size is None else np.full(len(stored), pixel_size)
    values = {
        _POSE: matrix_to_cryosparc(poses.rotation),
        _SHIFT: -poses.shift * (stored / pixels / aligned)[:, None],
        _ALIGNMENT_PIXEL: aligned,
        _ENTROPY: poses.entropy,
    }
    return {name: column.astype(fields.float_type(name)) for name, column in values.items()}


class _Fields:
    """The fields of an array of records, checked as they are read."""

    def __init__(self, source: Path, records: Records) -> None:
        self.source, self.records = source, records

    def __contains__(self, name: str) -> bool:
        return name in (self.records.dtype.names or ())

    def numbers(self, name: str, shape: tuple[int, ...] = ()) -> Floats:
        column = self.records[name]
        if column.dtype.kind not in "fiu" or column.shape[1:] != shape:
            expected = f"{int(np.prod(shape))} numbers" if shape else "one number"
            raise InputError(
                f"{self.source}: {name} holds {column.dtype} of shape {column.shape[1:]}, "
                f"expected {expected} a particle"
            )
        with np.errstate(invalid="ignore"):  # a signalling NaN is reported below, with its row
            values = column.astype(np.float64)
        check_finite(self.source, name, values)
        return np.asarray(values)

    def float_type(self, name: str) -> np.dtype[Any]:
        """Type of a field, made able to hold what a float32 does; float32 for one that is not there."""
        return np.promote_types(self.records.dtype[name].base if name in self else np.float32, np.float32)

    def numbers_or_zero(self, name: str) -> Floats:
        return self.numbers(name) if name in self else np.zeros(len(self.records))


def _require(fields: _Fields) -> None:
    blob = [name for name in ("blob/path", "blob/idx", _PIXEL) if name not in fields]
    if blob:
        raise InputError(
            f"{fields.source}: missing image fields {', '.join(blob)}; give the file that has them, "
            f"or add it with --passthrough"
        )
    missing = [name for name in _CTF.values() if name not in fields]
    if missing:
        raise InputError(
            f"{fields.source}: missing CTF fields {', '.join(missing)}; add the file that has them with --passthrough"
        )
    pose = [name for name in (_POSE, _SHIFT) if name not in fields]
    if len(pose) == 1:
        raise InputError(f"{fields.source}: has no {pose[0]}; poses need both {_POSE} and {_SHIFT}")
    pixel = fields.numbers(_PIXEL)
    wrong = np.flatnonzero(pixel <= 0)
    if len(wrong):
        raise InputError(
            f"{fields.source}: row {wrong[0] + 1}: {_PIXEL} is {pixel[wrong[0]]:g}, expected a positive number of Å"
        )


def _image_names(fields: _Fields) -> NDArray[np.str_]:
    column = fields.records["blob/path"]
    if column.dtype.kind not in "SU" or column.ndim != 1:
        raise InputError(f"{fields.source}: blob/path holds {column.dtype}, expected one file name a particle")
    try:
        names = np.strings.decode(column, "utf-8") if column.dtype.kind == "S" else column
    except UnicodeDecodeError as error:
        raise InputError(f"{fields.source}: blob/path holds bytes that are not text ({error.reason})") from error
    names = np.where(np.strings.startswith(names, ">"), np.strings.lstrip(names, ">"), names)
    empty = np.flatnonzero(np.strings.str_len(names) == 0)
    if len(empty):
        raise InputError(f"{fields.source}: row {empty[0] + 1}: blob/path is empty, expected the file of the image")
    return np.asarray(names, dtype=np.str_)


def _frames(fields: _Fields) -> Integers:
    frames = fields.numbers("blob/idx")
    wrong = np.flatnonzero((frames < 0) | (frames != np.rint(frames)) | (frames > 2**31))
    if len(wrong):
        raise InputError(
            f"{fields.source}: row {wrong[0] + 1}: blob/idx is {frames[wrong[0]]:g}, expected the image's number from 0"
        )
    return frames.astype(np.int64)


def _image_sizes(fields: _Fields) -> Integers:
    if "blob/shape" not in fields:
        return np.zeros(len(fields.records), dtype=np.int64)
    shape = fields.numbers("blob/shape", (2,))
    wrong = np.flatnonzero((shape[:, 0] != shape[:, 1]) | (shape[:, 0] < 1) | (shape[:, 0] > 2**31))
    if len(wrong):
        raise InputError(
            f"{fields.source}: row {wrong[0] + 1}: blob/shape is {shape[wrong[0]]}, expected a square image"
        )
    return shape[:, 0].astype(np.int64)


def _rotations(fields: _Fields) -> Floats | None:
    return cryosparc_to_matrix(fields.numbers(_POSE, (3,))) if _POSE in fields else None


def _origins(fields: _Fields, pixel_size: Floats) -> Floats:
    """Origins (m, 2) in Å: `alignments3D/shift` is in pixels of the images that were aligned, perhaps binned ones."""
    if _SHIFT not in fields:
        return np.zeros((len(fields.records), 2))
    return fields.numbers(_SHIFT, (2,)) * _aligned_pixels(fields, pixel_size)[:, None]


def _aligned_pixels(fields: _Fields, pixel_size: Floats) -> Floats:
    """Å per pixel of the images that were aligned (m,); those that are stored where the file does not say."""
    if _ALIGNMENT_PIXEL not in fields:
        return pixel_size
    stated = fields.numbers(_ALIGNMENT_PIXEL)
    return np.where(stated > 0, stated, pixel_size)


def _half_sets(fields: _Fields) -> Integers | None:
    if "alignments3D/split" not in fields:
        return None
    split = fields.numbers("alignments3D/split")
    if not np.isin(split, (0, 1)).all():
        _log.info("%s: alignments3D/split has values other than 0 and 1; half sets are ignored", fields.source)
        return None
    return split.astype(np.int64) + 1


def _signs(fields: _Fields) -> Floats:
    if "blob/sign" not in fields:
        _log.info("%s: has no blob/sign; protein is taken to be bright, as in RELION", fields.source)
        return np.ones(len(fields.records))
    sign = fields.numbers("blob/sign")
    wrong = np.flatnonzero(np.abs(sign) != 1)
    if len(wrong):
        raise InputError(f"{fields.source}: row {wrong[0] + 1}: blob/sign is {sign[wrong[0]]:g}, expected 1 or -1")
    if (sign > 0).any():
        _log.info("%s: blob/sign is 1 (protein dark), so the contrast of the images is inverted", fields.source)
    return -sign
