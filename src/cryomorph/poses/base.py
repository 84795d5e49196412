"""The seam of pose sources."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.optim import Optimizer

from cryomorph.components import Settings
from cryomorph.errors import InputError
from cryomorph.likelihood.base import Likelihood
from cryomorph.particles.batch import ParticleBatch
from cryomorph.structure.beads import Beads


@dataclass(frozen=True)
class PoseMeasure:
    """A discrete probability measure over poses for each of b particles; a known pose is one atom of weight 1.

    Attributes
    ----------
    rotation
        Map frame to image frame, shape (b, s, 3, 3).
    shift
        Displacement in the image in Å, shape (b, s, 2).
    weight
        Non-negative, summing to one over s, shape (b, s).
    """

    rotation: Tensor
    shift: Tensor
    weight: Tensor

    @classmethod
    def single(cls, rotation: Tensor, shift: Tensor) -> Self:
        """Return the measure of one pose for each particle, shapes (b, 3, 3) and (b, 2)."""
        weight = torch.ones(len(shift), 1, dtype=shift.dtype, device=shift.device)
        return cls(rotation[:, None], shift[:, None], weight)


class PoseSource(nn.Module, ABC):
    """Gives every particle of a batch its measure over poses.

    A source may learn: what it keeps are its parameters, of which it moves each particle's own, with an optimiser of
    its own. They belong to the process that owns the particle and are averaged with nobody else's.

    Parameters
    ----------
    settings
        Of the kind.
    particles
        How many particles there are in all.
    """

    Settings: ClassVar[type[Settings]]
    settings: BaseModel
    needs_poses: ClassVar[bool] = False
    """Whether particles must come with poses."""
    finds: ClassVar[bool] = True
    """Whether its poses are others than those that the particles came with, and worth writing to a file."""

    searched: ClassVar[bool] = False
    """Whether its poses are found by `cryomorph.search`, before training and again while it goes on."""

    def __init__(self, settings: BaseModel, particles: int) -> None:
        super().__init__()
        self.settings = settings
        self.particles = particles
        self.done = 0.0
        """Share of the training's epochs that are done, kept up to date by the trainer."""

    @abstractmethod
    def forward(self, batch: ParticleBatch, beads: Beads, likelihood: Likelihood) -> PoseMeasure:
        """Return the pose measure of each particle, given its current conformation and the likelihood."""

    def first_measure(self, batch: ParticleBatch, beads: Beads, likelihood: Likelihood) -> PoseMeasure:
        """Return the measure that the first gain is estimated with, before there is one; default `forward`'s."""
        return self.forward(batch, beads, likelihood)

    @property
    def known(self) -> Tensor:
        """Which particles have a pose yet, bool, shape (particles,); the others have no part in calibration."""
        return torch.ones(self.particles, dtype=torch.bool)

    def cost(self, batch: ParticleBatch) -> Tensor:
        """Return what the learned poses of each particle cost under their prior, in nats, shape (b,)."""
        return torch.zeros_like(batch.pixel_size)

    def best(self, batch: ParticleBatch) -> tuple[Tensor, Tensor]:
        """Return the most probable pose of each particle: rotation (b, 3, 3), and shift in Å, (b, 2)."""
        return given_poses(batch)

    def entropy(self, batch: ParticleBatch) -> Tensor:
        """Return the entropy of each particle's distribution over poses in nats, shape (b,)."""
        return torch.zeros_like(batch.pixel_size)

    def spread(self, batch: ParticleBatch) -> Tensor | None:
        """Return how far the most probable poses may be off before images are seen; None if they are known.

        Returns
        -------
        Tensor (5,) or None
            Standard deviations: radians about the axes of the map frame, and Å along x and y of the image.
        """
        return None

    def offset(self, batch: ParticleBatch) -> Tensor:
        """Return how far the most probable poses are from the middle of their prior, in units of `spread`; (b, 5)."""
        return batch.shift.new_zeros(len(batch), 5)

    def choices(self) -> float:
        """Return by what factor poses were looked for farther than `spread` reaches, as a logarithm: nats of luck."""
        return 0.0

    def optimizer(self) -> Optimizer | None:
        """Return the optimiser that suits what is learned, at its full learning rate; None if nothing is."""
        return None

    def end_of_epoch(self, own: Iterable[ParticleBatch], add_up: Callable[..., None]) -> None:
        """Do what is to be done after each epoch, for instance to what the images leave open.

        Parameters
        ----------
        own
            All particles that this process owns, without images, read when they are asked for.
        add_up
            Adds tensors up over the processes, in place.
        """
        return

    def gather(self, optimizer: Optimizer | None, owned: Tensor, add_up: Callable[..., None]) -> None:
        """Bring what each process knows of its own particles to all processes, before a checkpoint.

        Parameters
        ----------
        optimizer
            What `optimizer` returned; its state, if there is one, is gathered too.
        owned
            Which particles are this process's, bool, shape (particles,).
        add_up
            Adds tensors up over the processes, in place.
        """
        return


def among_all_rotations(spread: float) -> float:
    """Return the logarithm of all rotations over those that errors of so many radians about each axis reach."""
    return math.log(8 * math.pi**2) - 1.5 * math.log(2 * math.pi) - 3 * math.log(spread)


def given_poses(batch: ParticleBatch) -> tuple[Tensor, Tensor]:
    """Return the poses that the particles came with: rotation (b, 3, 3), and shift in Å, (b, 2).

    Raises
    ------
    InputError
        If they came without.
    """
    if batch.rotation is None:
        raise InputError("the particles have no poses (rlnAngleRot, rlnAngleTilt, rlnAnglePsi or alignments3D/pose)")
    return batch.rotation, batch.shift
