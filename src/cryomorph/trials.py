"""Strengths of priors, chosen by what free coefficients say of the images and of the motion in them.

A strength is tried by going on with it, from where training stands, and taken back. The free coefficients of some
images tell how well they are explained, and how much better its own conformation explains an image than the mean of all
conformations does: that difference is motion. Small gains do not count: a weak prior lets the mean conformation make
up for whatever the beads lack, and free coefficients reward it a little, though atoms move away from where they are
(docs/method.md).
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from cryomorph.components import Settings
from cryomorph.held_out import HeldOut
from cryomorph.reconstruction import Reconstruction

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]

MOST_OF_TRIAL = 8192
"""Images at most that a strength is tried on."""
SAME = 1.01
"""By which strengths may differ that count as the same."""
START = 100.0
"""Strength of the geometric priors that training begins with, unless one is given, and the strongest that is chosen:
where images say little of their differences, nothing would hold a stronger one back (docs/benchmarks.md)."""
LATENT_PRIOR = 1.0
"""Strength of the latents' prior that training begins with, unless one is given: misfits are in nats."""


class TrialSettings(Settings):
    """When and how long settings are tried, and what decides."""

    after: tuple[float, ...] = Field((0.07, 0.6), description="shares of the epochs after which strengths are tried")
    latent_prior_after: tuple[float, ...] = Field((0.6,), description="the same for the strength of the latents' prior")
    beads_after: float = Field(0.1, ge=0, lt=1, description="share of the epochs after which beads are compared")
    again: float = Field(0.1, gt=0, description="share of the epochs after which a change is tried to be carried on")
    last: float = Field(0.7, description="share of the epochs after which nothing is tried any more")
    factor: float = Field(3.0, gt=1, description="by which the strength is raised and lowered")
    share: float = Field(0.2, gt=0, le=1, description="of an epoch that each strength is tried for")
    images: int = Field(
        512, ge=2, description="images at most whose free coefficients decide; all of them are trained on"
    )
    tolerance: float = Field(
        0.005, ge=0, description="share of all nats that a weaker prior has to gain, and beads for each time as many"
    )
    of_motion: float = Field(0.05, ge=0, description="or share of the nats of motion, which are few at first")
    price: float = Field(
        0.001, ge=0, description="share of the nats, of all and of motion, that a stronger one may cost"
    )

    def carried_on(self, epoch: int, total: int) -> int:
        """Return the epoch after which a change made after `epoch` is tried to be carried on; 0: never."""
        following = epoch + max(1, round(self.again * total))
        return following if following <= self.last * total else 0


def epochs_after(shares: Sequence[float], total: int) -> set[int]:
    """Return the epochs after which something is tried in any case, given shares of so many in all."""
    return {epoch for share in shares if (epoch := max(round(share * total), 1)) < total}


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
        return f"{self.tried[0]:.4g} {what} ({now}; {'; '.join(said)})"


Rule = Callable[[Choice, TrialSettings], float]


def strongest(choice: Choice, settings: TrialSettings) -> float:
    """Return the strongest prior that costs nothing, of weaker ones before stronger ones.

    A weaker prior is taken if images are explained better, or their motion is, by more than the share that counts and
    twice the standard error. A stronger one is taken unless either is explained worse by more than its price and the
    standard error.
    """
    tried = choice.tried
    chosen = tried[0]
    for number, other in enumerate(tried[1:], start=1):
        if other < tried[0] and _gains(choice, number, settings):
            return other
        if other > tried[0] and all(
            change > -max(settings.price * nats, error) for change, error, nats, _ in _changes(choice, number, settings)
        ):
            chosen = other
    return chosen


def most_explained(choice: Choice, settings: TrialSettings) -> float:
    """Return the prior that explains free coefficients best, of those that gain what counts; else the one so far."""
    better = [number for number in range(1, len(choice.tried)) if _gains(choice, number, settings)]
    return choice.tried[max(better, key=lambda number: choice.free[number], default=0)]


def _gains(choice: Choice, number: int, settings: TrialSettings) -> bool:
    changes = _changes(choice, number, settings)
    return any(change > max(least * nats, 2 * error) for change, error, nats, least in changes)


def _changes(choice: Choice, number: int, settings: TrialSettings) -> list[tuple[float, float, float, float]]:
    """Return change, error, nats so far and the share of them that counts: of all, and of motion."""
    return [
        (choice.free_change[number], choice.free_error[number], max(choice.free[0], 0.0), settings.tolerance),
        (choice.motion_change[number], choice.motion_error[number], max(choice.motion[0], 0.0), settings.of_motion),
    ]


def choose(
    strength: float,
    factors: Sequence[float],
    go_on_with: Callable[[float], Tried],
    rule: Rule,
    settings: TrialSettings,
) -> Choice:
    """Try weaker or stronger priors, and take one by a rule.

    Parameters
    ----------
    strength
        So far.
    factors
        By which it is changed, weaker ones first.
    go_on_with
        Returns what free coefficients say when training goes on with a strength.
    rule, settings
        What decides.
    """
    tried = (strength, *(strength * factor for factor in factors))
    found = [go_on_with(each) for each in tried]
    free, motion = (_compare([getattr(one, name) for one in found]) for name in ("free", "motion"))
    return _decided(Choice(tried, *free, *motion, strength), rule, settings)


