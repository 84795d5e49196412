"""Whether poses and template have the same hand.

Projections alone have none: only poses, which refer to a map, and the template docked into it can disagree.
"""

from cryomorph.checks.competition import Changes, Outcome
from cryomorph.checks.finding import Finding
from cryomorph.checks.hypothesis import MIRRORS, Hypothesis, Scorer
from cryomorph.checks.judging import judge

NAME = "hand"

_MENDS = {
    "z": "change the sign of every rlnAngleTilt, or flip the hand of the map and refine again",
    "x": "flip the hand of the map, refine again and dock the template anew",
    "y": "flip the hand of the map, refine again and dock the template anew",
    "all": "flip the hand of the map, refine again and dock the template anew",
}


def alternatives(base: Hypothesis, scorer: Scorer) -> Changes:
    """Return the mirror images of the template along each axis, and its inversion."""
    return {f"mirrored {axis}": {"mirror": axis} for axis in MIRRORS if axis != base.mirror}


def finding(outcome: Outcome) -> Finding:
    """Return the finding."""
    texts = {
        f"mirrored {axis}": ("at these poses the images show the mirror image of the template", mend)
        for axis, mend in _MENDS.items()
    }
    return judge(outcome, NAME, texts, "poses and template have the same hand")
