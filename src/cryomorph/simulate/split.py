"""Which images are for training, for validation and for test."""

import numpy as np
from numpy.typing import NDArray

from cryomorph.errors import InputError

SETS = ("train", "validation", "test")

_STREAM = (0, 2)  # of random numbers; those of images are named by one number, or by a number and a 1


def draw_split(split: tuple[float, float, float], images: int, seed: int) -> dict[str, NDArray[np.int64]]:
    """Draw disjoint sets of images.

    Parameters
    ----------
    split
        Of the sets "train", "validation" and "test", in this order: how many images, or, unless all three are whole
        numbers, which fraction of them.
    images
        How many there are.
    seed
        Of the draw.

    Returns
    -------
    dict
        Row numbers from 0 of each set, ascending; sets without images are left out.

    Raises
    ------
    InputError
        If there are not as many images, or none is wanted.
    """
    sizes = np.array(split)
    wanted = sizes.sum()
    if np.all(sizes == np.rint(sizes)):
        ends = np.cumsum(sizes)
        if wanted > images:
            raise InputError(f"split: {wanted:.0f} images are wanted, and there are {images}")
    else:
        ends = np.rint(np.cumsum(sizes) * images)
        if wanted > 1 + 1e-9:
            raise InputError(f"split: the fractions add up to {wanted:g}, more than 1")
    if not ends[-1]:
        raise InputError("split: all sets are empty; give at least one image")
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=_STREAM))
    parts = np.split(generator.permutation(images), ends.astype(np.int64))
    return {name: np.sort(rows) for name, rows in zip(SETS, parts[:3], strict=True) if len(rows)}
