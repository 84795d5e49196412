"""All particles of a data set: metadata in memory, images read when they are asked for."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomorph.errors import InputError
from cryomorph.optics import CTFParameters
from cryomorph.particles.batch import ParticleBatch
from cryomorph.particles.cryosparc import read_cryosparc
from cryomorph.particles.found import FoundPoses
from cryomorph.particles.headers import (
    check_frames,
    final_box,
    find_files,
    group_boxes,
    remark_on_pixel_sizes,
)
from cryomorph.particles.images import ImageFile, ImageFinder
from cryomorph.particles.preprocess import background_statistics, fourier_crop, outside_circle
from cryomorph.particles.star import read_star
from cryomorph.particles.table import Floats, Integers, ParticleTable

_DEFAULT_BACKGROUND = 0.45  # of the smallest field of view
_LEAST_BACKGROUND_PIXELS = 4
_READ_AT_ONCE = 256  # images, bounds the memory that cropping takes
_CTF_FIELDS = tuple(CTFParameters.__dataclass_fields__)


class BatchSource(Protocol):
    """Where batches of particles come from."""

    def batch(self, rows: Integers) -> ParticleBatch:
        """Return everything the objective needs of some particles, on the CPU; rows of shape (b,) in any order."""


@dataclass(frozen=True, eq=False)
class ParticleStack:
    """Particles of one star or cs file, whatever files their images are in.

    Attributes
    ----------
    table
        Metadata of the m particles in the stack.
    source_index
        Row of each particle in the original file, from 0, shape (m,).
    source_count
        Particles in the original file.
    files
        The image files.
    file_index
        Which of `files` each particle is in, shape (m,).
    box
        Pixels along an edge of the images that are given out, after cropping.
    source_box
        The same as read, for each optics group; 0 for a group without particles.
    background_radius
        In Å. Pixels further from an image's origin are background, by which it is normalised.
    """

    table: ParticleTable
    source_index: Integers
    source_count: int
    files: tuple[ImageFile, ...]
    file_index: Integers
    box: int
    source_box: Integers
    background_radius: float

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        datadir: Path | None = None,
        strip_prefix: str = "",
        passthrough: Path | None = None,
        box: int | None = None,
        first: int | None = None,
        indices: Integers | None = None,
        pixel_size: float | None = None,
        background_radius: float | None = None,
        invert: bool = False,
    ) -> Self:
        """Read the metadata and the headers of all image files; no image is read yet.

        Parameters
        ----------
        path
            A RELION `.star` or a cryoSPARC `.cs` file.
        datadir
            Folder of the images, if it is not where the names in the file say.
        strip_prefix
            Dropped from the names of image files that start with it.
        passthrough
            Second cryoSPARC file with further fields of the same particles.
        box
            Crop the images to this many pixels in Fourier space; each keeps its field of view.
        first
            Take only so many particles from the start of the file.
        indices
            Take only these rows of the file, counted from 0, in this order.
        pixel_size
            Å per pixel of the stored images; overrides the file's.
        background_radius
            In Å, see `ParticleStack`; 0.45 of the smallest field of view if not given.
        invert
            Flip the contrast, for images in which protein is dark although the file does not say so.

        Raises
        ------
        InputError
            If the metadata, a header or an argument is wrong, or they do not fit together.
        """
        path = Path(path)
        table = read_table(path, passthrough, pixel_size)
        source_count = len(table)
        source_index = _chosen_rows(path, source_count, first, indices)
        table = table.take(source_index)
        if invert:
            table = replace(table, sign=-table.sign)
        finder = ImageFinder(path, None if datadir is None else Path(datadir), strip_prefix)
        files, file_index = find_files(table, finder)
        check_frames(table, source_index, files, file_index)
        remark_on_pixel_sizes(table, files, file_index)
        source_box = group_boxes(table, files, file_index)
        final = final_box(path, source_box, box)
        stack = cls(table, source_index, source_count, files, file_index, final, source_box, 0.0)
        radius = _DEFAULT_BACKGROUND * stack.field_of_view if background_radius is None else background_radius
        return stack.with_background_radius(radius)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def pixel_size(self) -> Floats:
        """Å per pixel of the images that are given out, shape (m,)."""
        return self._pixel_sizes(slice(None))

    def _pixel_sizes(self, rows: Integers | slice) -> Floats:
        cropping = self.source_box[self.table.optics_group[rows]] / self.box
        return np.asarray(self.table.pixel_size[rows] * cropping)

    @property
    def field_of_view(self) -> float:
        """Å along an edge of the smallest image."""
        return float(self.pixel_size.min()) * self.box

    @property
    def has_poses(self) -> bool:
        """Whether the file has rotations."""
        return self.table.rotation is not None

    def images(self, rows: Integers) -> NDArray[np.float32]:
        """Read images, crop them, and normalise each by its background to mean 0 and standard deviation 1.

        Parameters
        ----------
        rows
            Of this stack, shape (b,), in any order.

        Returns
        -------
        array (b, box, box)

        Raises
        ------
        InputError
            If an image has a pixel that is not finite, or a background that does not vary.
        """
        rows = _checked_rows(rows, len(self))
        images = np.empty((len(rows), self.box, self.box), dtype=np.float32)
        for file, places in self._by_file(rows):
            images[places] = fourier_crop(file.read(self.table.frame[rows[places]]), self.box)
        self._normalise(images, rows)
        return images

    def batch(self, rows: Integers, *, images: bool = True) -> ParticleBatch:
        """Everything the objective needs of some particles, on the CPU.

        Parameters
        ----------
        rows
            Of this stack, shape (b,), in any order.
        images
            False leaves the images out, where only latents are needed.
        """
        rows = _checked_rows(rows, len(self))
        table = self.table
        return ParticleBatch(
            index=torch.from_numpy(rows.copy()),
            image=torch.from_numpy(self.images(rows)) if images else None,
            pixel_size=_float32(self._pixel_sizes(rows)),
            optics_group=torch.from_numpy(table.optics_group[rows]),
            rotation=None if table.rotation is None else _float32(table.rotation[rows]),
            shift=_float32(table.shift[rows]),
            ctf=CTFParameters(**{name: _float32(getattr(table, name)[rows]) for name in _CTF_FIELDS}),
        )

    def select(self, rows: Integers) -> Self:
        """Return a stack of some of the particles, each at most once; the background stays the same."""
        rows = _unique_rows(self.table.source, rows, len(self))
        return replace(
            self,
            table=self.table.take(rows),
            source_index=self.source_index[rows],
            file_index=self.file_index[rows],
        )

    def with_background_radius(self, radius: float) -> Self:
        """Return the stack with another background, pixels further than `radius` (Å) from the images' origin.

        Raises
        ------
        InputError
            If no pixels, or all but a few, would be background.
        """
        least = self.field_of_view / self.box
        if not radius >= least:
            raise InputError(f"background radius is {radius:g} Å, expected more than a pixel ({least:g} Å)")
        if outside_circle(self.box, radius / least).sum() < _LEAST_BACKGROUND_PIXELS:
            raise InputError(
                f"background radius is {radius:g} Å, which leaves no background in images of "
                f"{self.field_of_view:g} Å; choose at most {0.5 * self.field_of_view:g}"
            )
        return replace(self, background_radius=float(radius))

    def write(
        self,
        path: Path,
        rows: Integers | None = None,
        poses: FoundPoses | None = None,
        measures: Mapping[str, Floats] | None = None,
    ) -> None:
        """Write particles as rows of the original file, every column as it was there, but for poses that are given.

        A star file keeps its other tables and the spelling of every value. A cs file keeps its fields and their types;
        if it was opened with a passthrough file, the fields of both are written into the one file. Given poses are
        written in the columns and units of the file, or in those of its dialect where it has none, with their entropy
        beside them (`cryomorphPoseEntropy`, `cryomorph/pose_entropy`).

        Parameters
        ----------
        path
            With the suffix of the original, `.star` or `.cs`.
        rows
            Of this stack, shape (k,), in the order they are to have; all if not given.
        poses
            Of all m particles of this stack, in its order; those of the file if not given.
        measures
            Numbers of all m particles, shape (m,), that are written beside them, by names such as `junk`, which become
            `cryomorphJunk` or `cryomorph/junk`.

        Raises
        ------
        InputError
            If the suffix differs, nothing is selected, there are poses of another number of particles, the original has
            changed, or `path` cannot be written.
        """
        path, suffix = Path(path), self.table.source.suffix.lower()
        if path.suffix.lower() != suffix:
            raise InputError(f"{path}: the particles are from a {suffix} file, so give a name that ends in {suffix}")
        rows = np.arange(len(self)) if rows is None else _checked_rows(rows, len(self))
        if len(rows) == 0:
            raise InputError(f"{path}: no particles are selected, so there is nothing to write")
        if poses is not None and len(poses) != len(self):
            raise InputError(f"{path}: there are {len(poses)} poses for {len(self)} particles")
        chosen = {name: values[rows] for name, values in (measures or {}).items()}
        self.table.origin.write(path, self.source_index[rows], None if poses is None else poses.take(rows), chosen)

    def _by_file(self, rows: Integers) -> Iterator[tuple[ImageFile, Integers]]:
        """Places in `rows` file by file, in the order of their frames, some hundreds at a time."""
        order = np.lexsort((self.table.frame[rows], self.file_index[rows]))
        files = self.file_index[rows][order]
        for places in np.split(order, np.flatnonzero(np.diff(files)) + 1):
            for start in range(0, len(places), _READ_AT_ONCE):
                part = places[start : start + _READ_AT_ONCE]
                yield self.files[self.file_index[rows[part[0]]]], part

    def _normalise(self, images: NDArray[np.float32], rows: Integers) -> None:
        pixel_size = self._pixel_sizes(rows)
        sizes = np.unique(pixel_size)
        for size in sizes:
            places = slice(None) if len(sizes) == 1 else np.flatnonzero(pixel_size == size)
            background = outside_circle(self.box, self.background_radius / size)
            mean, deviation = background_statistics(images[places], background)
            self._check_background(rows[places], deviation)
            scale = self.table.sign[rows[places]].astype(np.float32) / deviation
            images[places] -= mean[:, None, None]
            images[places] *= scale[:, None, None]

    def _check_background(self, rows: Integers, deviation: NDArray[np.float32]) -> None:
        wrong = np.flatnonzero(~(deviation > 0))
        if len(wrong):
            row = rows[wrong[0]]
            reason = (
                "does not vary outside the particle" if deviation[wrong[0]] == 0 else "has a pixel that is NaN or inf"
            )
            raise InputError(
                f"{self.files[self.file_index[row]].path}: image {self.table.frame[row] + 1} {reason}; "
                f"remove row {self.source_index[row] + 1} from {self.table.source}"
            )


def read_table(path: Path, passthrough: Path | None = None, pixel_size: float | None = None) -> ParticleTable:
    """Read the metadata of particles, without looking for their images.

    Parameters
    ----------
    path
        RELION `.star` or cryoSPARC `.cs`.
    passthrough
        cryoSPARC file with the remaining fields.
    pixel_size
        Å; overrides the file's.

    Raises
    ------
    InputError
        If the file is something else, or at fault.
    """
    suffix = path.suffix.lower()
    if suffix == ".star":
        if passthrough is not None:
            raise InputError(f"{path}: a passthrough file only goes with a cryoSPARC .cs file; leave it out")
        return read_star(path, pixel_size)
    if suffix == ".cs":
        return read_cryosparc(path, None if passthrough is None else Path(passthrough), pixel_size)
    bare = " (an image stack alone has no CTF)" if suffix in (".mrc", ".mrcs") else ""
    raise InputError(
        f"{path}: is not a RELION .star or cryoSPARC .cs file{bare}; give the one that lists the particles"
    )


def _chosen_rows(path: Path, count: int, first: int | None, indices: Integers | None) -> Integers:
    if first is not None and indices is not None:
        raise InputError(f"{path}: both the first particles and indices were asked for; choose one")
    if indices is not None:
        return _unique_rows(path, indices, count)
    if first is not None and not 0 < first <= count:
        raise InputError(f"{path}: the first {first} particles were asked for, but it has {count}; choose 1 to {count}")
    return np.arange(count if first is None else first, dtype=np.int64)


def _unique_rows(path: Path, rows: Integers, count: int) -> Integers:
    rows = _checked_rows(rows, count)
    if len(rows) == 0:
        raise InputError(f"{path}: no particles are selected; give at least one index")
    values, counts = np.unique(rows, return_counts=True)
    if len(values) < len(rows):
        raise InputError(f"{path}: index {values[counts > 1][0]} is given twice; give each once")
    return rows


def _checked_rows(rows: Integers, count: int) -> Integers:
    rows = np.asarray(rows)
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
        raise InputError(f"indices are {rows.dtype} of shape {rows.shape}, expected a list of whole numbers")
    wrong = np.flatnonzero((rows < 0) | (rows >= count))
    if len(wrong):
        raise InputError(f"index {rows[wrong[0]]} is out of range, expected 0 to {count - 1}")
    return rows.astype(np.int64)


def _float32(values: Floats) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))
