"""Whether protein is bright."""

from cryomorph.checks.competition import Changes, Outcome
from cryomorph.checks.finding import Finding
from cryomorph.checks.hypothesis import Hypothesis, Scorer
from cryomorph.checks.judging import judge

NAME = "contrast"


def alternatives(base: Hypothesis, scorer: Scorer) -> Changes:
    """Return the other sign."""
    return {"inverted": {"sign": -base.sign}}


def finding(outcome: Outcome, *, inverted: bool) -> Finding:
    """Return the finding.

    Parameters
    ----------
    outcome
        Of the competition.
    inverted
        Whether the user asked for the contrast to be flipped.
    """
    mend = "leave out --invert" if inverted else "--invert"
    texts = {"inverted": ("protein is dark in the images where it should be bright", mend)}
    return judge(outcome, NAME, texts, "protein is bright in the images, as it should be", needs_poses=False)
