"""Single modes of the posterior over pose and latents: where they are, how probable, and how narrow.

A grid of rotations misses the top of a mode that is narrower than its steps. Here a mode is climbed with the likelihood
itself, pose and latents together, and its mass is that of the normal distribution of its curvature (Laplace).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cryomorph.particles.batch import ParticleBatch
from cryomorph.reconstruction import Reconstruction
from cryomorph.scan.polish import FIRST_MOVE, FIRST_TURN, descend, moved

FIRST_LATENT = 0.2
"""A first step of latents, relative to the prior's width: the unknowns' unit."""
DIFFERENCE = 0.1
"""Of unknowns, in their units, over which gradients tell curvatures."""
WINDOW = math.radians(12.0)
"""Standard deviation about each axis to which a flat direction counts for a mode: its chord is as long as that of a
ball of 15 degrees."""
PAIRS_AT_ONCE = 512
"""Modes that are climbed together."""


@dataclass(frozen=True, eq=False)
class Modes:
    """Of b images one mode each.

    Attributes
    ----------
    rotation, shift, latents : Tensor (b, 3, 3), (b, 2), (b, d)
        Where it is.
    log_mass : Tensor (b,)
        Logarithm of the prior's mean of `e^-misfit` over the mode; double precision.
    turn, move : Tensor (b,)
        Its smallest standard deviations along a rotation, in radians, and along a shift, in Å, all else held fast.
    """

    rotation: Tensor
    shift: Tensor
    latents: Tensor
    log_mass: Tensor
    turn: Tensor
    move: Tensor


@dataclass(frozen=True, eq=False)
class Objective:
    """What is minimised over the pose and the latents of particles, and the priors it is made of.

    All rotations are as probable as each other, shifts are normal about those of the files, latents about zero, and
    the geometric priors count relative to their mean over the latents' prior.

    Attributes
    ----------
    reconstruction
        Trained.
    directions : Tensor (d, k)
        Along which latents are unknown: orthonormal columns.
    latent_prior
        Precision of the latents' prior.
    shift_spread
        Å, standard deviation of the shifts' prior.
    log_geometry
        Logarithm of the mean of `e^-geometry` over the latents' prior.
    """

    reconstruction: Reconstruction
    directions: Tensor
    latent_prior: float
    shift_spread: float
    log_geometry: float

    @property
    def units(self) -> Tensor:
        """What a unit of each unknown stands for: radians, Å and latents, shape (5 + k,)."""
        latents = self.directions.shape[1] * [FIRST_LATENT / math.sqrt(self.latent_prior)]
        return self.directions.new_tensor([*3 * [FIRST_TURN], *2 * [FIRST_MOVE], *latents])

    def place(self, u: Tensor, rotation: Tensor, shift: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return poses and latents at unknowns u (b, 5 + k) about others."""
        there = z + (u[:, 5:] * self.units[5:]) @ self.directions.T
        return *moved(u[:, :5], rotation, shift), there

    def value(self, rotation: Tensor, shift: Tensor, z: Tensor, batch: ParticleBatch) -> Tensor:
        """Return misfit, geometry and what shifts and latents cost, in nats, shape (b,)."""
        x = self.reconstruction.conformations(z)
        likelihood = self.reconstruction.likelihood
        misfit = likelihood.misfit(*likelihood.terms(self.reconstruction.beads(x), rotation, shift, batch), batch)
        off = ((shift - batch.shift) / self.shift_spread).square().sum(1)
        return misfit + self.reconstruction.geometry(x) + 0.5 * (off + self.latent_prior * z.square().sum(1))

    def log_prior(self) -> float:
        """Return the logarithm of the density of the priors where what `value` counts of them is 0."""
        rotations, shifts = math.log(8 * math.pi**2), math.log(2 * math.pi * self.shift_spread**2)
        latents = 0.5 * self.directions.shape[1] * math.log(self.latent_prior / (2 * math.pi))
        return latents - rotations - shifts - self.log_geometry


def climb(objective: Objective, rotation: Tensor, shift: Tensor, z: Tensor, batch: ParticleBatch) -> Modes:
    """Find the mode next to a pose and latents of each image.

    Parameters
    ----------
    objective
        Of the run.
    rotation, shift, z
        Where to begin, shapes (b, 3, 3), (b, 2) and (b, d).
    batch
        The images.
    """
    parts = torch.split(torch.arange(len(batch), device=z.device), PAIRS_AT_ONCE)
    found = [_climb(objective, rotation[part], shift[part], z[part], batch[part]) for part in parts]
    return Modes(*(torch.cat(values) for values in zip(*(vars(modes).values() for modes in found), strict=True)))


def _climb(objective: Objective, rotation: Tensor, shift: Tensor, z: Tensor, batch: ParticleBatch) -> Modes:
    def evaluate(u: Tensor) -> tuple[Tensor, Tensor]:
        u = u.detach().requires_grad_()
        with torch.enable_grad():
            value = objective.value(*objective.place(u, rotation, shift, z), batch)
            (gradient,) = torch.autograd.grad(value.sum(), u)
        return value.detach(), gradient

    units = objective.units
    at, value = descend(evaluate, z.new_zeros(len(batch), len(units)))
    gradient = evaluate(at)[1]
    changes = [evaluate(at + DIFFERENCE * one)[1] - gradient for one in torch.eye(len(units)).to(at)]
    curvature = torch.stack(changes, dim=1).double() / DIFFERENCE
    curvature = 0.5 * (curvature + curvature.mT)
    narrow = [torch.linalg.eigvalsh(curvature[:, part, part])[:, -1] for part in (slice(3), slice(3, 5))]
    # The priors' own precision: no direction is flatter than they are.
    prior = units.new_tensor([*3 * [1 / WINDOW], *2 * [1 / objective.shift_spread]])
    weakest = float((prior * units[:5]).square().amin().clamp(max=FIRST_LATENT**2))
    curvature[:, :3, :3] += (FIRST_TURN / WINDOW) ** 2 * torch.eye(3).to(curvature)
    values, vectors = torch.linalg.eigh(curvature)
    values = values.clamp(min=weakest)
    last = -torch.einsum("bij,bj->bi", (vectors / values[:, None]) @ vectors.mT, gradient.double()).to(at)
    nearer = objective.value(*objective.place(at + last, rotation, shift, z), batch)
    better = nearer < value
    at, value = torch.where(better[:, None], at + last, at), torch.where(better, nearer, value)
    volume = 0.5 * len(units) * math.log(2 * math.pi) + float(units.log().sum()) - 0.5 * values.log().sum(1)
    turn, move = (unit / largest.clamp(min=1e-12).sqrt() for unit, largest in zip(units[[0, 3]], narrow, strict=True))
    place = objective.place(at, rotation, shift, z)
    return Modes(*place, volume - value.double() + objective.log_prior(), turn, move)
