"""How sure the conformation of each particle is, and how many images hold nothing."""

from typing import Any

import numpy as np

from cryomorph.report.encoding import rounded
from cryomorph.report.histograms import histogram
from cryomorph.uncertainty import Uncertainty

JUNK = 0.5
"""Probability from which an image counts as nothing but noise."""


def certainty(posterior: Uncertainty) -> dict[str, Any]:
    """Return distributions over particles of what the run says of each."""
    return {
        "deviation": histogram(posterior.deviation),
        "information": histogram(posterior.information),
        "explained": histogram(posterior.explained),
        "junk": histogram(posterior.junk, bins=20, limits=(0.0, 1.0)),
        "junk_particles": junk_particles(posterior),
        "particles": len(posterior.junk),
        "median_deviation": rounded([np.median(posterior.deviation)])[0],
    }


def junk_particles(posterior: Uncertainty) -> int:
    """Count images that are more probably noise than not."""
    return int((posterior.junk > JUNK).sum())
