"""The objective of single images to second order, in the latents of their particles."""

from dataclasses import dataclass, replace

import roma
import torch
from torch import Tensor

from cryomorph.fourier import band, inside_circle, shell_index
from cryomorph.geometry import project
from cryomorph.gridding.projections import bead_coefficients
from cryomorph.particles.batch import ParticleBatch
from cryomorph.reconstruction import Reconstruction
from cryomorph.selection import Selection

STEP = 0.02
"""Of latents, for derivatives: small beside the prior's width of 1, large beside the rounding of coordinates."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What is seen of images in Fourier space, and what would be expected of a conformation, in units of the noise.

    Real and imaginary parts of c coefficients, those within a circle, divided by the standard deviation of their noise,
    stand in a row, so that inner products are plain ones. Leaving out what is beyond the circle is the same as larger
    pixels in a smaller box.

    Attributes
    ----------
    reconstruction
        Trained.
    batch
        The particles, with these pixels.
    box
        Pixels along an edge of what is left of the images.
    rotation, shift : Tensor (b, 3, 3), (b, 2)
        Their poses.
    inside : Tensor (c,)
        Numbers of the coefficients.
    transfer : Tensor (b, c)
        Signal of each.
    image : Tensor (b, 2 c)
    spread : Tensor (5,) or None
        How far the poses may be off; see `cryomorph.poses.base.PoseSource.spread`.
    offset : Tensor (b, 5)
        Where the poses are in their prior, in units of the spread.
    """

    reconstruction: Reconstruction
    batch: ParticleBatch
    box: int
    rotation: Tensor
    shift: Tensor
    inside: Tensor
    transfer: Tensor
    image: Tensor
    spread: Tensor | None
    offset: Tensor

    @classmethod
    def of(
        cls,
        reconstruction: Reconstruction,
        batch: ParticleBatch,
        observed: Tensor,
        box: int,
        selection: Selection | None = None,
        highest: int | None = None,
    ) -> "Seen":
        """See the coefficients of a batch that are selected, whatever the likelihood was trained on.

        Parameters are those of `cryomorph.posterior.find_posterior`.
        """
        likelihood, most = reconstruction.likelihood, band(box)
        kept = most if highest is None else min(highest, most)
        smaller = 2 * kept + 1
        inside = inside_circle(smaller, observed.device).flatten().nonzero()[:, 0]

        def within(plane: Tensor) -> Tensor:
            return plane.flatten(1).index_select(1, inside)

        def middle(plane: Tensor) -> Tensor:
            return plane[:, most - kept : most + kept + 1, : kept + 1]

        larger = replace(batch, image=None, pixel_size=batch.pixel_size * (box / smaller))
        root = likelihood.weight(larger, smaller, every=True).sqrt() * (smaller / box)
        root = within(root if selection is None else root * middle(selection.of(batch.index)))
        image = torch.view_as_real(within(middle(observed)) * root).flatten(1)
        # Projections count in pixels, which have become larger.
        transfer = within(likelihood.transfer(larger, smaller)) * root * (box / smaller) ** 2
        poses = reconstruction.poses
        return cls(
            *(reconstruction, larger, smaller, *poses.best(batch), inside, transfer, image),
            *(poses.spread(batch), poses.offset(batch)),
        )

    def __getitem__(self, rows: Tensor) -> "Seen":
        """Return some of the particles."""
        return replace(
            self,
            batch=self.batch[rows],
            rotation=self.rotation[rows],
            shift=self.shift[rows],
            transfer=self.transfer[rows],
            image=self.image[rows],
            offset=self.offset[rows],
        )

    def expected(self, x: Tensor) -> Tensor:
        """Return what is expected of conformations (b, n, 3) at gain 1, shape (b, 2 c)."""
        beads = self.reconstruction.beads(x)
        points = project(beads.positions, self.rotation, self.shift)
        model = bead_coefficients(points, beads.amplitude, beads.width, self.batch.pixel_size, self.box)
        kept = model.flatten(1).index_select(1, self.inside)
        return torch.view_as_real(kept * self.transfer).flatten(1)

    def turned(self, off: Tensor) -> "Seen":
        """Return the same images with poses that are off by five numbers in units of the spread, (5,) or (b, 5)."""
        assert self.spread is not None
        change = off * self.spread
        return replace(
            self,
            rotation=self.rotation @ roma.rotvec_to_rotmat(change[..., :3]),
            shift=self.shift + change[..., 3:],
            offset=self.offset + off,
        )

    def over_shells(self, change: Tensor) -> Tensor:
        """Return the part of each shell in the inner products of changes (b, k, 2 c), summed over images.

        Returns
        -------
        Tensor (shells, k, k)
            In double precision.
        """
        shell = shell_index(self.box, change.device).flatten()[self.inside].repeat_interleave(2)
        parts = (change[:, :, shell == number] for number in range(band(self.box) + 1))
        return torch.stack([(part @ part.transpose(1, 2)).double().sum(0) for part in parts])


