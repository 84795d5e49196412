"""Maps as MRC files that programs show where models of the map frame are."""

import warnings
from pathlib import Path

import mrcfile
import numpy as np
from numpy.typing import NDArray

from cryomorph.errors import InputError
from cryomorph.files import atomic_path


def write_map(path: Path, density: NDArray[np.floating], pixel_size: float) -> None:
    """Write a map, so that the centre of its voxel `D // 2` is the origin of coordinates.

    Parameters
    ----------
    path
        File to write, by its name an ``.mrc``.
    density
        Shape (D, D, D): z, y, x.
    pixel_size
        Å; the header has it, and the position of the first voxel, `-(D // 2)` pixels along each axis.

    Raises
    ------
    InputError
        If the place cannot be written to.
    """
    with atomic_path(path) as temporary, mrcfile.new(temporary, overwrite=True) as file:
        file.set_data(np.ascontiguousarray(density, dtype=np.float32))
        file.set_volume()
        file.voxel_size = pixel_size
        start = -(len(density) // 2) * pixel_size
        for axis in "xyz":
            setattr(file.header.origin, axis, start)
        file.add_label("cryomorph")


def read_map(path: Path) -> tuple[NDArray[np.float32], float]:
    """Read a cubic map; returns the density (D, D, D), z, y, x, and the pixel size in Å.

    Raises
    ------
    InputError
        If the file is no such map.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with mrcfile.open(path) as file:
                density, pixel_size = np.array(file.data, dtype=np.float32), float(file.voxel_size.x)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable map in MRC format ({error})") from error
    if density.ndim != 3 or len(set(density.shape)) != 1:
        raise InputError(f"{path}: is of {' × '.join(map(str, density.shape))} voxels; expected a cube")
    return density, pixel_size
