"""Whether the template is where the poses say, and out to which resolution images agree with it."""

import itertools

import numpy as np

from cryomorph.checks.competition import CERTAIN, CLEAR, Changes, Outcome
from cryomorph.checks.finding import Evidence, Finding
from cryomorph.checks.hypothesis import Hypothesis, Scorer, standard_errors

NAME = "docking"

TURNED = "turned"
COARSE = 14.0
"""Å by which the template is moved along axes and diagonals in the search for large displacements."""
STEPS = (6.0, 3.0, 1.5)
MOST_STEPS = 40
LEAST_GAIN = 0.001
"""Share of the nats by which a step must be better."""
SUSPECT, WRONG = 4.0, 8.0
"""Å of displacement; another conformation may well move the middle of a molecule by less."""
BANDS = (60.0, 30.0, 20.0, 15.0, 12.0, 10.0, 8.0, 7.0)
"""Å; ends of the bands of resolution in which the agreement is stated."""
_AXES = [tuple(sign * float(i == axis) for i in range(3)) for axis in range(3) for sign in (-1.0, 1.0)]
_DIAGONALS = list(itertools.product((-(3**-0.5), 3**-0.5), repeat=3))
_MOVES = [tuple(COARSE * x for x in direction) for direction in (*_AXES, *_DIAGONALS)]
_MEND = "dock the template into the consensus map of these poses, or see --template-frame"


def alternatives(base: Hypothesis, scorer: Scorer) -> Changes:
    """Return other places of the template."""
    return {
        f"moved by {', '.join(f'{value:.0f}' for value in move)} Å": {"moved": _sum(base.moved, move)}
        for move in _MOVES
        if np.linalg.norm(_sum(base.moved, move)) > STEPS[-1]
    }


def finding(outcome: Outcome) -> Finding:
    """Find the template's best place nearby and return the finding."""
    scorer, base = outcome.scorer, outcome.base
    at_random = scorer.score(base.but(random=1))
    gained, z = scorer.score(base).over(at_random)
    evidence: Evidence = {
        "nats_at_given_poses": outcome.score.mean,
        "nats_at_random_poses": at_random.mean,
        "poses_z": z,
        "images": len(scorer.sample),
    }
    evidence |= by_resolution(scorer, base)
    if not outcome.oriented:
        return _without_agreement(outcome, gained, z, evidence)
    place = climbed(scorer, base)
    distance = float(np.linalg.norm(place.moved))
    angle = float(np.rad2deg(np.linalg.norm(place.turned)))
    _, moved_z = scorer.score(place).over(scorer.score(base.but(moved=(0.0, 0.0, 0.0))))
    evidence |= {"best_place_off_angstrom": distance, "best_place_z": moved_z}
    if angle:
        evidence |= {"best_turned_degrees": angle}
        sentence = f"the template fits when it is turned by {angle:.0f}° about the map's origin"
        return Finding(NAME, "wrong", sentence, evidence, _MEND)
    if distance < SUSPECT or moved_z < CERTAIN:
        return Finding(NAME, "good", "images agree with the template at their poses", evidence)
    move = ", ".join(f"{value:.1f}" for value in place.moved)
    sentence = f"the template fits better when it is moved by ({move}) Å"
    return Finding(NAME, "wrong" if distance > WRONG else "suspect", sentence, evidence, _MEND)


def _without_agreement(outcome: Outcome, gained: float, z: float, evidence: Evidence) -> Finding:
    """Return the finding where images agree with given poses no better than with random ones."""
    if not outcome.signal:
        sentence = "nothing of the template is seen in these images: too few, too noisy, or of something else"
        return Finding(NAME, "suspect", sentence, evidence, "look at class averages; check template and pixel size")
    if z > CLEAR and gained > 0:
        return Finding(NAME, "suspect", "images hardly agree with the template at their poses", evidence, _MEND)
    sentence = "images agree with the template at their poses no better than at random ones"
    mend = f"{_MEND}; or rows of the file do not belong to the images of the stack"
    return Finding(NAME, "wrong", sentence, evidence, mend)


def by_resolution(scorer: Scorer, base: Hypothesis) -> Evidence:
    """Return the correlation of images and template in bands of resolution, at given and at random poses.

    Correlations are those of all coefficients of a band; `_z` compares the two over images.
    """
    frequency = scorer.sample.frequency
    given, at_random = scorer.score(base), scorer.score(base.but(random=1))
    found: Evidence = {}
    for low, high in itertools.pairwise(BANDS):
        shells = (frequency > 1 / low) & (frequency <= 1 / high)
        if not shells.any():
            continue
        images = _coefficients(scorer)[shells].sum()
        correlations = []
        for score in (given, at_random):
            power = score.power[:, shells].sum()
            correlations.append(float(score.cross[:, shells].sum() / np.sqrt(max(power * images, 1e-300))))
        scaled = [
            score.cross[:, shells].sum(1) / np.sqrt(max(score.power[:, shells].sum(), 1e-300))
            for score in (given, at_random)
        ]
        label = f"{low:g}-{high:g}A"
        found |= {
            f"correlation_{label}": correlations[0],
            f"random_{label}": correlations[1],
            f"z_{label}": standard_errors(scaled[0] - scaled[1]),
        }
    return found


def _coefficients(scorer: Scorer) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Return the images' power in each shell in units of the noise, which is the number of their coefficients."""
    return np.asarray(scorer.sample.shell_sums(scorer.sample.coefficients.abs().square()).sum(0).numpy())


def climbed(scorer: Scorer, base: Hypothesis) -> Hypothesis:
    """Move the template, by smaller and smaller steps, to where images agree with it best."""
    best, steps = base, 0
    for step in STEPS:
        while steps < MOST_STEPS:
            near = [best.but(moved=_sum(best.moved, [step * x for x in axis])) for axis in _AXES]
            better = max(near, key=lambda hypothesis: scorer.score(hypothesis).mean)
            steps += 1
            if scorer.score(better).mean <= scorer.score(best).mean * (1 + LEAST_GAIN):
                break
            best = better
    return best


def _sum(a: tuple[float, ...], b: "list[float] | tuple[float, ...]") -> tuple[float, float, float]:
    x, y, z = (float(p + q) for p, q in zip(a, b, strict=True))
    return x, y, z
