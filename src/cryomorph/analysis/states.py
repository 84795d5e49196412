"""Groups of particles with similar conformations, by k-means on their places along the components."""

import logging

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import ClusterError, kmeans2, vq
from scipy.spatial.distance import cdist

from cryomorph.analysis.ensemble import Ensemble, evenly_spaced
from cryomorph.analysis.result import State

logger = logging.getLogger(__name__)

Array = NDArray[np.floating]

SAMPLE = 20_000
"""Particles of which centres come, at most; then every particle goes to the nearest."""
TRIES, ROUNDS = 4, 30
"""Beginnings of k-means, and rounds of each."""
SLICES = 5
"""States of a motion without gaps."""
MOST_SEPARATE = 8
"""States that are looked for when their number is not given."""
SEPARATE = 0.7
"""Mean silhouette from which groups are strongly separate (Kaufman & Rousseeuw 1990)."""
COMPARED = 1500
"""Particles that silhouettes are found of."""


def find_states(
    ensemble: Ensemble, places: Array, count: int | str, seed: int
) -> tuple[tuple[State, ...], NDArray[np.int64]]:
    """Group particles, and choose for each group the one that stands for it.

    Parameters
    ----------
    ensemble
        Decodes those that stand for a group.
    places
        Along the components, shape (m, k), Å.
    count
        Of groups; "auto": the number of 2 to 8 whose groups are most separate, if they are strongly so, else five.
    seed
        Of the beginnings.

    Returns
    -------
    states : tuple of State
        The most populated first.
    number : array (m,)
        Of each particle's state, from 1.
    """
    sample = places[evenly_spaced(len(places), SAMPLE)].astype(np.float64)
    centres = find_centres(sample, count_separate(sample, seed) if count == "auto" else int(count), seed)
    label, distance = vq(places, centres.astype(places.dtype))
    population = np.bincount(label, minlength=len(centres))
    order = [group for group in np.argsort(-population, kind="stable") if population[group]]
    number = np.empty(len(centres), dtype=np.int64)
    number[order] = np.arange(1, len(order) + 1)
    inside = [np.flatnonzero(label == group) for group in order]
    particles = np.array([rows[distance[rows].argmin()] for rows in inside])
    coordinates = ensemble.decode(ensemble.latents[particles])
    if count not in ("auto", len(order)):
        logger.info("%s states asked for, %d found: conformations differ too little for more", count, len(order))
    states = tuple(
        State(row + 1, len(inside[row]), int(particle), ensemble.latents[particle].copy(), coordinates[row])
        for row, particle in enumerate(particles)
    )
    return states, number[label]


def find_centres(places: Array, count: int, seed: int) -> Array:
    """Return centres of k-means (k, d) of places (s, d), the best of a few beginnings.

    There are fewer than asked for where there are fewer different places.
    """
    different = np.unique(places, axis=0)
    if len(different) <= count:
        return different
    best, least = None, np.inf
    for attempt in range(TRIES):
        generator = np.random.default_rng([seed, count, attempt])
        try:
            centres, label = kmeans2(places, count, iter=ROUNDS, minit="++", rng=generator, missing="raise")
        except ClusterError:  # a group lost its last particle; another beginning may do
            continue
        spread = float(np.square(places - centres[label]).sum())
        if spread < least:
            best, least = centres, spread
    return find_centres(places, count - 1, seed) if best is None else np.asarray(best)


def count_separate(places: Array, seed: int) -> int:
    """Return into how many groups places (s, d) fall that are strongly separate, else `SLICES`."""
    compared = places[evenly_spaced(len(places), COMPARED)]
    distance = cdist(compared, compared)
    best, highest = SLICES, SEPARATE
    for count in range(2, MOST_SEPARATE + 1):
        score = silhouette(distance, vq(compared, find_centres(compared, count, seed))[0])
        if score > highest:
            best, highest = count, score
    return best


def silhouette(distance: Array, label: NDArray[np.integer]) -> float:
    """Mean silhouette of labelled points (Rousseeuw 1987): (b - a) / max(a, b), 0 for a point alone.

    `a` is the mean distance (s, s) of a point from the others of its group, `b` that from the nearest other group.
    """
    groups, label = np.unique(label, return_inverse=True)
    if len(groups) < 2:
        return 0.0
    member = np.eye(len(groups))[label]
    size = member.sum(0)
    sums = distance @ member
    own = size[label]
    a = sums[np.arange(len(label)), label] / np.maximum(own - 1, 1)
    others = np.where(member > 0, np.inf, sums / size)
    b = others.min(1)
    score = np.where(own > 1, (b - a) / np.maximum(np.maximum(a, b), 1e-12), 0)
    return float(score.mean())
