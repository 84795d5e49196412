"""Whether the contrast transfer function that the file states explains the images."""

import numpy as np

from cryomorph.checks.competition import Changes, Outcome
from cryomorph.checks.finding import Finding
from cryomorph.checks.hypothesis import Hypothesis, Scorer
from cryomorph.checks.judging import judge

NAME = "CTF"

_EXTRACT = "extract the particles again without correcting them for the CTF"
_TEXTS = {
    "none": ("the CTF of the file does not describe these images; none at all does better",
             "estimate the CTF again, and check that its columns belong to these rows"),
    "phase-flipped": ("the images have been phase-flipped", _EXTRACT),
    "multiplied": ("the images have been multiplied by their CTF", _EXTRACT),
    "sign of defocus": ("the defocus has the wrong sign; underfocus is positive",
                        "multiply rlnDefocusU and rlnDefocusV (ctf/df1_A, ctf/df2_A) by -1"),
    "defocus in nm": ("the defocus is in nm", "multiply rlnDefocusU and rlnDefocusV (ctf/df1_A, ctf/df2_A) by 10"),
}  # fmt: skip
_NANOMETRES = 6000.0
"""Å; a typical defocus in nm is below, in Å above."""


def alternatives(base: Hypothesis, scorer: Scorer) -> Changes:
    """Return other transfers, and of other defocus those that the stated one suggests."""
    found: dict[str, dict[str, float | str]] = {
        name: {"transfer": name} for name in ("none", "phase-flipped", "multiplied") if base.transfer != name
    }
    defocus = _typical_defocus(scorer)
    if defocus < 0:
        # Beside the sign of the contrast, only the amplitude contrast tells over- from underfocus.
        found["sign of defocus"] = {"defocus": -base.defocus}
    if abs(defocus) < _NANOMETRES:
        found["defocus in nm"] = {"defocus": 10 * base.defocus}
    return found


def finding(outcome: Outcome) -> Finding:
    """Return the finding."""
    return judge(outcome, NAME, _TEXTS, "the CTF helps to explain the images", needs_poses=False)


def _typical_defocus(scorer: Scorer) -> float:
    table = scorer.sample.stack.table
    return float(np.median(table.defocus_u + table.defocus_v) / 2)