@dataclass(frozen=True, eq=False)
class Expansion:
    """The objective of b particles about latents z, to second order along k directions, in nats.

    Attributes
    ----------
    z : Tensor (b, d)
    misfit, value : Tensor (b,)
        Of the image alone; with the geometric priors and that of the latents.
    scales : Tensor (b,)
        By how many nats less probable the image is since its scale might have been another.
    gradient : Tensor (b, k)
    fisher : Tensor (b, k, k)
        What the image says: its Fisher information.
    curvature : Tensor (b, k, k)
        Of all terms, by the rule of Gauss and Newton, so that it is positive.
    move : Tensor (b, k, 3 n)
        How residues move with the latents, in Å.
    change : Tensor (b, k, 2 c)
        How what is expected of the images changes with the latents, at gain 1.
    """

    z: Tensor
    misfit: Tensor
    value: Tensor
    scales: Tensor
    gradient: Tensor
    fisher: Tensor
    curvature: Tensor
    move: Tensor
    change: Tensor

    def step(self, damping: Tensor) -> Tensor:
        """Return the step of Levenberg and Marquardt, shape (b, k), for dampings (b,)."""
        damped = self.curvature + torch.diag_embed(damping[:, None] * self.curvature.diagonal(dim1=1, dim2=2))
        solution: Tensor = torch.linalg.solve(damped, self.gradient)
        return -solution

    def __getitem__(self, rows: Tensor) -> "Expansion":
        """Return those of some of the particles."""
        return Expansion(*(part[rows] for part in vars(self).values()))

    def put(self, rows: Tensor, other: "Expansion") -> None:
        """Take over others for the particles `rows`."""
        for mine, others in zip(vars(self).values(), vars(other).values(), strict=True):
            mine[rows] = others


def expand(seen: Seen, z: Tensor, directions: Tensor, latent_prior: float) -> Expansion:
    """Expand the objective about latents z (b, d) along directions (d, k); derivatives are differences of one step."""
    reconstruction = seen.reconstruction
    x = reconstruction.conformations(z)
    here = seen.expected(x)
    misfit, scale = compare(seen, here)
    geometry, force = _geometry(reconstruction, x)
    changes, moves, forces = [], [], []
    for direction in directions.T:
        there = reconstruction.conformations(z + STEP * direction)
        changes.append((seen.expected(there) - here) / STEP)
        moves.append(((there - x) / STEP).flatten(1))
        forces.append((_geometry(reconstruction, there)[1] - force) / STEP)
    change, move = torch.stack(changes, dim=1), torch.stack(moves, dim=1)
    fisher = _fisher(seen, here, change, scale)
    bending = (move @ torch.stack(forces, dim=2)).double()
    return Expansion(
        z=z.clone(),
        misfit=misfit.double(),
        value=misfit.double() + geometry.double() + 0.5 * latent_prior * z.double().square().sum(1),
        scales=_scales(seen, here),
        gradient=_gradient(seen, here, scale, change, move, force) + latent_prior * (z @ directions).double(),
        fisher=fisher,
        curvature=fisher + _positive(bending) + latent_prior * torch.eye(len(directions.T), device=z.device),
        move=move,
        change=change,
    )


def follow(seen: Seen, at: Expansion, z: Tensor, directions: Tensor, latent_prior: float) -> Expansion:
    """Return the expansion about latents z (b, d) nearby, where images and residues change with latents as before.

    Value and residual are exact, and so is the gradient but for that.
    """
    reconstruction = seen.reconstruction
    x = reconstruction.conformations(z)
    here = seen.expected(x)
    misfit, scale = compare(seen, here)
    geometry, force = _geometry(reconstruction, x)
    return replace(
        at,
        z=z.clone(),
        misfit=misfit.double(),
        value=misfit.double() + geometry.double() + 0.5 * latent_prior * z.double().square().sum(1),
        scales=_scales(seen, here),
        gradient=_gradient(seen, here, scale, at.change, at.move, force) + latent_prior * (z @ directions).double(),
    )


