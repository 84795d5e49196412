"""Domain motions: which residues move as one body between two conformations, how far, and about which axis.

Like DynDom (Hayward & Berendsen 1998) it begins with how each residue's surroundings move, groups residues whose
surroundings move alike, and takes a group for a body if it moves more than it deforms. In place of the stretch of chain
that DynDom looks at, surroundings are the nearest residues in space; groups are then mended residue by residue until
each is in that body whose motion explains it and its neighbours best.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import ClusterError, kmeans2
from scipy.spatial.transform import Rotation

from cryomorph.analysis.paths import nearest
from cryomorph.analysis.result import BodyMotion
from cryomorph.geometry import superpose

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

SURROUNDINGS = 16
"""Residues whose motion is that of the one in their middle."""
AGREEING = 8
"""Nearest residues that decide, as much as a residue itself, in which body it is."""
SMALLEST = 12
"""Residues of a body, at least; more in large molecules."""
SMALLEST_SHARE = 0.04
MOST = 6
"""Bodies."""
RIGID = 0.3
"""Å, root mean square, within which a body counts as rigid: there is nothing left to explain."""
WORTH = 0.6
"""Share of the mean square deformation that one more body may leave, to be worth it."""
ROUNDS = 30
STILL = 0.5
"""Degrees below which a rotation has no axis that can be told."""


def find_bodies(start: Array, end: Array) -> tuple[BodyMotion, ...]:
    """Find the bodies that move between two conformations.

    Parameters
    ----------
    start, end
        Coordinates of the same residues, shape (n, 3), in Å; how they lie relative to each other does not matter.

    Returns
    -------
    tuple of BodyMotion
        The largest first, which the others move against; axes are those in `start`. One where nothing moves, or where
        what moves is no body.
    """
    start, end = (np.asarray(x, dtype=np.float64) for x in (start, end))
    label = divide(start, end)
    size = np.bincount(label)
    order = np.argsort(-size, kind="stable")
    first = np.flatnonzero(label == order[0])
    rotation, translation = superpose(end[first], start[first])
    beside = end @ rotation.T + translation
    bodies = [BodyMotion(first, 0.0, 0.0, 0.0, np.array([0.0, 0.0, 1.0]), start[first].mean(0))]
    for group in order[1:]:
        rows = np.flatnonzero(label == group)
        screw = find_screw(start[rows], beside[rows])
        bodies.append(BodyMotion(rows, screw.rotation, screw.translation, screw.shift, screw.axis, screw.point))
    return tuple(bodies)


def divide(start: Array, end: Array) -> Labels:
    """Label residues (n,) by the body they are in, from 0."""
    smallest = max(SMALLEST, int(SMALLEST_SHARE * len(start)))
    label = np.zeros(len(start), dtype=np.int64)
    left = deformation(start, end, label)
    features = _local_motions(start, end)
    for count in range(2, min(MOST, len(start) // smallest) + 1):
        if left.mean() <= RIGID**2:
            break
        divided = _mend(start, end, _group(features, count), smallest)
        if divided.max() + 1 < count or not _move_more_than_they_deform(start, end, divided):
            break
        remaining = deformation(start, end, divided)
        if remaining.mean() > WORTH * left.mean():
            break
        label, left = divided, remaining
    return label


def deformation(start: Array, end: Array, label: Labels) -> Array:
    """Square distances (n,) in Å² of residues from where the rigid motion of their body takes them."""
    squares = np.empty(len(start))
    for group in np.unique(label):
        rows = np.flatnonzero(label == group)
        squares[rows] = _squares(start, end, rows)[rows]
    return squares


@dataclass(frozen=True, eq=False)
class Screw:
    """A rigid motion as a rotation about a line and a translation along it; fields as in `BodyMotion`."""

    rotation: float
    translation: float
    shift: float
    axis: Array
    point: Array


def find_screw(start: Array, end: Array) -> Screw:
    """Return the screw motion (Chasles) that takes points (r, 3) to others.

    The translation is positive along the axis, about which the rotation is right-handed. A rotation of less than half a
    degree counts as none: its axis is then the direction in which the points move.
    """
    matrix, offset = superpose(start, end)
    centre = start.mean(0)
    moved = matrix @ centre + offset - centre
    shift = float(np.linalg.norm(moved))
    vector = Rotation.from_matrix(matrix).as_rotvec()
    angle = float(np.linalg.norm(vector))
    if np.rad2deg(angle) < STILL:
        axis = moved / shift if shift > 1e-9 else np.array([0.0, 0.0, 1.0])
        return Screw(0.0, shift, shift, axis, centre)
    axis = vector / angle
    along = float(axis @ moved)
    across = moved - along * axis
    # The centre goes round the axis on an arc whose chord is `across`.
    point = centre + across / 2 + np.cross(axis, across) / (2 * np.tan(angle / 2))
    return Screw(float(np.rad2deg(angle)), along, shift, axis, point)


def _squares(start: Array, end: Array, rows: Labels) -> Array:
    """Square distances (n,) of all residues from where the motion of some takes them."""
    rotation, translation = superpose(start[rows], end[rows])
    return np.asarray(np.square(start @ rotation.T + translation - end).sum(-1))


def _local_motions(start: Array, end: Array) -> Array:
    """How the surroundings of each residue move, (n, 12), so that distances are those of the whole molecule if it did.

    A rigid motion is described by where it takes four points that lie as the molecule does.
    """
    near = nearest(start, start, SURROUNDINGS)[1]
    rotation, translation = superpose(start[near], end[near])
    centre = start.mean(0)
    _, spread, axes = np.linalg.svd(start - centre, full_matrices=False)
    corners = np.vstack([np.zeros(3), spread[:, None] / np.sqrt(len(start)) * axes]) + centre
    moved = corners @ np.swapaxes(rotation, -1, -2) + translation[:, None]
    return np.asarray(moved.reshape(len(start), -1))


def _group(features: Array, count: int) -> Labels:
    for attempt in range(10):
        try:
            generator = np.random.default_rng([count, attempt])
            _, label = kmeans2(features, count, iter=30, minit="++", rng=generator, missing="raise")
        except ClusterError:
            continue
        return np.asarray(label, dtype=np.int64)
    return np.zeros(len(features), dtype=np.int64)


def _mend(start: Array, end: Array, label: Labels, smallest: int) -> Labels:
    """Move residues to the body that explains them and their neighbours best, until none does; drop small bodies."""
    near = nearest(start, start, AGREEING)[1]
    for _ in range(ROUNDS):
        groups, size = np.unique(label, return_counts=True)
        groups = groups[size >= smallest]
        if not len(groups):
            return np.zeros(len(start), dtype=np.int64)
        misfit = np.stack([_squares(start, end, np.flatnonzero(label == group)) for group in groups])
        mended = (misfit + misfit[:, near].mean(-1)).argmin(0)
        if np.array_equal(mended, label):
            break
        label = mended
    return np.unique(label, return_inverse=True)[1]


def _move_more_than_they_deform(start: Array, end: Array, label: Labels) -> bool:
    """Tell whether each body moves, against the largest, more than the two deform (both root mean square)."""
    deformed = deformation(start, end, label)
    largest = int(np.bincount(label).argmax())
    against = _squares(start, end, np.flatnonzero(label == largest))
    still = deformed[label == largest].mean()
    others = (label == group for group in np.unique(label) if group != largest)
    return all(against[rows].mean() - deformed[rows].mean() > still + deformed[rows].mean() for rows in others)
