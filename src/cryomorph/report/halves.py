"""What two independent runs on the halves of the data agree on."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomorph.report.encoding import packed
from cryomorph.report.histograms import histogram


def agreement(numbers: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Return the verdict, the numbers and the curves of a comparison of halves.

    Parameters
    ----------
    numbers
        Of `halves.json`.
    arrays
        Of `halves.npz`.
    """
    places = arrays["places"].mean(axis=1)
    # The squares are known, with an error; about zero they may be negative.
    square, error = np.square(arrays["motion"]), arrays["covariance_error"]
    low, high = (np.sqrt(np.maximum(square + sign * 2 * error, 0)) for sign in (-1, 1))
    return {
        "verdict": str(numbers["verdict"]),
        "resolved": bool(numbers["motion"]["resolved"]),
        "numbers": {name: numbers[name] for name in ("motion", "agreement", "mean", "states")},
        "compared": int(numbers["particles_compared"]),
        "motion": packed(arrays["motion"]),
        "low": packed(low),
        "high": packed(high),
        "between_models": packed(arrays["rmsd_between_models"]),
        "places": histogram(places),
    }
