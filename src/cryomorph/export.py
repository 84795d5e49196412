"""Writing what was found in the formats that other programs open."""

import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from cryomorph.errors import InputError
from cryomorph.files import atomic_path
from cryomorph.progress import Progress, Silent, track
from cryomorph.structure.model import Template
from cryomorph.structure.write import write_models

TABLES = (".csv", ".npz")
ROWS_AT_ONCE = 8192


def select_rows(particles: int, indices: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Rows that are meant: those asked for, or all.

    Raises
    ------
    InputError
        If a row does not exist.
    """
    if indices is None:
        return np.arange(particles, dtype=np.int64)
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


def file_columns(columns: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return columns by the names they have in particle files: letters, digits and underscores, `latent1` for `z1`."""
    return {re.sub(r"\W+", "_", re.sub(r"^z(?=\d+$)", "latent", name)): values for name, values in columns.items()}


def write_table(path: Path, columns: Mapping[str, NDArray[Any]], rows: NDArray[np.int64]) -> None:
    """Write some rows of columns (m,) as a `.csv` file, piece by piece, or as the arrays of an `.npz` archive.

    Raises
    ------
    InputError
        If the suffix is another one.
    """
    if path.suffix.lower() not in TABLES:
        raise InputError(f"{path}: expected a name that ends in {' or '.join(TABLES)}")
    with atomic_path(path) as temporary:
        if path.suffix.lower() == ".npz":
            arrays: dict[str, Any] = {name: values[rows] for name, values in columns.items()}
            np.savez(temporary, **arrays)
            return
        with temporary.open("w", encoding="utf-8", newline="") as out:
            _write_csv(out, columns, rows)


def _write_csv(out: TextIO, columns: Mapping[str, NDArray[Any]], rows: NDArray[np.int64]) -> None:
    out.write(",".join(columns) + "\n")
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = rows[start : start + ROWS_AT_ONCE]
        spelled = (_spelled(values[part]) for values in columns.values())
        out.writelines(",".join(row) + "\n" for row in zip(*spelled, strict=True))


def _spelled(values: NDArray[Any]) -> list[str]:
    if values.dtype.kind in "iu":
        return [str(value) for value in values.tolist()]
    return [f"{value:.7g}" for value in values.tolist()]
