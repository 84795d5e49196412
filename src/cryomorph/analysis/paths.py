"""The path that particles take through conformations, however it bends.

A graph joins each particle to its nearest. A length squared makes one long jump dearer than many short ones, so that
the shortest path between two particles stays where particles are (Fermat distance; Groisman, Jonckheere & Sapienza
2022). The two that are farthest from each other are the ends. The path between them is then moved to where the
particles near it are on average, as a principal curve is (Hastie & Stuetzle 1989).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, dijkstra
from scipy.spatial import cKDTree

from cryomorph.analysis.ensemble import Rows, evenly_spaced

Array = NDArray[np.floating]

SAMPLE = 4000
"""Particles in the graph, at most."""
NEIGHBOURS = 10
SPARSE = 0.05
"""Share of the particles, those with the farthest neighbours, through which no path goes."""
GRAIN = 100
"""Points of the curve while it is moved."""
ROUNDS = 5
SMOOTH = 0.05
"""Of the curve's length, over which particles are averaged."""
REACH, LEVEL = 2.5, 0.1
"""Of the average, in units of its width, and how little a line through particles to one side of a place may slope."""


def density_path(places: Array, steps: int, percentiles: tuple[float, float]) -> NDArray[np.float64]:
    """Return places (steps, k) at equal distances along the path of the particles, ascending in the first component.

    Parameters
    ----------
    places
        Of particles along the components, shape (m, k), Å.
    steps
        On the path.
    percentiles
        Of the particles, ordered along the path, between which it goes.
    """
    sample = places[evenly_spaced(len(places), SAMPLE)].astype(np.float64)
    if np.ptp(sample, axis=0).max() < 1e-6:
        return np.repeat(sample.mean(0)[None], steps, axis=0)
    kept = _dense(sample)
    curve = resample(kept[farthest_path(kept)], GRAIN)
    for _ in range(ROUNDS):
        curve = _to_local_line(curve, kept)
    along = arc_position(curve, kept)
    low, high = np.percentile(along, percentiles)
    path = resample(curve, steps, low, high)
    return path if path[0, 0] <= path[-1, 0] else path[::-1]


def farthest_path(points: Array) -> Rows:
    """Return the rows of points (s, k) on the shortest path between the two that are farthest from each other."""
    graph = _graph(points)
    start = end = 0
    before = np.empty(0, dtype=np.int64)
    for _ in range(3):  # to the farthest from anywhere, and from there, is nearly the longest
        lengths, before = (found[0] for found in dijkstra(graph, False, [end], True))
        start, end = end, int(lengths.argmax())
    rows = [end]
    while rows[-1] != start:
        rows.append(int(before[rows[-1]]))
    return np.array(rows[::-1])


def resample(curve: Array, count: int, low: float = 0.0, high: float = 1.0) -> NDArray[np.float64]:
    """Return points (count, k) at equal distances on a polyline (p, k), between two shares of its length."""
    lengths = np.linalg.norm(np.diff(curve, axis=0), axis=1)
    at = np.concatenate([[0.0], np.cumsum(lengths)]) / max(lengths.sum(), 1e-12)
    wanted = np.linspace(low, high, count)
    return np.stack([np.interp(wanted, at, column) for column in curve.T], axis=1)


def arc_position(curve: Array, points: Array) -> NDArray[np.float64]:
    """Return where on a curve (p, k) of equal steps each point (s, k) is nearest, as a share of its length."""
    fine = resample(curve, 4 * len(curve))
    return nearest(fine, points, 1)[1][:, 0] / (len(fine) - 1)


def nearest(points: Array, queries: Array, count: int) -> tuple[NDArray[np.float64], Rows]:
    """Return distances and rows (q, count) of the points nearest to each query, or of all points if they are fewer."""
    distance, rows = cKDTree(points).query(queries, [*range(1, min(count, len(points)) + 1)])
    return np.asarray(distance), np.asarray(rows)


def _dense(points: Array) -> Array:
    """Leave out the points whose neighbours are farthest."""
    farthest = nearest(points, points, NEIGHBOURS + 1)[0][:, -1]
    return points[farthest <= np.quantile(farthest, 1 - SPARSE)]


def _graph(points: Array) -> Any:
    """Join each point to its neighbours, and groups of points that are apart where they are nearest to each other."""
    distance, neighbour = nearest(points, points, NEIGHBOURS + 1)
    rows = np.repeat(np.arange(len(points)), neighbour.shape[1] - 1)
    graph = _sparse(rows, neighbour[:, 1:].ravel(), distance[:, 1:].ravel(), len(points))
    _, label = connected_components(graph, directed=False)
    joined = label == label[0]
    while not joined.all():
        inside, outside = np.flatnonzero(joined), np.flatnonzero(~joined)
        gap, across = nearest(points[inside], points[outside], 1)
        at = int(gap.argmin())
        graph = graph + _sparse(outside[[at]], inside[across[at]], gap[at], len(points))
        joined |= label == label[outside[at]]
    return graph


def _sparse(rows: Rows, columns: Rows, distance: Array, count: int) -> Any:
    # A length of zero would be no edge.
    return csr_array((np.square(distance) + 1e-12, (rows, columns)), shape=(count, count))


def _to_local_line(curve: Array, points: Array) -> NDArray[np.float64]:
    """Move each place of a curve onto a line fitted to the points near it, and make the curve's steps equal.

    A line, where a mean would draw the ends inwards.
    """
    away = arc_position(curve, points) - np.linspace(0, 1, len(curve))[:, None]
    away /= SMOOTH
    weight = np.where(np.abs(away) < REACH, np.exp(-0.5 * np.square(away)), 0)
    total, first, second = (weight.sum(1), (weight * away).sum(1), (weight * away**2).sum(1))
    weight = weight * (second[:, None] - first[:, None] * away + LEVEL * total[:, None])
    fitted = weight @ points / np.maximum(weight.sum(1), 1e-300)[:, None]
    # In a gap, where no points are near, the curve stays.
    trust = (total / (total + 1))[:, None]
    return resample(trust * fitted + (1 - trust) * curve, len(curve))
