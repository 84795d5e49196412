"""What there is of each Fourier shell: noise, gain, and what is explained there."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomorph.report.encoding import rounded

MOST_GROUPS = 8
"""Optics groups that are drawn; the others are counted."""


def shells(
    calibration: Mapping[str, NDArray[np.floating]] | None,
    metrics: Sequence[Mapping[str, Any]],
    box: int,
    pixel_size: NDArray[np.floating],
) -> dict[str, Any]:
    """Return curves over spatial frequency.

    Parameters
    ----------
    calibration
        `noise`, `signal` and `frequency` (1/Å), each of shape (groups, shells); NaN frequencies mean an optics group
        without particles. None if shells were not calibrated.
    metrics
        Of each epoch; the last one that has them says what is explained.
    box, pixel_size
        Of the images: pixels along an edge, and Å of each optics group, NaN where there is none.

    Returns
    -------
    dict
        `groups`: number, frequency, noise and signal of some; `more_groups`: how many others there are; `explained`:
        frequency, work and free, in nats an image and shell, or None.
    """
    groups = [] if calibration is None else _groups(calibration)
    return {
        "groups": groups[:MOST_GROUPS],
        "more_groups": max(0, len(groups) - MOST_GROUPS),
        "explained": _explained(metrics, box, pixel_size),
    }


def _groups(calibration: Mapping[str, NDArray[np.floating]]) -> list[dict[str, Any]]:
    frequency = calibration["frequency"]
    shown = np.flatnonzero(np.isfinite(frequency).all(axis=1))
    return [
        {
            "number": int(group) + 1,
            "frequency": rounded(frequency[group, 1:]),
            "noise": rounded(calibration["noise"][group, 1:]),
            "signal": rounded(calibration["signal"][group, 1:]),
        }
        for group in shown
    ]


def _explained(
    metrics: Sequence[Mapping[str, Any]], box: int, pixel_size: NDArray[np.floating]
) -> dict[str, Any] | None:
    rows = [row for row in metrics if "work_shells" in row and "free_shells" in row]
    sizes = pixel_size[np.isfinite(pixel_size)]
    if not rows or not len(sizes):
        return None
    work, free = np.array(rows[-1]["work_shells"]), np.array(rows[-1]["free_shells"])
    # Shells without any coefficient that was kept out say nothing, not zero.
    free = np.where(np.cumsum(free != 0) == 0, np.nan, free)
    frequency = np.arange(len(work)) / (box * float(np.median(sizes)))
    names = {"frequency": frequency, "work": work, "free": free}
    return {name: rounded(values[1:]) for name, values in names.items()}
