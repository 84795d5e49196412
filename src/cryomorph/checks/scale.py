"""Whether the pixel size is right: the template is a ruler, and so is the contrast transfer function."""

import numpy as np

from cryomorph.checks.competition import CERTAIN, Changes, Outcome
from cryomorph.checks.finding import Evidence, Finding, Verdict
from cryomorph.checks.hypothesis import Hypothesis, Scorer
from cryomorph.progress import Progress

NAME = "pixel size"

COARSE = (0.5, 0.67, 0.8, 1.25, 1.5, 2.0)
FINE = tuple(np.round(np.arange(0.86, 1.1601, 0.03), 4))
"""Factors to the pixel size."""
LIMITS = {True: (0.04, 0.08, 0.05), False: (0.08, 0.15, 0.15)}
"""Deviations from 1 that are suspect and wrong, and the share of the nats that must be gained, by whether the CTF has
the other pixel size, too.

Zeros of the CTF do not depend on the molecule's conformation. The template's own size does: another conformation may
well be some per cent larger.
"""


def alternatives(base: Hypothesis, scorer: Scorer) -> Changes:
    """Return pixel sizes that are wrong by much."""
    return {
        f"{factor:g}{'' if scaled else ' but for the CTF'}": {"scale": factor, "optics_scaled": scaled}
        for factor in COARSE
        for scaled in (True, False)
        if factor != base.scale
    }


def sharpened(scorer: Scorer, base: Hypothesis) -> Hypothesis:
    """Return the pixel size near that of a hypothesis at which images agree with it best."""
    factors = base.scale * np.array(FINE)
    nats = np.array([scorer.score(base.but(scale=float(factor))).mean for factor in factors])
    return base.but(scale=_maximum(factors, nats))


def finding(outcome: Outcome, progress: Progress) -> Finding:
    """Scan the pixel size about the best one so far and return the finding."""
    if not outcome.oriented:
        return Finding(NAME, "not tested", "images and poses do not agree, see docking")
    scorer, base = outcome.scorer, outcome.base
    factors = [float(base.scale * factor) for factor in FINE]
    scans = {scaled: np.empty(len(factors)) for scaled in (True, False)}
    progress.start("scanning the pixel size", len(factors), "sizes")
    try:
        for place, factor in enumerate(factors):
            for scaled, nats in scans.items():
                nats[place] = scorer.score(base.but(scale=factor, optics_scaled=scaled)).mean
            progress.advance()
    finally:
        progress.finish()
    as_given = scorer.score(base.but(scale=1.0))
    stated = float(np.median(scorer.sample.stack.table.pixel_size))
    evidence: Evidence = {"stated_angstrom": stated, "nats_as_given": as_given.mean}
    verdicts: dict[bool, Verdict] = {}
    best: dict[bool, float] = {}
    for scaled, nats in scans.items():
        best[scaled] = _maximum(np.array(factors), nats)
        score = scorer.score(base.but(scale=best[scaled], optics_scaled=scaled))
        gained, z = score.over(as_given)
        name = "" if scaled else "_but_for_ctf"
        evidence |= {f"best_factor{name}": best[scaled], f"nats_gained{name}": gained, f"gained_z{name}": z}
        verdicts[scaled] = _verdict(abs(best[scaled] - 1), gained / max(score.mean, 1e-9), z, LIMITS[scaled])
    worst = max(verdicts, key=lambda scaled: ("good", "suspect", "wrong").index(verdicts[scaled]))
    if verdicts[worst] == "good":
        return Finding(NAME, "good", "template and images agree in the pixel size", evidence)
    size = stated * best[worst]
    sentence = f"images and template fit best at {size:.3g} Å a pixel, not {stated:.4g}"
    mend = f"--pixel-size {size:.3g}"
    if not worst:
        mend += f", with defocus values multiplied by {best[worst] ** 2:.3g}, or a template of another conformation"
    return Finding(NAME, verdicts[worst], sentence, evidence, mend)


def _verdict(off: float, share: float, z: float, limits: tuple[float, float, float]) -> Verdict:
    suspect, wrong, least = limits
    if z < CERTAIN or off < suspect or share < least:
        return "good"
    return "wrong" if off > wrong else "suspect"


def _maximum(
    factors: np.ndarray[tuple[int, ...], np.dtype[np.float64]], nats: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
) -> float:
    """Return where a curve is highest, by the parabola through the three points about its largest value."""
    place = int(np.clip(np.argmax(nats), 1, len(nats) - 2))
    left, middle, right = nats[place - 1 : place + 2]
    bend = left - 2 * middle + right
    step = 0.0 if bend >= 0 else float(np.clip(0.5 * (left - right) / bend, -1, 1))
    return float(factors[place] + step * (factors[1] - factors[0]))
