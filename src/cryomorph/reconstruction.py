"""The objective of paper A (eq. 3), composed of the parts, and what is shared by all particles and paid once."""

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
    """`E_φ[misfit(y, φ, x(z))] + S (λ0 R0(x) + λ1 R1(x) + λ2 R2(x)) + shared / N` for each of N images.

    R1 and R2 compare each conformation with one at rest: the template, as in paper A, or, with `common`, one that is
    learned, and that the same priors compare with the template, once: what all conformations share is paid once.

    Parameters
    ----------
    conformations, beads, poses, likelihood, priors
        The parts.
    strength
        S: how much the geometric priors count against the misfit, whose unit is the nat. Paper A states its λ for
        images in a unit of its own.
    latent_prior
        What a nat of the latents' prior counts against the misfit.
    common
        Strength of the priors between what is at rest and the template; None: the template is at rest.
    particles
        N, how many share what is at rest and what is learned of the beads.

    Attributes
    ----------
    strength, latent_prior : Tensor ()
        Both strengths, which training may change.
    rest : Parameter (n, 3)
        What conformations are compared with, Å.
    """

    strength: Tensor
    latent_prior: Tensor

    def __init__(
        self,
        conformations: ConformationModel,
        beads: BeadModel | Scatterers,
        poses: PoseSource,
        likelihood: Likelihood,
        priors: list[Prior],
        strength: float,
        *,
        latent_prior: float = 1.0,
        common: float | None = None,
        particles: int = 1,
    ) -> None:
        super().__init__()
        self.conformations = conformations
        self.beads = beads
        self.common, self.particles = common, particles
        self.rest = nn.Parameter(conformations.template.clone(), requires_grad=common is not None)
        self.poses = poses
        self.likelihood = likelihood
        active = [prior for prior in priors if prior.settings.weight > 0]
        self.priors = nn.ModuleList(active)
        self.prior_weights = [prior.settings.weight for prior in active]
        for name, value in (("strength", strength), ("latent_prior", latent_prior)):
            self.register_buffer(name, torch.tensor(float(value), dtype=torch.float64))

    @property
    def molecule(self) -> BeadModel:
        """The beads of the molecule itself."""
        return self.beads.molecule if isinstance(self.beads, Scatterers) else self.beads

    def use_molecule(self, molecule: BeadModel) -> None:
        """Let other beads stand for the molecule from now on; what was prepared for those so far is stale."""
        if isinstance(self.beads, Scatterers):
            self.beads.molecule = molecule
        else:
            self.beads = molecule

    def forward(self, z: Tensor, batch: ParticleBatch) -> dict[str, Tensor]:
        """Return the terms of the objective, each of shape (b,): `misfit`, `geometry` and `shared`.

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
                "shared": (self.shared_cost() / self.particles).expand(len(x)),
            }

    def geometry(self, x: Tensor) -> Tensor:
        """Return the geometric priors' cost of conformations in nats, whatever the images say, shape (b,).

        Parameters
        ----------
        x
            Residue coordinates in Å, shape (b, n, 3).
        """
        return self.strength.to(x.dtype) * self._deformation(x, self.rest.to(x.dtype))

    def shared_cost(self) -> Tensor:
        """Return what all particles share costs in nats, shape ()."""
        cost = self.beads.cost()
        if self.common is None:
            return cost
        return cost + self.common * self._deformation(self.rest[None], self.conformations.template)[0]

    def _deformation(self, x: Tensor, rest: Tensor) -> Tensor:
        total = x.new_zeros(len(x))
        for weight, prior in zip(self.prior_weights, self.priors, strict=True):
            total = total + weight * prior(x, rest)
        return total

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the weights that all particles share: those of everything but the poses."""
        return [weight for name, weight in self.named_parameters() if not name.startswith("poses.")]

    def expected_misfit(self, beads: Beads, measure: PoseMeasure, batch: ParticleBatch) -> Tensor:
        """Return the misfit of each image, expected over its poses, shape (b,); poses count for the gain likewise."""
        atoms = zip(*(part.unbind(1) for part in (measure.rotation, measure.shift, measure.weight)), strict=True)
        misfits = [self.likelihood(beads, rotation, shift, batch, weight) for rotation, shift, weight in atoms]
        return (measure.weight * torch.stack(misfits, dim=1)).sum(1)
