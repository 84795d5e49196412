"""Whether rotations mean what they should, and images are the right way up."""

from cryomorph.checks.competition import Changes, Outcome
from cryomorph.checks.finding import Finding
from cryomorph.checks.hypothesis import FLIPS, Hypothesis, Scorer
from cryomorph.checks.judging import judge

NAME = "rotations"

_TEXTS = {
    "inverse": (
        "rotations are the inverse of what they should be",
        "star: write -psi, -tilt, -rot for rot, tilt, psi (rlnAngleRot ...); cs: multiply alignments3D/pose by -1",
    ),
    "rows": ("images are upside down against their poses", "write the stack with the rows of each image reversed"),
    "columns": (
        "images are mirrored left to right against their poses",
        "write the stack with the columns of each image reversed",
    ),
    "swapped": ("images have x and y swapped against their poses", "write the stack with every image transposed"),
}


def alternatives(base: Hypothesis, scorer: Scorer) -> Changes:
    """Return inverse rotations, and what can happen to the axes of images."""
    axes = {flip: {"flip": flip} for flip in FLIPS if flip != base.flip}
    return {"inverse": {"transposed": not base.transposed}, **axes}


def finding(outcome: Outcome) -> Finding:
    """Return the finding."""
    return judge(outcome, NAME, _TEXTS, "rotations and the images' axes are as they should be")
