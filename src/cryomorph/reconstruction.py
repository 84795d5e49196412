"""The objective of paper A (eq. 3), composed of the parts."""

import torch
from torch import Tensor, nn

from cryomorph.conformations.base import ConformationModel
from cryomorph.likelihood.base import Likelihood
from cryomorph.particles.batch import ParticleBatch
from cryomorph.poses.base import PoseMeasure, PoseSource
from cryomorph.priors.base import Prior
from cryomorph.structure.beads import BeadModel, Beads
from cryomorph.structure.scatterers import Scatterers


class Reconstruction(nn.Module):
    """`E_φ[misfit(y, φ, x(z))] + S (λ0 R0(x) + λ1 R1(x) + λ2 R2(x))` for each image.

    Parameters
    ----------
    conformations, beads, poses, likelihood, priors
        The parts.
    strength
        S: how much the geometric priors count against the misfit, whose unit is the nat. Paper A states its λ for
        images in a unit of its own.
    particles
        How many share what is learned of the beads, and what that costs.

    Attributes
    ----------
    strength : Tensor ()
        S, which training may change.
    """

    strength: Tensor

    def __init__(
        self,
        conformations: ConformationModel,
        beads: BeadModel | Scatterers,
        poses: PoseSource,
        likelihood: Likelihood,
        priors: list[Prior],
        strength: float,
        particles: int,
    ) -> None:
        super().__init__()
        self.conformations = conformations
        self.beads = beads
        self.particles = particles
        self.poses = poses
        self.likelihood = likelihood
        active = [prior for prior in priors if prior.settings.weight > 0]
        self.priors = nn.ModuleList(active)
        self.prior_weights = [prior.settings.weight for prior in active]
        self.register_buffer("strength", torch.tensor(float(strength), dtype=torch.float64))

    def forward(self, z: Tensor, batch: ParticleBatch) -> dict[str, Tensor]:
        """Return the terms of the objective, each of shape (b,): `misfit`, `geometry` and `beads`.

        Parameters
        ----------
        z
            Latent coordinates, shape (b, d).
        batch
            The particles and their images.
        """
        x = self.conformations(z)
        # Positions are compared with noise far below a pixel: never in half precision.
        with torch.autocast(x.device.type, enabled=False):
            beads = self.beads(x)
            measure = self.poses(batch, beads, self.likelihood)
            return {
                "misfit": self.expected_misfit(beads, measure, batch),
                "geometry": self.geometry(x),
                "beads": (self.beads.cost() / self.particles).expand(len(x)),
            }

    def geometry(self, x: Tensor) -> Tensor:
        """Return the geometric priors' cost of conformations in nats, whatever the images say, shape (b,).

        Parameters
        ----------
        x
            Residue coordinates in Å, shape (b, n, 3).
        """
        total = x.new_zeros(len(x))
        for weight, prior in zip(self.prior_weights, self.priors, strict=True):
            total = total + weight * prior(x)
        return self.strength.to(total.dtype) * total

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the weights that all particles share: those of everything but the poses."""
        return [weight for name, weight in self.named_parameters() if not name.startswith("poses.")]

    def expected_misfit(self, beads: Beads, measure: PoseMeasure, batch: ParticleBatch) -> Tensor:
        """Return the misfit of each image, expected over its poses, shape (b,); poses count for the gain likewise."""
        atoms = zip(*(part.unbind(1) for part in (measure.rotation, measure.shift, measure.weight)), strict=True)
        misfits = [self.likelihood(beads, rotation, shift, batch, weight) for rotation, shift, weight in atoms]
        return (measure.weight * torch.stack(misfits, dim=1)).sum(1)
