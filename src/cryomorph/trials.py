"""The strength of the geometric priors, chosen by what free coefficients say of the motion.

A strength is tried by training on with it for a part of an epoch, from where training stands, and taken back. The free
coefficients of some images tell how well they are explained, and how much better its own conformation explains an image
than the mean of all conformations does: that difference is motion. Small gains do not count: a weak prior lets the mean
conformation make up for whatever the beads lack, and free coefficients reward it a little, though atoms move away from
where they are (docs/method.md).
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
SAME = 1.01
"""By which strengths may differ that count as the same."""
START = 100.0
"""Strength that training begins with, unless one is given, and the strongest that is chosen: where images say little of
their differences, nothing would hold a stronger one back (docs/benchmarks.md)."""


class TrialSettings(Settings):
    """When and how long strengths are tried, and what decides."""

    after: tuple[float, ...] = Field((0.2, 0.6), description="shares of the epochs after which strengths are tried")
    again: float = Field(0.1, gt=0, description="share of the epochs after which a change is tried to be carried on")
    last: float = Field(0.7, description="share of the epochs after which nothing is tried any more")
    factor: float = Field(3.0, gt=1, description="by which the strength is raised and lowered")
    share: float = Field(0.25, gt=0, le=1, description="of an epoch that each strength is tried for")
    images: int = Field(
        512, ge=2, description="images at most whose free coefficients decide; all of them are trained on"
    )
    tolerance: float = Field(0.005, ge=0, description="share of all nats that a weaker prior has to gain")
    of_motion: float = Field(0.05, ge=0, description="or share of the nats of motion, which are few at first")
    price: float = Field(
        0.01, ge=0, description="share of the nats, of all and of motion, that a stronger one may cost"
    )

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

    def factors(self, strength: float, epoch: int, total: int) -> tuple[float, ...]:
        """Return by how much the strength is to be changed in trials after an epoch, of so many; nothing if in none."""
        factors: tuple[float, ...] = ()
        if epoch in self.settings.epochs(total):
            factors = 1 / self.settings.factor, self.settings.factor
        elif epoch == self.carry_on["epoch"]:
            factors = (self.carry_on["factor"],)
        return tuple(factor for factor in factors if strength * factor < START * SAME)

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


@dataclass(frozen=True, eq=False)
class Tried:
    """What free coefficients of the same images say, when training goes on with some strength.

    Attributes
    ----------
    free : array (images,)
        Nats by which an image is explained better than by nothing.
    motion : array (images,)
        Those by which its own conformation explains it better than the mean of all does.
    """

    free: Array
    motion: Array


@dataclass(frozen=True)
class Choice:
    """What was tried, what came of it and what was chosen.

    Attributes
    ----------
    tried : tuple of float
        Strengths: first the one so far.
    free, motion : tuple of float
        Means over images of what `Tried` has, for each.
    free_change, free_error, motion_change, motion_error : tuple of float
        Difference to the first in the same images, and its standard error.
    chosen : float
    """

    tried: tuple[float, ...]
    free: tuple[float, ...]
    free_change: tuple[float, ...]
    free_error: tuple[float, ...]
    motion: tuple[float, ...]
    motion_change: tuple[float, ...]
    motion_error: tuple[float, ...]
    chosen: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name, numbers rounded for reading."""
        return {name: _rounded(value) for name, value in vars(self).items()}

    def __str__(self) -> str:
        said = (
            f"{self.tried[k]:.4g}: {self.free_change[k]:+.2f} ± {self.free_error[k]:.2f}, of motion "
            f"{self.motion_change[k]:+.2f} ± {self.motion_error[k]:.2f}"
            for k in range(1, len(self.tried))
        )
        what = "stays" if self.chosen == self.tried[0] else f"becomes {self.chosen:.4g}"
        now = f"free {self.free[0]:.2f} nats/image, of motion {self.motion[0]:.2f}"
        return f"prior strength {self.tried[0]:.4g} {what} ({now}; {'; '.join(said)})"


def choose(
    strength: float, factors: Sequence[float], go_on_with: Callable[[float], Tried], settings: TrialSettings
) -> Choice:
    """Try weaker or stronger priors, and take the strongest that costs nothing.

    Parameters
    ----------
    strength
        So far.
    factors
        By which it is changed, weaker ones first.
    go_on_with
        Returns what free coefficients say when training goes on with a strength.
    settings
        What decides. A weaker prior is taken if images are explained better, or their motion is, by more than the
        share that counts and twice the standard error. A stronger one is taken unless either is explained worse by more
        than its price and the standard error.
    """
    tried = (strength, *(strength * factor for factor in factors))
    found = [go_on_with(each) for each in tried]
    free, motion = (_compare([getattr(one, name) for one in found]) for name in ("free", "motion"))
    chosen = tried[0]
    for number, other in enumerate(tried[1:], start=1):
        gains = [
            (change[number], error[number], max(mean[0], 0.0), least)
            for (mean, change, error), least in ((free, settings.tolerance), (motion, settings.of_motion))
        ]
        if other < strength and any(gained > max(least * nats, 2 * error) for gained, error, nats, least in gains):
            chosen = other
            break
        if other > strength and all(gained > -max(settings.price * nats, error) for gained, error, nats, _ in gains):
            chosen = other
    choice = Choice(tried, *free, *motion, chosen)
    logger.info("%s", choice)
    return choice


def _compare(values: Sequence[Array]) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """Return the mean of each, and its difference to the first in the same images with its standard error."""
    changes = [each - values[0] for each in values]
    errors = (float(change.std(ddof=1) / np.sqrt(len(change))) for change in changes)
    return (
        tuple(float(each.mean()) for each in values),
        tuple(float(change.mean()) for change in changes),
        tuple(errors),
    )


def _rounded(value: Any) -> Any:
    return [_rounded(each) for each in value] if isinstance(value, tuple) else float(f"{value:.4g}")
