"""The strength of the geometric priors, chosen by what free coefficients say of the motion.

A strength is tried by training on with it for a part of an epoch, from where training stands, and taken back. The free
coefficients of an image tell how much better its own conformation explains them than the mean of all conformations
does. That difference is motion. What all images have in common is left out on purpose: a weak prior lets the mean
conformation make up for whatever the beads lack, and free coefficients reward it, though atoms move away from where
they are (docs/method.md).
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cryomorph.components import Settings
from cryomorph.held_out import HeldOut

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]

MOST_OF_TRIAL = 8192
"""Images at most that a strength is tried on."""
START = 100.0
"""Strength that training begins with, unless one is given."""


class TrialSettings(Settings):
    """When and how long strengths are tried, and what decides."""

    after: tuple[float, ...] = Field((0.3, 0.6), description="shares of the epochs after which strengths are tried")
    again: float = Field(0.1, gt=0, description="share of the epochs after which a change is tried to be carried on")
    last: float = Field(0.8, description="share of the epochs after which nothing is tried any more")
    factor: float = Field(3.0, gt=1, description="by which the strength is raised and lowered")
    share: float = Field(0.25, gt=0, le=1, description="of an epoch that each strength is tried for")
    images: int = Field(
        512, ge=2, description="images at most whose free coefficients decide; all of them are trained on"
    )
    tolerance: float = Field(0.01, ge=0, description="share of the motion's nats that a stronger prior may cost")

    def epochs(self, total: int) -> set[int]:
        """Return the epochs after which strengths are tried in any case, of so many in all."""
        return {epoch for share in self.after if 0 < (epoch := round(share * total)) < total}

    def carried_on(self, epoch: int, total: int) -> int:
        """Return the epoch after which a change made after `epoch` is tried to be carried on; 0: never."""
        following = epoch + max(1, round(self.again * total))
        return following if following <= self.last * total else 0


class StrengthTrials:
    """When strengths are tried, which, and on which particles.

    A change is tried to be carried on in its direction soon.

    Parameters
    ----------
    held_out
        Images whose free coefficients decide.
    settings
        When, how long.
    owned
        Which particles are this process's, shape (m,).
    seed
        Of the choice of the other particles.

    Attributes
    ----------
    images : int
        On which a strength is tried, in all processes together.
    carry_on : dict
        `epoch` after which the newest change is tried to be carried on, and the `factor` by which it was made.
    """

    def __init__(self, held_out: HeldOut, settings: TrialSettings, owned: NDArray[np.bool_], seed: int) -> None:
        self.held_out, self.settings, self.seed = held_out, settings, seed
        self.others = np.setdiff1d(np.flatnonzero(owned), held_out.own)
        self.images = max(len(held_out.rows), min(round(settings.share * len(owned)), MOST_OF_TRIAL))
        self.more = min(max(round(self.images * owned.mean()) - len(held_out.own), 0), len(self.others))
        self.carry_on = {"epoch": 0.0, "factor": 1.0}

    def factors(self, epoch: int, total: int) -> tuple[float, ...]:
        """Return by how much the strength is to be changed in trials after an epoch, of so many; nothing if in none."""
        if epoch in self.settings.epochs(total):
            return 1 / self.settings.factor, self.settings.factor
        return (self.carry_on["factor"],) if epoch == self.carry_on["epoch"] else ()

    def decided(self, choice: "Choice", epoch: int, total: int) -> None:
        """Take note of what was chosen after an epoch."""
        factor = choice.chosen / choice.tried[0]
        following = self.settings.carried_on(epoch, total) if factor != 1 else 0
        self.carry_on = {"epoch": float(following), "factor": factor}

    def rows(self, epoch: int) -> NDArray[np.int64]:
        """Return the particles of a trial in their order: those that decide and some of the others, mixed."""
        generator = np.random.default_rng(np.random.SeedSequence([self.seed, epoch]))
        more = generator.choice(self.others, self.more, replace=False)
        return generator.permutation(np.concatenate([self.held_out.own, more]))


@dataclass(frozen=True)
class Choice:
    """What was tried, what came of it and what was chosen.

    Attributes
    ----------
    tried : tuple of float
        Strengths: first the one so far.
    motion : tuple of float
        Nats by which an image's own conformation explains it better than the mean of all does, for each.
    change, error : tuple of float
        Difference to the first in the same images, and its standard error.
    chosen : float
    """

    tried: tuple[float, ...]
    motion: tuple[float, ...]
    change: tuple[float, ...]
    error: tuple[float, ...]
    chosen: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name, numbers rounded for reading."""
        return {name: _rounded(value) for name, value in vars(self).items()}

    def __str__(self) -> str:
        said = (
            f"{strength:g}: {change:+.2f} ± {error:.2f}"
            for strength, change, error in zip(self.tried[1:], self.change[1:], self.error[1:], strict=True)
        )
        what = "stays" if self.chosen == self.tried[0] else f"becomes {self.chosen:g}"
        return f"prior strength {self.tried[0]:g} {what} (motion {self.motion[0]:.2f} nats/image; {', '.join(said)})"


def choose(
    strength: float, factors: Sequence[float], motion_at: Callable[[float], Array], settings: TrialSettings
) -> Choice:
    """Try weaker or stronger priors, and take the strongest that costs no motion.

    Parameters
    ----------
    strength
        So far.
    factors
        By which it is changed, weaker ones first.
    motion_at
        Nats of motion of each of the same images (m,), when training goes on with a strength.
    settings
        What decides: a stronger prior is taken unless the motion falls by more than the tolerance or its standard
        error, a weaker one if the motion rises by more than the tolerance and twice its standard error.
    """
    tried = (strength, *(strength * factor for factor in factors))
    motion = [motion_at(each) for each in tried]
    change = [motions - motion[0] for motions in motion]
    mean = [float(values.mean()) for values in change]
    error = [float(values.std(ddof=1) / np.sqrt(len(values))) for values in change]
    tolerance = settings.tolerance * max(float(motion[0].mean()), 0.0)
    chosen = tried[0]
    for other, gained, sure in zip(tried[1:], mean[1:], error[1:], strict=True):
        if other < strength and gained > max(tolerance, 2 * sure):
            chosen = other
            break
        if other > strength and gained > -max(tolerance, sure):
            chosen = other
    choice = Choice(tried, tuple(float(values.mean()) for values in motion), tuple(mean), tuple(error), chosen)
    logger.info("%s", choice)
    return choice


def _rounded(value: Any) -> Any:
    return [_rounded(each) for each in value] if isinstance(value, tuple) else float(f"{value:.4g}")
