"""Metadata and image files brought together: files are found, and their headers compared with the metadata."""

import logging
from pathlib import Path

import numpy as np

from cryomorph.errors import InputError
from cryomorph.particles.images import ImageFile, ImageFinder, read_header
from cryomorph.particles.table import Integers, ParticleTable

_log = logging.getLogger(__name__)


def find_files(table: ParticleTable, finder: ImageFinder) -> tuple[tuple[ImageFile, ...], Integers]:
    """Find the image files of a table and read their headers.

    Returns
    -------
    files : tuple
        Each file once.
    file_index : array (m,)
        Which of them each particle is in.

    Raises
    ------
    InputError
        If a file is not found, or its header is at fault.
    """
    names, name_index = np.unique(table.image_name, return_inverse=True)
    paths = [finder.find(str(name)) for name in names]
    number = {path: index for index, path in enumerate(dict.fromkeys(paths))}
    files = tuple(read_header(path) for path in number)
    file_index = np.array([number[path] for path in paths], dtype=np.int64)[name_index]
    pairs = np.unique(np.stack([file_index, table.frame], axis=1), axis=0)
    if len(pairs) < len(table):
        _log.info("%s: %d rows show an image that another row shows too", table.source, len(table) - len(pairs))
    return files, file_index


def check_frames(
    table: ParticleTable, source_index: Integers, files: tuple[ImageFile, ...], file_index: Integers
) -> None:
    """Refuse rows whose image is not in its file, or has another size there than the metadata says.

    Raises
    ------
    InputError
        Naming the first such row.
    """
    frames = np.array([file.frames for file in files])[file_index]
    wrong = np.flatnonzero(table.frame >= frames)
    if len(wrong):
        row = wrong[0]
        raise InputError(
            f"{table.source}: row {source_index[row] + 1} wants image {table.frame[row] + 1} of "
            f"{files[file_index[row]].path}, which has {frames[row]}; the stack may belong to another file"
        )
    box = np.array([file.box for file in files])[file_index]
    wrong = np.flatnonzero((table.image_size > 0) & (table.image_size != box))
    if len(wrong):
        row = wrong[0]
        raise InputError(
            f"{table.source}: row {source_index[row] + 1} says images are {table.image_size[row]} pixels wide, "
            f"but {files[file_index[row]].path} has {box[row]}; the stack may belong to another file"
        )


def remark_on_pixel_sizes(table: ParticleTable, files: tuple[ImageFile, ...], file_index: Integers) -> None:
    """Log where a header has another pixel size than the metadata, which count."""
    header = np.array([file.pixel_size for file in files])[file_index]
    differ = np.flatnonzero((header > 0) & (np.abs(header - table.pixel_size) > 0.01 * table.pixel_size))
    if len(differ):
        row = differ[0]
        _log.info(
            "%s: pixel size is %g Å for %s, whose header says %g Å; the header is ignored",
            table.source,
            table.pixel_size[row],
            files[file_index[row]].path,
            header[row],
        )


def group_boxes(table: ParticleTable, files: tuple[ImageFile, ...], file_index: Integers) -> Integers:
    """Return the pixels along an edge of the images of each optics group, 0 for a group without particles.

    Raises
    ------
    InputError
        If the images of a group differ.
    """
    boxes = np.zeros(int(table.optics_group.max()) + 1, dtype=np.int64)
    box = np.array([file.box for file in files])[file_index]
    for group in np.unique(table.optics_group):
        rows = np.flatnonzero(table.optics_group == group)
        boxes[group] = box[rows[0]]
        other = rows[box[rows] != boxes[group]]
        if len(other):
            raise InputError(
                f"{table.source}: images of one optics group differ in size: {files[file_index[rows[0]]].path} has "
                f"{boxes[group]} pixels, {files[file_index[other[0]]].path} has {box[other[0]]}; make a group of each"
            )
    return boxes


def final_box(path: Path, source_box: Integers, box: int | None) -> int:
    """Return the box that all images are cropped to: the one asked for, or the only one there is.

    Raises
    ------
    InputError
        If none is asked for and groups differ, or it is no size to crop to.
    """
    present = np.unique(source_box[source_box > 0])
    if box is None:
        if len(present) > 1:
            raise InputError(
                f"{path}: optics groups have images of {', '.join(map(str, present))} pixels; crop them to one size "
                f"with --box"
            )
        return int(present[0])
    if not 2 <= box <= present[0]:
        raise InputError(
            f"{path}: a box of {box} pixels was asked for, expected 2 to {present[0]}, the smallest as read"
        )
    return box
