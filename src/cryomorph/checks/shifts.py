"""Whether shifts have the right sign and unit."""

import numpy as np

from cryomorph.checks.competition import Changes, Outcome
from cryomorph.checks.finding import Finding
from cryomorph.checks.hypothesis import Hypothesis, Scorer
from cryomorph.checks.judging import judge

NAME = "shifts"

LEAST = 0.5
"""Å, root mean square, below which shifts say nothing."""
_DISTINCT = 0.15
"""Difference of a pixel from 1 Å below which their units cannot be told apart."""

_TEXTS = {
    "none": ("images are better without the shifts that the file states",
             "set the origins to 0 if the images were centred when they were extracted"),
    "negated": ("shifts have the wrong sign", "multiply rlnOriginXAngst, rlnOriginYAngst (alignments3D/shift) by -1"),
    "swapped": ("x and y of the shifts are swapped", "swap the two columns of origins"),
    "pixels": ("shifts are in pixels where Å are expected",
               "multiply rlnOriginXAngst, rlnOriginYAngst by the pixel size (cs: check alignments3D/psize_A)"),
    "angstrom": ("shifts are in Å where pixels are expected",
                 "rename rlnOriginX, rlnOriginY to rlnOriginXAngst, rlnOriginYAngst (cs: check alignments3D/psize_A)"),
}  # fmt: skip


def alternatives(base: Hypothesis, scorer: Scorer) -> Changes:
    """Return no shifts, others in sign, and others in unit, where there are shifts to tell."""
    if root_mean_square(scorer) < LEAST:
        return {}
    names = ["none", "negated", "swapped"]
    if abs(np.log(float(scorer.sample.batch.pixel_size.median()))) > _DISTINCT:
        names += ["pixels", "angstrom"]
    return {name: {"shift": name} for name in names if name != base.shift}


def finding(outcome: Outcome) -> Finding:
    """Return the finding."""
    if outcome.mistake(NAME) is None and not outcome.rivals.get(NAME):
        size = {"root_mean_square_angstrom": root_mean_square(outcome.scorer)}
        return Finding(NAME, "not tested", "the particles have no shifts to speak of", size)
    return judge(outcome, NAME, _TEXTS, "shifts have the right sign and unit")


def root_mean_square(scorer: Scorer) -> float:
    """Return the size of the shifts in Å."""
    return float(np.sqrt(np.square(scorer.sample.stack.table.shift).sum(1).mean()))
