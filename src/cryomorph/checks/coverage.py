"""Whether views cover all directions."""

import numpy as np
from numpy.typing import NDArray

from cryomorph.checks.finding import Evidence, Finding
from cryomorph.checks.sample import spread
from cryomorph.geometry import angle_between
from cryomorph.particles.stack import ParticleStack

NAME = "orientations"

DIRECTIONS = 1000
BAND = 0.1
"""Sine of the half width of the great circle that a view is taken to cover."""
LEAST_VIEWS = 100
VIEWS = 100_000
"""That are looked at, evenly spaced, if there are more."""
VIEWS_AT_ONCE = 10_000
SUSPECT, UNCOVERED = 0.5, 0.05
SAME = np.deg2rad(0.5)
DISTINCT = 100
"""Rotations that are compared with the first."""


def finding(stack: ParticleStack) -> Finding:
    """Return the finding, from the rotations of all particles."""
    rotation = stack.table.rotation
    if rotation is None:
        return Finding(NAME, "not tested", "the particles have no poses")
    some = spread(rotation, DISTINCT)
    if len(stack) > 1 and (angle_between(some, some[:1]) < SAME).all():
        return Finding(
            NAME, "wrong", "all particles have the same orientation", {"views": len(stack)},
            "give the file of a refinement, or let poses be found by --poses search",
        )  # fmt: skip
    if len(stack) < LEAST_VIEWS:
        return Finding(NAME, "not tested", f"fewer than {LEAST_VIEWS} views do not tell", {"views": len(stack)})
    sampling = sampled(spread(rotation[:, 2], VIEWS))
    expected = sampling.mean()
    compensation = float(1 / np.mean(1 / np.maximum(sampling / expected, 1e-2)))
    uncovered = float((sampling < UNCOVERED * expected).mean())
    evidence: Evidence = {
        "views": len(stack),
        "sampling_compensation_factor": compensation,
        "share_of_directions_hardly_seen": uncovered,
        "least_sampling_over_mean": float(sampling.min() / expected),
    }
    if compensation < SUSPECT or uncovered > UNCOVERED:
        sentence = "views leave directions out: motions along them are hardly seen"
        mend = "merge particles of a tilted data set, or thin out the crowded views by --indices"
        return Finding(NAME, "suspect", sentence, evidence, mend)
    return Finding(NAME, "good", "views cover all directions", evidence)


def sampled(view: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how often directions spread over the sphere are seen, shape (`DIRECTIONS`,).

    By the central slice theorem a view along d tells about Fourier coefficients at right angles to d.

    Parameters
    ----------
    view
        Directions of view in the map frame, unit vectors, shape (m, 3).
    """
    number = np.arange(DIRECTIONS) + 0.5
    height = 1 - number / DIRECTIONS  # a hemisphere: opposite directions are seen together
    turn = np.pi * (1 + np.sqrt(5)) * number
    radius = np.sqrt(1 - height**2)
    directions = np.stack([radius * np.cos(turn), radius * np.sin(turn), height])
    seen = np.zeros(DIRECTIONS)
    for start in range(0, len(view), VIEWS_AT_ONCE):
        seen += (np.abs(view[start : start + VIEWS_AT_ONCE] @ directions) < BAND).sum(0)
    return seen
