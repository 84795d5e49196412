"""How sure the conformation of each particle is, and how many images hold nothing."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomorph.report.encoding import rounded
from cryomorph.report.histograms import histogram
from cryomorph.uncertainty import Uncertainty

EVEN = 0.5
"""Probability above which something is more probable than not."""


def certainty(posterior: Uncertainty) -> dict[str, Any]:
    """Return distributions over particles of what the run says of each."""
    return {
        "deviation": histogram(posterior.deviation),
        "information": histogram(posterior.information),
        "explained": histogram(posterior.explained),
        "junk": histogram(posterior.junk, bins=20, limits=(0.0, 1.0)),
        "junk_particles": more_likely(posterior.junk),
        "misplaced_particles": more_likely(posterior.elsewhere),
        "particles": len(posterior.junk),
        "median_deviation": rounded([np.median(posterior.deviation)])[0],
    }


def more_likely(probability: NDArray[np.floating]) -> int:
    """Count particles of which something is more probable than not."""
    return int((probability > EVEN).sum())
