"""Two runs on the two halves of a data set: what they agree on, particle by particle."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomorph.beginning import places_among
from cryomorph.config import open_particles
from cryomorph.conformations.base import ConformationModel
from cryomorph.fitted import DECODE_BATCH, FittedRun
from cryomorph.geometry import rmsd, superpose_core
from cryomorph.held_out import Explained, HeldOut, gain
from cryomorph.latents.table import TableLatents, TableLatentsSettings
from cryomorph.particles.batch import ParticleBatch
from cryomorph.particles.loader import spread_over_groups
from cryomorph.poses.known import KnownPoses, KnownPosesSettings
from cryomorph.posterior import best_start, posteriors
from cryomorph.progress import Progress
from cryomorph.resolved import CERTAIN, Agreement, Motion, agreement, common_component, resolved_motion, views, without
from cryomorph.selection import Selection
from cryomorph.states import States, count_states
from cryomorph.structure.model import Template
from cryomorph.workflows import background_radius

Array = NDArray[np.float64]

PARTICLES = 2000
"""Of both halves together, that are compared: more would tell no more of the motion, and take longer."""
BLOCK = 3
"""Coefficients along an edge of the blocks by which the coefficients of an image are divided."""


@dataclass(frozen=True)
class Evidence:
    """What the coefficients that a half kept out of its fit say, in nats an image, with standard errors.

    Attributes
    ----------
    mean, mean_error : float
        By how much the mean conformation explains them better than nothing does.
    motion, motion_error : float
        By how much each particle's own conformation explains them better than the mean conformation does.
    """

    mean: float
    mean_error: float
    motion: float
    motion_error: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """What two runs on the halves of a data set agree on.

    Attributes
    ----------
    motion : Motion
        Between estimates that share neither noise nor model.
    agreement : Agreement
        Of the two models about the same images.
    states : States
        Along `component`, in Å of root mean square displacement of the whole molecule.
    component : array (n, 3)
        Direction along which the estimates have most in common, unit root mean square length.
    places : array (m, 2)
        Place of each particle along it, by either estimate, Å.
    means : array (2, n, 3)
        Mean conformation of each half, in the frame of the template, Å.
    from_template, between_halves : float
        RMSD of the mean conformation of both halves from the template, and of one half's from the other's, Å.
    evidence : tuple of Evidence
        Of each half; empty if no coefficients were kept out of the fit.
    particles : array (m,)
        Rows of the original file that were compared.
    half : array (m,)
        Which half each is from, 1 or 2.
    """

    motion: Motion
    agreement: Agreement
    states: States
    component: Array
    places: Array
    means: Array
    from_template: float
    between_halves: float
    evidence: tuple[Evidence, ...]
    particles: NDArray[np.int64]
    half: NDArray[np.int64]

    @property
    def explains(self) -> bool:
        """Whether motion explains the coefficients that either half kept out of its fit, if it kept any."""
        return all(half.motion > CERTAIN * half.motion_error for half in self.evidence)

    @property
    def resolved(self) -> bool:
        """Whether there is motion: beyond noise in what the halves share, and in coefficients outside the fit."""
        return self.motion.resolved and self.explains


class Half:
    """A finished run on one half, able to look at the particles of the other, whose poses it takes as known.

    Parameters
    ----------
    fitted
        The run.
    name
        For whoever watches.
    device
        Where to compute.
    """

    def __init__(self, fitted: FittedRun, name: str, device: torch.device) -> None:
        self.fitted, self.name = fitted, name
        stack = open_particles(fitted.config.particles)
        fitted.run.check_particles(fitted.config.particles.files(), stack.source_index)
        self.stack = stack.with_background_radius(background_radius(fitted.template, stack))
        self.reconstruction = fitted.reconstruction
        if fitted.found_poses is not None:
            # Poses that were found go with conformations whose core lies on the template's.
            found = fitted.found_poses
            self.stack = replace(
                self.stack, table=replace(self.stack.table, rotation=found.rotation, shift=found.shift)
            )
            self.reconstruction.conformations = _Superposed(fitted.template, fitted.model)
        self.reconstruction.poses = KnownPoses(KnownPosesSettings(), len(self.stack))
        self.reconstruction.to(device)
        if self.reconstruction.likelihood.calibration is not None:
            self.reconstruction.likelihood.calibration = self.reconstruction.likelihood.calibration.to(device)
        self.device = device
        self.places = places_among(fitted.latents, fitted.config.seed).to(device)

    def decode(self, latents: NDArray[np.floating]) -> NDArray[np.float32]:
        """Decode latents (m, d) into conformations (m, n, 3) in the frame that the poses refer to, Å."""
        parts = []
        with torch.no_grad():
            for part in np.array_split(latents.astype(np.float32), -(-len(latents) // DECODE_BATCH)):
                x = self.reconstruction.conformations(torch.from_numpy(part).to(self.device))
                parts.append(x.float().cpu().numpy())
        return np.concatenate(parts)

    def conformations(self, latents: NDArray[np.floating]) -> NDArray[np.float32]:
        """Decode latents (m, d) into conformations (m, n, 3) whose core lies on the template's, Å."""
        x = self.decode(latents)
        parts = np.array_split(x, -(-len(x) // DECODE_BATCH))
        template = self.fitted.template.coordinates
        return np.concatenate([_on_core(part.astype(np.float64), template).astype(np.float32) for part in parts])

    def look_at(
        self,
        other: "Half",
        rows: NDArray[np.int64],
        selection: Selection | None,
        progress: Progress | None,
        title: str,
    ) -> NDArray[np.float32]:
        """Return the most probable conformations (m, n, 3) of particles of a half by this half's model.

        Parameters
        ----------
        other
            Whose particles.
        rows
            Of its stack, shape (m,).
        selection
            Coefficients that count; all if None.
        progress, title
            Told of every image.
        """
        prior = float(self.reconstruction.latent_prior)
        seen = None if selection is None else selection.to(self.device)

        def start(batch: ParticleBatch, observed: Tensor) -> Tensor:
            return best_start(
                *(self.reconstruction, batch, observed, self.places),
                box=other.stack.box,
                latent_prior=prior,
                selection=seen,
            )

        found = posteriors(
            *(self.reconstruction, other.stack, rows, start),
            latent_prior=prior,
            selection=seen,
            progress=progress,
            title=title,
        )
        return self.conformations(np.concatenate([posterior.mean.cpu().numpy() for _, posterior in found]))


def compare(first: FittedRun, second: FittedRun, device: torch.device, progress: Progress | None = None) -> Comparison:
    """Compare two runs that were trained on the two halves of a data set with the same settings.

    Parameters
    ----------
    first, second
        The runs.
    device
        Where to compute.
    progress
        Told of images.
    """
    halves = Half(first, "1", device), Half(second, "2", device)
    rows = [spread_over_groups(half.stack.table.optics_group, PARTICLES // 2, 1) for half in halves]
    one, two = _estimates(halves, rows, progress)
    known = _views(halves, rows)
    displacements = without(one, known), without(two, known)
    own = [half.conformations(half.fitted.latents[some]) for half, some in zip(halves, rows, strict=True)]
    means = np.stack([x.mean(0, dtype=np.float64) for x in own])
    template = first.template.coordinates
    component = common_component(*displacements)
    size = np.sqrt(len(template))
    places = np.stack([np.einsum("pri,ri->p", x, component) / size for x in displacements], axis=1)
    return Comparison(
        motion=resolved_motion(one, two, known),
        agreement=agreement(*_of_both_models(halves, rows, own, progress)),
        states=count_states(*places.T),
        component=component * size,
        places=places,
        means=means,
        from_template=float(rmsd(means.mean(0), template)),
        between_halves=float(rmsd(*means)),
        evidence=tuple(
            _evidence(half, some) for half, some in zip(halves, rows, strict=True) if half.fitted.config.free.share > 0
        ),
        particles=np.concatenate([half.fitted.source_index[row] for half, row in zip(halves, rows, strict=True)]),
        half=np.repeat([1, 2], [len(row) for row in rows]),
    )


def _estimates(
    halves: tuple[Half, Half], rows: list[NDArray[np.int64]], progress: Progress | None
) -> list[NDArray[np.float32]]:
    """Return two estimates of all particles' conformations: by either model, from either half of each image."""
    selection = Selection.half(halves[0].stack.box, BLOCK, halves[0].fitted.config.seed)
    parts = selection, selection.complement
    return [
        np.concatenate(
            [
                model.look_at(
                    particles, some, part, progress, f"model {model.name}, half of each image {particles.name}"
                )
                for particles, some in zip(halves, rows, strict=True)
            ]
        )
        for model, part in zip(halves, parts, strict=True)
    ]


def _views(halves: tuple[Half, Half], rows: list[NDArray[np.int64]]) -> Array:
    """Return functions of the views of all particles, shape (m, k)."""
    tables = [half.stack.table.take(some) for half, some in zip(halves, rows, strict=True)]
    rotations = [table.rotation for table in tables if table.rotation is not None]  # with poses, both or none
    defocus = [(table.defocus_u + table.defocus_v) / 2 for table in tables]
    return views(np.concatenate(rotations), np.concatenate(defocus))


def _of_both_models(
    halves: tuple[Half, Half],
    rows: list[NDArray[np.int64]],
    own: list[NDArray[np.float32]],
    progress: Progress | None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return what the two models make of whole images: of those they were trained on, what their runs say (`own`)."""
    cross = [
        model.look_at(particles, some, None, progress, f"model {model.name}, images {particles.name}")
        for model, particles, some in zip(halves, halves[::-1], rows[::-1], strict=True)
    ]
    return np.concatenate([own[0], cross[0]]), np.concatenate([cross[1], own[1]])


class _Superposed(ConformationModel):
    """Conformations of a model, each with its core on that of the template."""

    def __init__(self, template: Template, model: ConformationModel) -> None:
        super().__init__(template, model.latent_dim)
        self.model = model
        self.core = template.coordinates

    def displacement(self, z: Tensor) -> Tensor:
        x: Tensor = self.model(z)
        moved = _on_core(x.double().cpu().numpy(), self.core)
        return torch.from_numpy(moved).to(x) - self.template


def _on_core(x: Array, template: Array) -> Array:
    """Superpose conformations (m, n, 3) on the template by what moves least."""
    rotation, translation = superpose_core(x, template)
    return np.asarray(x @ np.swapaxes(rotation, 1, 2) + translation[:, None])


def _evidence(half: Half, rows: NDArray[np.int64]) -> Evidence:
    """Compare each particle's conformation and the mean of some with the coefficients that the run never saw."""
    fitted, config = half.fitted, half.fitted.config
    latents = TableLatents(TableLatentsSettings(), fitted.model.latent_blocks(), len(fitted.latents))
    latents.table.weight.data = torch.from_numpy(fitted.latents)
    mean = half.decode(fitted.latents[rows]).mean(0, dtype=np.float64)
    selection = Selection.work(half.stack.box, config.free, config.seed).to(half.device)
    held_out = HeldOut(
        *(half.reconstruction, latents.to(half.device), half.stack, selection, config.free.images),
        np.ones(len(half.stack), dtype=np.bool_),
        half.device,
    )
    each, still = held_out.measure(), held_out.measure(torch.from_numpy(mean).float().to(half.device))
    nothing = Explained(np.zeros_like(still.work), np.zeros_like(still.free))
    return Evidence(*gain(still, nothing), *gain(each, still))
