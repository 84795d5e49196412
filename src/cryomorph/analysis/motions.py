"""Motions to play: along each component, and along the path that the particles take.

Every conformation of a motion is decoded from latents that are an average over particles near one place, so that it is
one that the particles have, and their noise averages out.
"""

import logging

import numpy as np
from numpy.typing import NDArray

from cryomorph.analysis.ensemble import Ensemble, evenly_spaced
from cryomorph.analysis.paths import density_path
from cryomorph.analysis.result import Components, Motion

logger = logging.getLogger(__name__)

Array = NDArray[np.floating]

SAMPLE = 50_000
"""Particles that conformations are averages of, at most."""
SHARE = 0.01
"""Of all variance that a component has at least to be gone along: less is not what such a motion would show."""
CANDIDATES = 60
"""Particles that each step of a motion may go through."""
FEWEST = 10
"""Particles that count, where hardly any are near."""
TURNING = 20.0
"""What a turn costs, against as much distance from the median of the particles near a step."""
WIDTH = 0.5
"""Of the average, in steps of the motion, but never less than the distance of the tenth particle."""
ASTRAY = 2.0
"""Widths that an average may be from its place; further off, the nearest particle stands for it."""


def find_motions(
    ensemble: Ensemble,
    components: Components,
    places: Array,
    *,
    traversals: int,
    steps: int,
    percentiles: tuple[float, float],
) -> tuple[Motion, ...]:
    """Return the motions `pc1` … along the first components, and `path` along the density of the particles.

    Components with less than a hundredth of all variance are left out, but for the first.

    Parameters
    ----------
    ensemble
        Of m particles.
    components
        Of its conformations.
    places
        Of the particles along them, shape (m, k), Å.
    traversals
        Components that are gone along, at most.
    steps
        Conformations of each motion.
    percentiles
        Of the particles, between which a motion goes.
    """
    rows = evenly_spaced(len(ensemble), SAMPLE)
    places, latents = places[rows].astype(np.float64), ensemble.latents[rows]
    motions = []
    wanted = [rank for rank, share in enumerate(components.share[:traversals]) if rank == 0 or share >= SHARE]
    if len(wanted) < traversals:
        logger.info("motions along %d components: the others have less than 1 %% of the variance", len(wanted))
    for component in wanted:
        targets = along_component(places, component, steps, percentiles)
        z, x = _conformations(ensemble, components, places, latents, targets)
        motions.append(Motion(f"pc{component + 1}", project(components, x)[:, component], z, x))
    targets = density_path(places, steps, percentiles)
    z, x = _conformations(ensemble, components, places, latents, targets)
    return (*motions, Motion("path", np.linspace(0, 1, steps), z, x))


def along_component(places: Array, component: int, steps: int, percentiles: tuple[float, float]) -> NDArray[np.float64]:
    """Choose places (steps, k) at equal distances along a component, where particles are.

    Each step is at the place of a particle near it, but for the component itself. Of all ways through such particles it
    is the one of least squares, of its turns aside and of the distances from the median of the particles near each
    step: where they are in two arms, it stays in one.
    """
    along = places[:, component]
    low, high = np.percentile(along, percentiles)
    targets = np.linspace(float(low), float(high), steps)
    reach = (targets[-1] - targets[0]) / (2 * max(steps - 1, 1))
    others = np.delete(places, component, axis=1)
    candidates = [_near(along, target, reach) for target in targets]
    best, cost = [], np.zeros(len(candidates[0]))
    for step, rows in enumerate(candidates):
        if step:
            turns = TURNING * np.square(others[rows][:, None] - others[candidates[step - 1]]).sum(-1) + cost
            best.append(turns.argmin(1))
            cost = turns.min(1)
        cost = cost + np.square(others[rows] - np.median(others[rows], axis=0)).sum(-1)
    chosen = [int(cost.argmin())]
    for previous in reversed(best):
        chosen.append(int(previous[chosen[-1]]))
    way = places[[rows[at] for rows, at in zip(candidates, reversed(chosen), strict=True)]]
    way[:, component] = targets
    return np.asarray(way)


def project(components: Components, coordinates: Array) -> NDArray[np.float64]:
    """Return the places (b, k) in Å of conformations (b, n, 3) along the components."""
    moved = (coordinates - components.mean).reshape(len(coordinates), -1)
    modes = components.modes.reshape(len(components.modes), -1)
    return np.asarray(moved @ modes.T / np.sqrt(len(components.mean)), dtype=np.float64)


def _near(along: Array, target: float, reach: float) -> NDArray[np.int64]:
    """Rows of particles within reach of a place along a component, or of the nearest if they are few."""
    distance = np.abs(along - target)
    rows = np.flatnonzero(distance <= reach)
    if len(rows) < FEWEST:
        rows = np.sort(np.argsort(distance, kind="stable")[:FEWEST])
    return rows[evenly_spaced(len(rows), CANDIDATES)]


def _conformations(
    ensemble: Ensemble, components: Components, places: Array, latents: Array, targets: Array
) -> tuple[Array, Array]:
    """Return latents (s, d) and coordinates (s, n, 3) near places (s, k)."""
    lengths = np.linalg.norm(np.diff(targets, axis=0), axis=1)
    width = max(WIDTH * float(lengths.mean()), 1e-6)
    nearest = np.empty(len(targets), dtype=np.int64)
    averages = np.empty((len(targets), latents.shape[1]), dtype=np.float32)
    widths = np.empty(len(targets))
    centres = targets.copy()
    for step, target in enumerate(targets):
        distance = np.linalg.norm(places - target, axis=1)
        nearest[step] = distance.argmin()
        if distance[nearest[step]] > width:  # in a gap, an average of both sides is what no particle has
            centres[step] = places[nearest[step]]
            distance = np.linalg.norm(places - centres[step], axis=1)
        widths[step] = max(width, float(np.partition(distance, FEWEST - 1)[FEWEST - 1]))
        weight = np.exp(-0.5 * np.square(distance / widths[step]))
        averages[step] = (weight / weight.sum()) @ latents
    coordinates = ensemble.decode(averages)
    off = np.linalg.norm(project(components, coordinates) - centres, axis=1)
    astray = np.flatnonzero(off > ASTRAY * widths)
    if len(astray):
        averages[astray] = latents[nearest[astray]]
        coordinates[astray] = ensemble.decode(averages[astray])
    return averages, coordinates
