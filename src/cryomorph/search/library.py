"""Candidate conformations: what the model has learned so far and a little beyond, in a few steps."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from cryomorph.conformations.base import ConformationModel
from cryomorph.latents.base import Latents
from cryomorph.particles.stack import ParticleStack

ENDS = 0.02
"""Share of the particles beyond each end of what counts as the range of the main motion."""
NEIGHBOURHOOD = 0.25
"""Of the range: particles that near determine the latent coordinates at a point of the main motion."""

PARTICLES = 4096
"""Whose conformations tell the main motion, at most."""
AT_ONCE = 1024
"""Particles that are decoded at a time."""


@dataclass(frozen=True, eq=False)
class Library:
    """Conformations that images are compared with.

    Attributes
    ----------
    latents
        Where the first of them stand in latent space, shape (k, d); for the rest nobody knows.
    conformations
        Residue coordinates in Å, shape (L, n, 3), L >= k.
    price
        What it costs to choose each of them, in nats, shape (L,).
    """

    latents: Tensor
    conformations: Tensor
    price: Tensor

    @classmethod
    def free(cls, latents: Tensor, conformations: Tensor) -> Self:
        """Return a library all of whose conformations are as good beforehand."""
        return cls(latents, conformations, conformations.new_zeros(len(conformations)))


@torch.no_grad()
def latents_of_some(latents: Latents, stack: ParticleStack, device: torch.device) -> Tensor:
    """Return the middles of the latents of some particles (m, d), spread over all."""
    rows = np.linspace(0, len(stack) - 1, min(len(stack), PARTICLES)).astype(np.int64)
    training = latents.training
    latents.eval()
    z: Tensor = latents(stack.batch(rows, images=False).to(device))
    latents.train(training)
    return z


@torch.no_grad()
def along_main_motion(model: ConformationModel, z: Tensor, count: int, extension: float, others: Tensor) -> Library:
    """Decode points along the main motion that particles show, and beyond its ends.

    The motion is the first principal component of the conformations at z. The latent coordinates that belong to a
    point of it, inside or beyond, are a local linear regression over the particles.

    Parameters
    ----------
    model
        Takes latents to conformations.
    z
        Latent coordinates of particles, shape (m, d).
    count
        Points along the motion.
    extension
        How far to go beyond both ends, as a share of the range.
    others
        Further conformations, shape (k, n, 3).
    """
    parts = (z[first : first + AT_ONCE] for first in range(0, len(z), AT_ONCE))
    x = torch.cat([model(part) for part in parts]).flatten(1)
    centred = x - x.mean(0)
    place = centred @ _first_component(centred)
    low, high = torch.quantile(place, torch.tensor([ENDS, 1 - ENDS], device=place.device))
    span = high - low
    points = torch.linspace(0, 1, count, device=place.device) * (1 + 2 * extension) - extension
    if span > 0:
        latents = torch.stack([_regress(place, z, low, high, low + share * span) for share in points])
    else:
        latents = z.mean(0, keepdim=True)
    return Library.free(latents, torch.cat([model(latents), others.to(x)]))


def _first_component(centred: Tensor) -> Tensor:
    """Direction of the largest variance of rows (m, c): power iteration on the smaller product, reproducible."""
    direction = centred[centred.square().sum(1).argmax()].double()
    rows = centred.double()
    for _ in range(100):
        direction = rows.T @ (rows @ direction)
        direction = direction / direction.norm().clamp(min=1e-30)
    return direction.to(centred.dtype)


def _regress(place: Tensor, z: Tensor, low: Tensor, high: Tensor, point: Tensor) -> Tensor:
    """Latent coordinates (d,) at a point of the motion, from those of particles near it or near the nearer end."""
    centre = torch.maximum(torch.minimum(point, high), low)
    weight = torch.exp(-0.5 * ((place - centre) / (NEIGHBOURHOOD * (high - low))).square()).double()
    mean_z, mean_place = weight @ z.double() / weight.sum(), weight @ place.double() / weight.sum()
    away = place.double() - mean_place
    slope = (weight * away) @ (z.double() - mean_z) / (weight * away.square()).sum().clamp(min=1e-30)
    return (mean_z + (point - mean_place) * slope).to(z.dtype)
