"""Poses by ellipsoidal support lifting (paper A, algorithm 1)."""

import math
from collections.abc import Callable
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.optim import Optimizer

from cryomorph.components import Settings
from cryomorph.likelihood.base import Likelihood
from cryomorph.likelihood.matched_filter import MatchedFilter
from cryomorph.particles.batch import ParticleBatch
from cryomorph.poses.base import PoseMeasure, PoseSource, among_all_rotations
from cryomorph.scan.candidates import Candidates
from cryomorph.scan.grid import ProductGrid
from cryomorph.scan.lifting import lifted_measure, support_size
from cryomorph.scan.own import OwnScan
from cryomorph.scan.plain import PlainScan
from cryomorph.structure.beads import Beads


class ESLSettings(Settings):
    """Grid and measure; the defaults are paper A's."""

    kind: Literal["esl"] = "esl"
    rotations: int = Field(
        14_761, ge=2, description="evenly spread, at least so many; each compared with every image in every step"
    )
    j0: float = Field(15.0, ge=1, description="how many rotations about share the weight")
    eta: float = Field(2 / 3, ge=0, le=1, description="how that number changes with the grid; at 2/3 it does not")

    @model_validator(mode="after")
    def _has_support(self) -> Self:
        support_size(len(self.grid), self.j0, self.eta)
        return self

    @property
    def grid(self) -> ProductGrid:
        """The rotations."""
        return ProductGrid.of_at_least(self.rotations)


class ESLPoses(PoseSource):
    """A measure on the few rotations of a grid that fit best, found anew in every step for the conformation it has.

    This is the published method, for comparison: each image is compared with its own conformation alone, in whose
    favour poses are then found. Shifts are taken as known. The most probable pose and the entropy of the last measure
    are remembered for each particle. With windows of a matched filter the whole grid is looked at at once (`OwnScan`),
    with anything else rotation by rotation.

    Parameters
    ----------
    settings
        Grid and measure.
    particles
        How many there are.

    Attributes
    ----------
    found_rotation : Tensor (particles, 3, 3)
        The most probable one; zero where none was looked for yet.
    found_entropy : Tensor (particles,)
        In nats; that of the whole grid where none was looked for yet.
    """

    Settings = ESLSettings
    settings: ESLSettings
    found_rotation: Tensor
    found_entropy: Tensor

    def __init__(self, settings: ESLSettings, particles: int) -> None:
        super().__init__(settings, particles)
        self.grid = settings.grid
        direction, angle = np.divmod(np.arange(len(self.grid)), self.grid.in_plane)
        self.plain = PlainScan(torch.from_numpy(self.grid.rotations(direction, angle)).float())
        self._own: OwnScan | None = None
        self.register_buffer("found_rotation", torch.zeros(particles, 3, 3))
        self.register_buffer("found_entropy", torch.full((particles,), math.log(len(self.grid))))

    def forward(self, batch: ParticleBatch, beads: Beads, likelihood: Likelihood) -> PoseMeasure:
        """Scan the grid and return the measure, whose weights are constants to the objective."""
        return self._lift(batch, self._lowest(batch, beads, likelihood, normalised=False))

    def first_measure(self, batch: ParticleBatch, beads: Beads, likelihood: Likelihood) -> PoseMeasure:
        """Return the measure of the misfits at the best scale of each image and rotation."""
        return self._lift(batch, self._lowest(batch, beads, likelihood, normalised=True))

    def _lowest(self, batch: ParticleBatch, beads: Beads, likelihood: Likelihood, *, normalised: bool) -> Candidates:
        """Compare images with their own conformations by the fastest scan that there is for them."""
        if batch.statistic is not None and isinstance(likelihood, MatchedFilter):
            if self._own is None or self._own.windows is not likelihood.windows:  # windows are made anew now and then
                self._own = OwnScan(likelihood, self.grid)
            return self._own.lowest(batch, beads, self._candidates, normalised=normalised)
        find = self.plain.lowest_normalised if normalised else self.plain.lowest
        return find(batch, beads, likelihood, self._candidates)

    def best(self, batch: ParticleBatch) -> tuple[Tensor, Tensor]:
        """Return the lowest of the last scan; the identity where there was none."""
        found = self.found_rotation[batch.index]
        return torch.where(self.known[batch.index][:, None, None], found, torch.eye(3).to(found)), batch.shift

    def spread(self, batch: ParticleBatch) -> Tensor:
        """Return how far the rotations of the grid are apart; shifts are those given."""
        return batch.shift.new_tensor([*3 * [self._turn], 0.0, 0.0])

    @property
    def _turn(self) -> float:
        """Radians about an axis between a rotation and the nearest of the grid, root mean square."""
        # Each stands for a ball of 8π²/n of all rotations, whose volume at small angles is that of the angle's ball.
        return float((6 * math.pi / len(self.grid)) ** (1 / 3) / math.sqrt(5))

    def choices(self) -> float:
        """Return the nats of luck that all rotations are worth; see the base class."""
        return among_all_rotations(self._turn)

    def entropy(self, batch: ParticleBatch) -> Tensor:
        """Return the entropy of the last measure in nats, shape (b,)."""
        return self.found_entropy[batch.index]

    @property
    def known(self) -> Tensor:
        """Which particles were compared with the grid, bool, shape (particles,)."""
        return self.found_rotation.flatten(1).any(1)

    def gather(self, optimizer: Optimizer | None, owned: Tensor, add_up: Callable[..., None]) -> None:
        """Make every pose that of the process that owns the particle."""
        for table in (self.found_rotation, self.found_entropy):
            table[~owned.to(table.device)] = 0
            add_up(table)

    @property
    def _candidates(self) -> int:
        """How many of the lowest misfits determine the measure."""
        return support_size(len(self.grid), self.settings.j0, self.settings.eta) + 1

    @torch.no_grad()
    def _lift(self, batch: ParticleBatch, lowest: Candidates) -> PoseMeasure:
        """Return the measure on the candidates that have weight for some image, and remember its best pose."""
        settings = self.settings
        weight = lifted_measure(lowest.misfit, len(self.grid), settings.j0, settings.eta)
        self.found_rotation[batch.index] = lowest.rotation[:, 0].to(self.found_rotation)
        self.found_entropy[batch.index] = torch.special.entr(weight).sum(1).to(self.found_entropy)
        size = int((weight > 0).any(0).sum())  # weights fall from the first candidate on
        return PoseMeasure(lowest.rotation[:, :size], lowest.shift[:, :size], weight[:, :size])
