"""How much the contrast of images differs within an optics group, by the method of moments."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cryomorph.calibration import ImageSums
from cryomorph.likelihood.base import Likelihood, ShellCalibration

logger = logging.getLogger(__name__)

LOW = 1 / 3
"""Share of the information that counts, that of the lowest shells: they hardly tell conformations apart, so that one
that is not found yet does not pass for less contrast."""
EVIDENCE = 2.0
"""Standard errors by which a variance must be larger than 0 to count."""


@dataclass(frozen=True)
class Spread:
    """Relative variance of the scales of images about their group's gain, and its standard error."""

    variance: float
    error: float

    @property
    def deviation(self) -> float:
        """Standard deviation as a share of the gain; 0 if there is no evidence of one."""
        return self.variance**0.5 if self.variance > EVIDENCE * self.error else 0.0


def update_spread(
    likelihood: Likelihood, images: ImageSums, calibration: ShellCalibration, add_up: Callable[..., None]
) -> None:
    """Let the scales of images differ by as much as their sums say, if at all, and say so.

    Parameters
    ----------
    likelihood
        Whose gain is that of the calibration.
    images
        Of this process.
    calibration
        Noise and signal of shells.
    add_up
        Adds tensors up over the processes, in place.
    """
    sums = moments(images, calibration, likelihood.gain)
    add_up(sums)
    found = spread(sums)
    likelihood.set_spread(found.deviation)
    logger.info(
        "contrast of images: relative variance %.4f ± %.4f, standard deviation taken %.2f",
        *(found.variance, found.error, found.deviation),
    )


def moments(images: ImageSums, calibration: ShellCalibration, gain: Tensor) -> Tensor:
    """Return sums over images that tell how much their scales differ, to be added up over processes; shape (5,).

    The residual of an image along its own model, `r = ⟨y, h * v⟩ - s ‖h * v‖²` in units of the noise, has the
    variance `p + τ² (s p)²` with `p = ‖h * v‖²`, the first part from noise. With `e = r² - p` and `q = (s p)²` the sums
    are those of e, q, e², e q and q².

    Parameters
    ----------
    images
        Of some images.
    calibration
        Noise and signal of shells.
    gain
        s of each group, shape (groups,).
    """
    signal, noise = calibration.signal[images.group], calibration.noise[images.group]
    information = images.model_power * signal.square() / noise
    low = information.sum(0).cumsum(0) <= LOW * information.sum()
    low[0] = True
    cross = (images.cross * signal / noise)[:, low].sum(1)
    power = information[:, low].sum(1)
    own = gain[images.group]
    excess, weight = (cross - own * power).square() - power, (own * power).square()
    terms = (excess, weight, excess.square(), excess * weight, weight.square())
    return torch.stack([term.sum() for term in terms])


def spread(moments: Tensor) -> Spread:
    """Estimate τ², the relative variance of scales, from sums over images: `Σ e / Σ q`, with its sampling error."""
    excess, weight, squared, mixed, weight_squared = moments.tolist()
    if weight == 0:
        return Spread(0.0, 0.0)
    variance = excess / weight
    scatter = squared - 2 * variance * mixed + variance**2 * weight_squared
    return Spread(variance, max(scatter, 0.0) ** 0.5 / weight)
