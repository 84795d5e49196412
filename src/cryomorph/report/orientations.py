"""From where particles were seen, and at which defocus."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomorph.report.encoding import packed, rounded
from cryomorph.report.histograms import histogram

FEWEST_ROWS, MOST_ROWS = 8, 36
"""Bands of latitude; each has as many bins as make them all about equally large."""
EACH = 15
"""Particles a bin on average, if that many rows will do: fewer would show chance."""
EMPTY = 0.1
"""Of the mean count, below which a bin of the coarse grid counts as empty."""
COARSE = 12
ENOUGH = 20
"""Particles a bin of the coarse grid, with which emptiness means something."""

Array = NDArray[np.floating]


def views(rotation: Array) -> dict[str, Any]:
    """Count viewing directions.

    Parameters
    ----------
    rotation
        Map frame to image frame, shape (m, 3, 3); the last row is the direction of view in the map frame.

    Returns
    -------
    dict
        `columns`: bins in each band of latitude, from south to north; `density`: count of each bin over what it would
        be if all directions were alike, band after band, the first of a band at longitude -180°; `empty`: share of the
        sphere that is hardly seen, None with too few particles to say.
    """
    direction = rotation[:, 2]
    columns = band_columns(int(np.clip(np.sqrt(np.pi / 4 * len(direction) / EACH), FEWEST_ROWS, MOST_ROWS)))
    counts = _counts(direction, columns)
    share = np.concatenate([np.full(n, area / n) for n, area in zip(columns, _areas(len(columns)), strict=True)])
    return {
        "columns": columns.tolist(),
        "density": packed(counts / (share * len(direction))),
        "empty": unseen(direction),
        "particles": len(direction),
    }


def unseen(direction: Array) -> float | None:
    """Return the share of the sphere from which hardly any of directions (m, 3) look; None with too few to say.

    A direction and its opposite count as the same: the projections are mirror images of each other.
    """
    columns = band_columns(COARSE)
    if len(direction) < ENOUGH * columns.sum():
        return None
    counts = _counts(direction, columns) + _counts(-direction, columns)
    share = np.concatenate([np.full(n, area / n) for n, area in zip(columns, _areas(COARSE), strict=True)])
    return float(share[counts < EMPTY * 2 * share * len(direction)].sum())


def defocus(defocus_u: Array, defocus_v: Array) -> dict[str, Any]:
    """Return the distribution of the mean defocus in µm, and the median astigmatism in nm."""
    astigmatism = np.abs(defocus_u - defocus_v) / 10
    return histogram(0.5e-4 * (defocus_u + defocus_v)) | {"astigmatism": rounded([np.median(astigmatism)])[0]}


def band_columns(rows: int) -> NDArray[np.int64]:
    """Return how many bins each of so many bands of latitude has."""
    latitude = (np.arange(rows) + 0.5) / rows * np.pi - np.pi / 2
    return np.asarray(np.maximum(np.rint(2 * rows * np.cos(latitude)), 3), dtype=np.int64)


def _areas(rows: int) -> Array:
    """Share of the sphere in each band of latitude."""
    edges = np.sin(np.linspace(-np.pi / 2, np.pi / 2, rows + 1))
    return np.asarray(np.diff(edges) / 2)


def _counts(direction: Array, columns: NDArray[np.int64]) -> NDArray[np.int64]:
    rows = len(columns)
    latitude = np.arcsin(np.clip(direction[:, 2], -1, 1))
    longitude = np.arctan2(direction[:, 1], direction[:, 0])
    row = np.clip(((latitude / np.pi + 0.5) * rows).astype(np.int64), 0, rows - 1)
    column = np.minimum(((longitude / (2 * np.pi) + 0.5) * columns[row]).astype(np.int64), columns[row] - 1)
    first = np.cumsum(columns) - columns
    return np.asarray(np.bincount(first[row] + column, minlength=int(columns.sum())))
