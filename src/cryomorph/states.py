"""Whether conformations form one cluster or two along a direction, beyond what the noise of their estimates hides."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

APART = 2.0
"""Widths of a cluster that lie between two of them at least: less, and their sum has one maximum."""
STRONG = 10.0
"""Difference of the Bayesian information criterion that is strong evidence (Kass & Raftery 1995)."""
VALLEY = 0.5
"""Density between two clusters, where it is lowest, as a share of that in the middle of the sparser one, at most."""
EMPTY = 0.05
"""Share of the particles that a cluster has at least."""
BEGINNINGS = ((0.25, 0.75), (0.5, 0.98), (0.02, 0.5))
"""Quantiles of the places from which two means begin."""
ROUNDS = 500
"""Of expectation and maximisation, at most."""


@dataclass(frozen=True)
class States:
    """Clusters along a direction.

    Attributes
    ----------
    count : int
        One or two.
    separation : float
        Between the means of two clusters; 0 if there is one.
    width : float
        Standard deviation of a cluster, the noise of the estimates among it.
    noise : float
        Standard deviation of the estimates' noise.
    shares : tuple of float
        Of the particles in each cluster.
    evidence : float
        By how much the information criterion favours two normal distributions over one.
    """

    count: int
    separation: float
    width: float
    noise: float
    shares: tuple[float, ...]
    evidence: float


def count_states(first: Array, second: Array) -> States:
    """Tell one cluster from two, by two independent estimates (m,) of each particle's place.

    Their difference tells the noise of their mean, than which no cluster is narrower. Two clusters must be more
    probable than one, lie apart, and have a valley between them: a motion that is spread evenly is one cluster.
    """
    place, noise = (first + second) / 2, float((first - second).std() / 2)
    one = _one(place, noise)
    two = _two(place, noise)
    evidence = 2 * (two.log_likelihood - one.log_likelihood) - 2 * float(np.log(len(place)))
    separation = two.means[1] - two.means[0]
    found = (
        evidence > STRONG
        and separation > APART * two.width
        and min(two.share, 1 - two.share) > EMPTY
        and _has_valley(place, *two.means)
    )
    if not found:
        return States(1, 0.0, one.width, noise, (1.0,), evidence)
    return States(2, separation, two.width, noise, (two.share, 1 - two.share), evidence)


@dataclass(frozen=True)
class _Fit:
    """Normal distributions of one width; the first of two has a share of the particles."""

    log_likelihood: float
    width: float
    means: tuple[float, float]
    share: float


def _one(place: Array, noise: float) -> _Fit:
    mean, width = float(place.mean()), _width(place.var(), noise)
    return _Fit(float(np.log(_normal(place, mean, width)).sum()), width, (mean, mean), 1.0)


def _two(place: Array, noise: float) -> _Fit:
    """Fit two normal distributions, from a few beginnings: either may be the rarer."""
    fits = (_two_from(place, noise, *np.quantile(place, ends)) for ends in BEGINNINGS)
    return max(fits, key=lambda fit: fit.log_likelihood)


def _two_from(place: Array, noise: float, low: float, high: float) -> _Fit:
    """Fit them by expectation and maximisation, from these means on."""
    width, share, before = _width(place.var() / 4, noise), 0.5, -np.inf
    for _ in range(ROUNDS):
        parts = np.stack([share * _normal(place, low, width), (1 - share) * _normal(place, high, width)])
        total = parts.sum(0)
        log_likelihood = float(np.log(total).sum())
        if log_likelihood - before < 1e-6:
            break
        before = log_likelihood
        weight = parts / total
        mass = np.maximum(weight.sum(1), 1e-12)
        low, high = (weight @ place) / mass
        spread = (weight * np.square(place - np.array([[low], [high]]))).sum()
        width, share = _width(spread / len(place), noise), float(mass[0] / mass.sum())
    if low > high:
        low, high, share = high, low, 1 - share
    return _Fit(log_likelihood, width, (float(low), float(high)), share)


def _width(variance: float, noise: float) -> float:
    return float(np.sqrt(max(variance, noise**2, 1e-12)))


def _normal(place: Array, mean: float, width: float) -> Array:
    density = np.exp(-0.5 * np.square((place - mean) / width)) / (width * np.sqrt(2 * np.pi))
    return np.asarray(np.maximum(density, 1e-300))


def _has_valley(place: Array, low: float, high: float) -> bool:
    """Compare the particles near both means with those where there are fewest between them.

    Windows are a third of the way wide.
    """
    reach = (high - low) / 6
    between = np.linspace(low + 2 * reach, high - 2 * reach, 9)
    left, right, *others = (int((np.abs(place - at) < reach).sum()) for at in (low, high, *between))
    fewest = min(others)
    return all(fewest < VALLEY * peak and peak - fewest > 3 * np.sqrt(peak + fewest) for peak in (left, right))
