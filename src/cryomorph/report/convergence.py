"""How training went: what `metrics.jsonl` says of each epoch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cryomorph.report.encoding import rounded

CURVES = ("work", "free", "misfit", "geometry", "latents", "learning_rate", "gain")
"""Of the metrics, as far as they are there."""

Metrics = Sequence[Mapping[str, Any]]


def convergence(metrics: Metrics, strength: float) -> dict[str, Any]:
    """Return what changes with the epochs.

    Parameters
    ----------
    metrics
        Of each epoch.
    strength
        Of the geometric priors at the end.

    Returns
    -------
    dict
        `epoch`, the curves by name, the priors' `strength`, and after which epochs shells were `calibrated`.
    """
    curves = {
        name: rounded([number(row, name) for row in metrics]) for name in CURVES if any(name in r for r in metrics)
    }
    return {
        "epoch": [int(row["epoch"]) for row in metrics],
        **curves,
        "strength": rounded(_strengths(metrics, strength)),
        "calibrated": [int(row["epoch"]) for row in metrics if row.get("calibrated")],
    }


def best_and_last(metrics: Metrics) -> tuple[float, float] | None:
    """Return the best and the last of what free coefficients say, in nats an image; None if none were kept out."""
    free = np.array([number(row, "free") for row in metrics])
    free = free[np.isfinite(free)]
    return (float(free.max()), float(free[-1])) if len(free) else None


def seconds(metrics: Metrics) -> float:
    """Return how long all epochs took."""
    return float(np.nansum([number(row, "seconds") for row in metrics]))


def number(row: Mapping[str, Any], name: str) -> float:
    """Return a metric, NaN where it is missing."""
    value = row.get(name)
    return float(value) if isinstance(value, int | float) else float("nan")


def _strengths(metrics: Metrics, at_end: float) -> list[float]:
    """Return the strength that each epoch was trained with, from what trials between epochs found and chose."""
    strengths = []
    now = at_end
    for row in reversed(metrics):
        trial = row.get("prior_strength")  # made after this epoch, with the strength of this epoch first
        if trial is not None:
            now = float(trial["tried"][0])
        strengths.append(now)
    return strengths[::-1]
