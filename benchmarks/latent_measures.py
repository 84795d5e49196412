"""How much latents, of any method, know of the true conformations: neighbourhoods, and regression across the path."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from cryomorph.geometry import procrustes_mean, rmsd, superpose

Array = NDArray[np.float64]


def distances(coordinates: Array) -> Array:
    """RMSD in Å between all pairs of conformations, shape (K, n, 3) to (K, K)."""
    return np.stack([rmsd(coordinates, one) for one in coordinates])


def nearest(latents: Array, k: int) -> NDArray[np.int64]:
    """Return the k other particles whose latents (m, d) are nearest, shape (m, k)."""
    found = KDTree(latents).query(latents, k=k + 1)[1]
    # Where latents coincide, a particle need not be the first of its own neighbours, nor among them at all.
    others = found != np.arange(len(latents))[:, None]
    others[others.all(1), -1] = False
    return found[others].reshape(len(latents), k)


def neighbourhood(latents: Array, conformation: NDArray[np.integer], apart: Array, k: int) -> tuple[float, float]:
    """Tell how alike particles are whose latents are near one another.

    Parameters
    ----------
    latents
        Shape (m, d); only their order of distances matters.
    conformation
        Which of K conformations each particle shows, shape (m,).
    apart
        RMSD between conformations in Å, shape (K, K).
    k
        Number of neighbours.

    Returns
    -------
    apart_mean
        True RMSD in Å between a particle and its k neighbours, mean over all.
    agreement
        1 for the best neighbours that there are, 0 for neighbours drawn by chance, on the scale of that RMSD.
    """
    of_pairs = apart[conformation[:, None], conformation[nearest(latents, k)]].mean()
    best, chance = [], []
    counts = np.bincount(conformation, minlength=len(apart))
    for shown in np.unique(conformation):
        # Of all others: the particle itself is one of those that show its conformation.
        others = np.repeat(apart[shown], counts - (np.arange(len(apart)) == shown))
        best.append(np.sort(others)[:k].mean())
        chance.append(others.mean())
    weights = counts[counts > 0]
    ideal, random = (float(np.average(values, weights=weights)) for values in (best, chance))
    return float(of_pairs), float((random - of_pairs) / (random - ideal))


def regression(
    latents: Array,
    conformation: NDArray[np.integer],
    coordinates: Array,
    k: int,
    folds: int = 5,
) -> float:
    """Mean RMSD in Å of conformations told from latents by nearest neighbours whose truth is given.

    A conformation is the mean of the true ones of the k nearest latents among particles of other folds. A fold holds
    every so-many-th conformation with all of its particles: none is predicted from particles that show the same.

    Parameters
    ----------
    latents
        Shape (m, d).
    conformation
        Which of K conformations, in the order of a path, each particle shows, shape (m,).
    coordinates
        Of the conformations in Å, shape (K, n, 3).
    k
        Number of neighbours.
    folds
        In how many parts the conformations are divided.
    """
    counts = np.bincount(conformation, minlength=len(coordinates)).astype(np.float64)
    rotation, translation = superpose(coordinates, procrustes_mean(coordinates, counts))
    aligned = coordinates @ np.swapaxes(rotation, -1, -2) + translation[:, None]
    errors = np.empty(len(latents))
    for fold in range(folds):
        asked = conformation % folds == fold
        given = conformation[~asked]
        neighbours = KDTree(latents[~asked]).query(latents[asked], k=list(range(1, k + 1)))[1]
        for row, near in zip(np.flatnonzero(asked), neighbours, strict=True):
            errors[row] = rmsd(aligned[given[near]].mean(0), aligned[conformation[row]])
    return float(errors.mean())
