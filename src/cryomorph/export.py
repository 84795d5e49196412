"""Writing what was found in the formats that other programs open."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryomorph.errors import InputError
from cryomorph.progress import Progress, Silent, track
from cryomorph.structure.model import Template
from cryomorph.structure.write import write_models


def select_rows(particles: int, indices: NDArray[np.int64] | None, every: int) -> NDArray[np.int64]:
    """Rows to export: those asked for, or every so-many-th.

    Raises
    ------
    InputError
        If a row does not exist.
    """
    if indices is None:
        return np.arange(0, particles, every, dtype=np.int64)
    if len(indices) == 0:
        raise InputError("--indices: no rows in it; give at least one, from 0")
    outside = indices[(indices < 0) | (indices >= particles)]
    if len(outside):
        raise InputError(f"--indices: row {outside[0]} does not exist; the run has {particles} particles, from 0")
    return indices


def write_conformations(
    path: Path,
    template: Template,
    decoded: Iterator[tuple[NDArray[np.int64], NDArray[np.floating]]],
    count: int,
    progress: Progress | None = None,
) -> None:
    """Write conformations as models of one file, in the order they are decoded.

    Parameters
    ----------
    path
        `.cif`, `.pdb` or `.dcd`.
    template
        Names the residues.
    decoded
        Batches of (rows, coordinates (b, n, 3) in Å).
    count
        Conformations in all.
    """
    models = (coordinates.astype(np.float64) for _, batch in decoded for coordinates in batch)
    with closing(track(models, progress or Silent(), f"writing {path.name}", count, "models")) as tracked:
        write_models(path, template, tracked, count)