def with_poses(seen: Seen, at: Expansion) -> tuple[Tensor, Tensor]:
    """Return the curvature of latents and poses, (b, k, 5), and of poses, (b, 5, 5), in units of their spread."""
    assert seen.spread is not None
    x = seen.reconstruction.conformations(at.z)
    here = seen.expected(x)
    units = torch.eye(len(seen.spread), dtype=here.dtype, device=here.device)
    turned = [(seen.turned(STEP * one).expected(x) - here) / STEP for one in units]
    changes = torch.cat([at.change, torch.stack(turned, dim=1)], dim=1)
    together = _fisher(seen, here, changes, compare(seen, here)[1])
    count = at.change.shape[1]
    return together[:, :count, count:], together[:, count:, count:] + units.double()


def lost_to_poses(seen: Seen, at: Expansion) -> tuple[Tensor, Tensor]:
    """Return what is lost since poses are not known exactly.

    What poses could explain of the changes with the latents says nothing about these (Schur's complement).

    Parameters
    ----------
    seen
        The images.
    at
        The expansion about their most probable latents.

    Returns
    -------
    fisher : Tensor (b, k, k)
        Of the Fisher information.
    nats : Tensor (b,)
        Of the image's evidence: poses might have been others.
    """
    if seen.spread is None:
        return torch.zeros_like(at.fisher), torch.zeros_like(at.value)
    mixed, own = with_poses(seen, at)
    fisher: Tensor = mixed @ torch.linalg.solve(own, mixed.transpose(1, 2))
    return fisher, 0.5 * torch.logdet(own) + seen.reconstruction.poses.choices()


def value_at(seen: Seen, z: Tensor, latent_prior: float) -> tuple[Tensor, Tensor]:
    """Return misfit and objective at latents z (b, d), both of shape (b,), in double precision."""
    x = seen.reconstruction.conformations(z)
    misfit = compare(seen, seen.expected(x))[0].double()
    return misfit, misfit + seen.reconstruction.geometry(x).double() + 0.5 * latent_prior * z.double().square().sum(1)


def compare(seen: Seen, expected: Tensor) -> tuple[Tensor, Tensor]:
    """Return misfit and scale of each image, both of shape (b,)."""
    likelihood = seen.reconstruction.likelihood
    terms = (seen.image * expected).sum(1), expected.square().sum(1)
    return likelihood.misfit(*terms, seen.batch), likelihood.scale(*terms, seen.batch)


def _fisher(seen: Seen, expected: Tensor, change: Tensor, scale: Tensor) -> Tensor:
    """Return the Fisher information (b, k, k) of images that change by (b, k, 2 c), in double precision.

    A scale of the image's own is not known either: what it could explain of the changes says nothing.
    """
    fisher = scale[:, None, None].square() * (change @ change.transpose(1, 2))
    like = scale[:, None] * (change @ expected[:, :, None])[..., 0]
    variance = _scale_variance(seen, expected)
    share = variance / (1 + variance * expected.square().sum(1))
    return (fisher - share[:, None, None] * like[:, :, None] * like[:, None, :]).double()


def _gradient(seen: Seen, expected: Tensor, scale: Tensor, change: Tensor, move: Tensor, force: Tensor) -> Tensor:
    """Return the gradient (b, k) of misfit and geometry along the directions, in double precision."""
    residual = scale[:, None] * expected - seen.image
    of_image = scale[:, None] * (change @ residual[:, :, None])[..., 0]
    return (of_image + (move @ force[:, :, None])[..., 0]).double()


def _scales(seen: Seen, expected: Tensor) -> Tensor:
    """Return by how many nats less probable images (b,) are since their scale might have been another."""
    return 0.5 * torch.log1p(_scale_variance(seen, expected) * expected.square().sum(1)).double()


def _scale_variance(seen: Seen, expected: Tensor) -> Tensor:
    """Return the variance of each image's scale under its prior, shape (b,): 0 if all have the same."""
    likelihood = seen.reconstruction.likelihood
    return (likelihood.spread * likelihood.gain[seen.batch.optics_group]).square().to(expected.dtype)


def _geometry(reconstruction: Reconstruction, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return what conformations (b, n, 3) cost in nats, shape (b,), and the gradient of it, shape (b, 3 n)."""
    with torch.enable_grad():
        free = x.detach().requires_grad_()
        cost = reconstruction.geometry(free)
        if not cost.requires_grad:  # there are no priors
            return cost, torch.zeros_like(x).flatten(1)
        (gradient,) = torch.autograd.grad(cost.sum(), free)
    return cost.detach(), gradient.flatten(1)


def _positive(matrix: Tensor) -> Tensor:
    """Return the nearest symmetric matrices (b, k, k) without negative eigenvalues."""
    values, vectors = torch.linalg.eigh(0.5 * (matrix + matrix.transpose(1, 2)))
    positive: Tensor = (vectors * values.clamp(min=0)[:, None]) @ vectors.transpose(1, 2)
    return positive