def _decided(choice: Choice, rule: Rule, settings: TrialSettings) -> Choice:
    return Choice(**(vars(choice) | {"chosen": rule(choice, settings)}))


@dataclass(frozen=True)
class Strength:
    """A strength that is tried.

    Attributes
    ----------
    name : str
        Of what was chosen, in the metrics.
    attribute : str
        The buffer of `Reconstruction` that holds it.
    after : tuple of float
        Shares of the epochs after which it is tried.
    most : float
        Nothing stronger is tried.
    shared : bool
        Whether it acts on what all particles share, so that it takes training to tell what it does.
    rule
        What decides.
    """

    name: str
    attribute: str
    after: tuple[float, ...]
    most: float
    shared: bool
    rule: Rule

    def buffer(self, reconstruction: Reconstruction) -> Tensor:
        """Return where it is kept."""
        buffer: Tensor = getattr(reconstruction, self.attribute)
        return buffer


def of_priors(settings: TrialSettings) -> Strength:
    """Return the strength of the geometric priors."""
    return Strength("prior_strength", "strength", settings.after, START, True, strongest)


def of_latents(settings: TrialSettings) -> Strength:
    """Return the strength of the latents' prior."""
    return Strength("latent_prior", "latent_prior", settings.latent_prior_after, np.inf, False, most_explained)


class Trials:
    """When strengths are tried, which, and on which particles.

    A change is tried to be carried on in its direction soon.

    Parameters
    ----------
    held_out
        Images whose free coefficients decide.
    settings
        When, how long.
    strengths
        What is tried, in this order.
    owned
        Which particles are this process's, shape (m,).
    seed
        Of the choice of the other particles.

    Attributes
    ----------
    images : int
        On which a strength is tried, in all processes together.
    carry_on : dict
        For each strength the `epoch` after which its newest change is tried to be carried on, and the `factor` by which
        it was made.
    """

    def __init__(
        self,
        held_out: HeldOut,
        settings: TrialSettings,
        strengths: Sequence[Strength],
        owned: NDArray[np.bool_],
        seed: int,
    ) -> None:
        self.held_out, self.settings, self.seed = held_out, settings, seed
        self.strengths = tuple(strengths)
        self.others = np.setdiff1d(np.flatnonzero(owned), held_out.own)
        self.images = max(len(held_out.rows), min(round(settings.share * len(owned)), MOST_OF_TRIAL))
        self.more = min(max(round(self.images * owned.mean()) - len(held_out.own), 0), len(self.others))
        self.carry_on = {each.name: {"epoch": 0.0, "factor": 1.0} for each in strengths}

    def factors(self, of: Strength, strength: float, epoch: int, total: int) -> tuple[float, ...]:
        """Return by how much a strength is to be changed in trials after an epoch, of so many; nothing if in none."""
        factors: tuple[float, ...] = ()
        if epoch in epochs_after(of.after, total):
            factors = 1 / self.settings.factor, self.settings.factor
        elif epoch == self.carry_on[of.name]["epoch"]:
            factors = (self.carry_on[of.name]["factor"],)
        return tuple(factor for factor in factors if strength * factor < of.most * SAME)

    def due(self, epoch: int, total: int) -> dict[Strength, tuple[float, ...]]:
        """Return what is to be tried after an epoch, of so many: by how much each strength is changed."""
        reconstruction = self.held_out.reconstruction
        factors = {
            each: self.factors(each, float(each.buffer(reconstruction)), epoch, total) for each in self.strengths
        }
        return {each: found for each, found in factors.items() if found}

    def run(
        self, due: Mapping[Strength, Sequence[float]], go_on: Callable[[Strength], Tried], epoch: int, total: int
    ) -> dict[str, Any]:
        """Choose one strength after the other, and put them in place; returns what to say about it.

        Parameters
        ----------
        due
            What `due` returned.
        go_on
            Returns what free coefficients say when one goes on, as trials of a strength do, with the strengths that are
            in place, and leaves everything, these too, as it was before the first trial.
        epoch, total
            Epochs done, of so many.
        """
        reconstruction = self.held_out.reconstruction
        now = {each: float(each.buffer(reconstruction)) for each in due}
        said = {}
        for each, factors in due.items():

            def with_strength(value: float, of: Strength = each) -> Tried:
                self._put(now | {of: value})
                return go_on(of)

            choice = choose(now[each], factors, with_strength, each.rule, self.settings)
            now[each] = choice.chosen
            self.decided(each, choice, epoch, total)
            logger.info("%s %s", each.name.replace("_", " "), choice)
            said[each.name] = choice.as_dict()
        self._put(now)
        return said

    def decided(self, of: Strength, choice: Choice, epoch: int, total: int) -> None:
        """Take note of what was chosen after an epoch."""
        factor = choice.chosen / choice.tried[0]
        following = self.settings.carried_on(epoch, total) if factor != 1 else 0
        self.carry_on[of.name] = {"epoch": float(following), "factor": factor}

    def rows(self, epoch: int) -> NDArray[np.int64]:
        """Return the particles of a trial in their order: those that decide and some of the others, mixed."""
        generator = np.random.default_rng(np.random.SeedSequence([self.seed, epoch]))
        more = generator.choice(self.others, self.more, replace=False)
        return generator.permutation(np.concatenate([self.held_out.own, more]))

    def _put(self, values: Mapping[Strength, float]) -> None:
        for each, value in values.items():
            each.buffer(self.held_out.reconstruction).fill_(value)


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
