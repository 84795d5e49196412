"""Image files: finding them, reading their headers, and reading frames through memory maps."""

import logging
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from numpy.typing import NDArray

from cryomorph.errors import InputError

_log = logging.getLogger(__name__)

_SUFFIX_TWIN = {".mrc": ".mrcs", ".mrcs": ".mrc"}
_MODES = {0: np.int8, 1: np.int16, 2: np.float32, 6: np.uint16, 12: np.float16}
_HEADER_BYTES = 1024
_LARGEST_BOX = 65_536
_OPEN_FILES = 64
_TRIED_SHOWN = 4


@dataclass(frozen=True)
class ImageFile:
    """An MRC stack on disk, known by its header.

    Attributes
    ----------
    path
        The file.
    frames
        Number of images in it.
    box
        Pixels along an edge.
    pixel_size
        Å as the header says, 0 where it does not.
    dtype
        Of a pixel, with its byte order.
    offset
        Bytes before the first image.
    modified
        Time of the last change in ns, so that a file that was replaced is mapped anew.
    """

    path: Path
    frames: int
    box: int
    pixel_size: float
    dtype: str
    offset: int
    modified: int

    def read(self, frames: NDArray[np.int64]) -> NDArray[np.float32]:
        """Read images by number from 0, shape (k,), as an array (k, box, box); only those are read."""
        mapping, images = _mapped(self)
        chosen = np.asarray(images[frames], dtype=np.float32)
        if hasattr(mmap, "MADV_DONTNEED"):  # pages that were read would stay counted as this process's memory
            mapping.madvise(mmap.MADV_DONTNEED)
        return chosen


@lru_cache(maxsize=_OPEN_FILES)
def _mapped(file: ImageFile) -> tuple[mmap.mmap, NDArray[Any]]:
    shape = (file.frames, file.box, file.box)
    try:
        with file.path.open("rb") as opened:
            mapping = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        return mapping, np.ndarray(shape, file.dtype, mapping, file.offset)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{file.path}: can no longer be read ({error}); it was there when the run began") from error


def read_header(path: Path) -> ImageFile:
    """Read and check the header of an MRC file.

    Raises
    ------
    InputError
        If it is not an MRC file of square images of a known kind of number, or is shorter than its header says.
    """
    try:
        status = path.stat()
        with path.open("rb") as file:
            raw = file.read(_HEADER_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    if len(raw) < _HEADER_BYTES:
        raise InputError(f"{path}: has {len(raw)} bytes, less than an MRC header of {_HEADER_BYTES}; copy it again")
    header, order = _decode(path, raw)
    columns, rows, frames = (int(header[name]) for name in ("nx", "ny", "nz"))
    if columns != rows:
        raise InputError(f"{path}: its images are {columns} x {rows} pixels, expected square ones; extract them again")
    dtype = np.dtype(_MODES[int(header["mode"])]).newbyteorder(order)
    offset = _HEADER_BYTES + int(header["nsymbt"])
    image_bytes = columns * rows * dtype.itemsize
    if status.st_size < offset + frames * image_bytes:
        present = max(0, status.st_size - offset) // image_bytes
        raise InputError(
            f"{path}: is truncated: its header promises {frames} images of {columns} pixels, {present} are there; "
            f"copy it again"
        )
    cell, sampling = float(header["cella"]["x"]), int(header["mx"])
    pixel_size = cell / sampling if sampling > 0 and np.isfinite(cell) and cell > 0 else 0.0
    return ImageFile(path, frames, columns, pixel_size, dtype.str, offset, status.st_mtime_ns)


def _decode(path: Path, raw: bytes) -> tuple[np.void, Literal["<", ">"]]:
    """Return the header in the byte order in which its sizes make sense, and that order."""
    orders: tuple[Literal["<", ">"], ...] = ("<", ">")
    for order in orders:
        header = np.frombuffer(raw, dtype=HEADER_DTYPE.newbyteorder(order))[0]
        sizes = [int(header[name]) for name in ("nx", "ny", "nz")]
        plausible = min(sizes) > 0 and max(sizes[:2]) <= _LARGEST_BOX and 0 <= int(header["mode"]) < 128
        if plausible and int(header["nsymbt"]) >= 0:
            if int(header["mode"]) in _MODES:
                return header, order
            raise InputError(
                f"{path}: has MRC mode {int(header['mode'])}, expected 0, 1, 2, 6 or 12 (int8, int16, float32, uint16, "
                f"float16); convert it"
            )
    raise InputError(f"{path}: is not an MRC file; its header makes no sense")


class ImageFinder:
    """Finds image files by the names that metadata give them.

    A name loses `strip_prefix` if it starts with it. It is then looked for in `datadir` (with and without its folders)
    if that is given, else in the folder of the metadata, the current one, and every parent of the first, which is where
    RELION and cryoSPARC projects have their root. Each place is tried with `.mrc` and `.mrcs`.

    Parameters
    ----------
    source
        The metadata file.
    datadir
        Where the user says the images are.
    strip_prefix
        What the user says to drop from the names.
    """

    def __init__(self, source: Path, datadir: Path | None, strip_prefix: str) -> None:
        self.source, self.datadir, self.strip_prefix = source, datadir, strip_prefix

    def find(self, name: str) -> Path:
        """Return the file of that name.

        Raises
        ------
        InputError
            If it is in none of the places, or is not a `.mrc` or `.mrcs` file.
        """
        if not name.isprintable():
            raise InputError(f"{self.source}: image file {name!r} has a control character; the list may be damaged")
        if Path(name).suffix not in _SUFFIX_TWIN:
            raise InputError(f"{self.source}: image file {name!r} is not .mrcs or .mrc; convert the images to MRC")
        tried = list(dict.fromkeys(self._candidates(name)))
        for path in tried:
            if _is_file(path):
                return path
        more = f" and {len(tried) - _TRIED_SHOWN} more" if len(tried) > _TRIED_SHOWN else ""
        raise InputError(
            f"{self.source}: image file {name!r} not found (tried {', '.join(map(str, tried[:_TRIED_SHOWN]))}{more}); "
            f"give its folder with --datadir, or what to drop from the name with --strip-prefix"
        )

    def _candidates(self, name: str) -> Iterator[Path]:
        if self.strip_prefix and name.startswith(self.strip_prefix):
            name = name.removeprefix(self.strip_prefix).lstrip("/")
        if self.datadir is not None:
            places = [self.datadir / name, self.datadir / Path(name).name]
        else:
            folder = self.source.absolute().parent
            places = [root / name for root in (folder, Path.cwd(), *folder.parents)]
        for place in places:
            yield place
            yield place.with_suffix(_SUFFIX_TWIN.get(place.suffix, place.suffix)) if place.name else place


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
