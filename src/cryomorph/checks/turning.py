"""The search for another orientation of the template, for one that was never docked."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from cryomorph.checks.hypothesis import Hypothesis, Scorer
from cryomorph.checks.sample import Sample
from cryomorph.progress import Progress
from cryomorph.scan.grid import super_fibonacci

IMAGES = 40
"""That orientations of the template are compared on."""
ORIENTATIONS = 300
KEPT = 3
STEPS = (12.0, 6.0, 3.0)
"""Degrees."""
MOST_STEPS = 8


def turned(scorer: Scorer, base: Hypothesis, progress: Progress) -> Hypothesis:
    """Turn the template about the map's origin to where images agree with it best.

    Parameters
    ----------
    scorer
        On all images of the sample; the search looks at a few of them.
    base
        All else.
    progress
        Told of every orientation.
    """
    few = Scorer(_some_of(scorer.sample), scorer.beads)
    tried: list[tuple[float, Hypothesis]] = []
    grid = _orientations()
    progress.start("turning the template", len(grid), "orientations")
    try:
        for vector in grid:
            hypothesis = base.but(turned=_triple(vector))
            tried.append((few.score(hypothesis).mean, hypothesis))
            progress.advance()
    finally:
        progress.finish()
    tried.sort(key=lambda trial: -trial[0])
    refined = [_climbed(few, hypothesis) for _, hypothesis in tried[:KEPT]]
    return max(refined, key=lambda hypothesis: scorer.score(hypothesis).mean)


def _climbed(scorer: Scorer, hypothesis: Hypothesis) -> Hypothesis:
    """Turn the template by smaller and smaller steps."""
    best = hypothesis
    for step in STEPS:
        for _ in range(MOST_STEPS):
            here = Rotation.from_rotvec(best.turned)
            steps = Rotation.from_rotvec(np.deg2rad(step) * np.concatenate([np.eye(3), -np.eye(3)]))
            near = [best.but(turned=_triple((turn * here).as_rotvec())) for turn in steps]
            better = max(near, key=lambda trial: scorer.score(trial).mean)
            if scorer.score(better).mean <= scorer.score(best).mean:
                break
            best = better
    return best


@lru_cache(maxsize=1)
def _orientations() -> NDArray[np.float64]:
    return np.asarray(Rotation.from_matrix(super_fibonacci(ORIENTATIONS)).as_rotvec())


def _some_of(sample: Sample) -> Sample:
    chosen = np.unique(np.linspace(0, len(sample) - 1, min(IMAGES, len(sample))).astype(np.int64))
    rows = sample.rows[chosen]
    return replace(
        sample, rows=rows, batch=sample.stack.batch(rows, images=False), coefficients=sample.coefficients[chosen]
    )


def _triple(vector: NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in vector)
    return x, y, z
