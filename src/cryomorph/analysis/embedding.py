"""UMAP of the latents (McInnes et al. 2018), if it is installed."""

import logging

import numpy as np
from numpy.typing import NDArray

from cryomorph.analysis.ensemble import evenly_spaced
from cryomorph.errors import InputError

logger = logging.getLogger(__name__)

MOST = 100_000
"""Particles that are embedded; the others have no place."""


def require_umap() -> None:
    """Raise InputError if the package is not installed."""
    try:
        import umap  # noqa: F401
    except ImportError as error:
        raise InputError("--umap needs the package umap-learn: pip install 'cryomorph[umap]'") from error


def embed(latents: NDArray[np.floating], seed: int, most: int = MOST) -> dict[str, NDArray[np.float32]]:
    """Return the columns `umap1` and `umap2` (m,) of latents (m, d).

    Of more than `most` particles, so many are embedded, spread evenly; the places of the others are NaN.

    Raises
    ------
    InputError
        If the package is not installed.
    """
    require_umap()
    import umap

    rows = evenly_spaced(len(latents), most)
    if len(rows) < len(latents):
        logger.info("umap: %d of %d particles are embedded; the others have no place", len(rows), len(latents))
    neighbours = min(15, len(rows) - 1)
    places = umap.UMAP(n_neighbors=neighbours, random_state=seed, n_jobs=1).fit_transform(latents[rows])
    columns = np.full((2, len(latents)), np.nan, dtype=np.float32)
    columns[:, rows] = places.T
    return {"umap1": columns[0], "umap2": columns[1]}
