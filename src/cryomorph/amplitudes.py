"""Amplitudes of beads from the images: what does not move about the molecule, and how much each residue scatters.

The misfit is quadratic in the amplitudes. Its slope is gathered from the images, each at its own conformation and pose;
its curvature is taken for views from all directions alike, where it depends on the distances between beads only. The
amplitudes that follow are kept if they explain coefficients better that the fit has not seen.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomorph.fourier import band, image_coefficients, shell_index
from cryomorph.geometry import project
from cryomorph.held_out import HeldOut, gain
from cryomorph.latents.base import Latents
from cryomorph.likelihood.direct import projection_coefficients
from cryomorph.particles.batch import ParticleBatch
from cryomorph.particles.loader import prefetch, spread_over_groups
from cryomorph.particles.stack import ParticleStack
from cryomorph.progress import Progress, Silent
from cryomorph.reconstruction import Reconstruction
from cryomorph.structure.beads import Beads
from cryomorph.structure.scatterers import MOST_FACTOR, Scatterers, ScatteringSettings

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]
AddUp = Callable[..., None]

EVIDENCE = 2.0
"""Standard errors by which free coefficients must be explained better."""
THRESHOLD = 2.0
"""Standard errors that an amplitude about the molecule pays, so that noise makes none."""
SPREAD, STEP = 0.3, 0.1
"""Standard deviations, before images are seen, of a residue's factor about 1 and of the difference of neighbours."""
IMAGES_AT_ONCE = 32
ITERATIONS = 400
DISTANCES = 4096
"""Entries of the table of the curvature."""


@dataclass(frozen=True, eq=False)
class Slopes:
    """How the log-likelihood of some images changes with the amplitudes of B beads.

    Attributes
    ----------
    slope : Tensor (B,)
        Nats per unit of amplitude, summed over images; float64.
    power : Tensor (groups, shells)
        By what a squared coefficient of a bead of unit amplitude is multiplied in nats, summed over images and each
        shell's coefficients, but for the bead's width.
    frequency : Tensor (groups, shells)
        1/Å.
    """

    slope: Tensor
    power: Tensor
    frequency: Tensor

    def curvature(self, a: Array, b: Array, width_a: Array, width_b: Array) -> Array:
        """Return the curvature between beads at a (A, 3) and b (B, 3) of widths (A,) and (B,), all in Å; (A, B).

        The mean of `cos(2π k·P(a - b))` over all directions is `sin(2πkr) / (2πkr)`.
        """
        distance = np.linalg.norm(a[:, None] - b[None], axis=-1)
        widths = np.square(width_a)[:, None] + np.square(width_b)[None]
        power, frequency = self.power.cpu().numpy().ravel(), self.frequency.cpu().numpy().ravel()
        at = np.linspace(0, float(distance.max(initial=0.0)) + 1e-6, DISTANCES)
        result: Array = np.empty_like(distance)
        for width in np.unique(widths.round(2)):  # few kinds of beads
            damped = power * np.exp(-2 * np.pi**2 * width * frequency**2)
            table = np.sinc(2 * at[:, None] * frequency) @ damped
            same = widths.round(2) == width
            result[same] = np.interp(distance[same], at, table)
        return result


class AmplitudeFit:
    """Looks for amplitudes, and keeps what free coefficients bear out.

    Parameters
    ----------
    settings
        What is looked for.
    reconstruction, latents
        Being trained; the beads are `Scatterers`.
    stack
        The particles.
    held_out
        Images whose free coefficients decide.
    """

    def __init__(
        self,
        settings: ScatteringSettings,
        reconstruction: Reconstruction,
        latents: Latents,
        stack: ParticleStack,
        held_out: HeldOut,
    ) -> None:
        assert isinstance(reconstruction.beads, Scatterers)
        self.settings, self.held_out = settings, held_out
        self.reconstruction, self.latents, self.stack = reconstruction, latents, stack
        self.scatterers = reconstruction.beads

    def run(
        self, images: int, owned: NDArray[np.bool_], add_up: AddUp, device: torch.device, progress: Progress | None
    ) -> None:
        """Look for what is asked for, at current conformations and poses.

        Parameters
        ----------
        images
            How many images tell, in all processes together.
        owned
            Which particles are this process's and have poses, shape (m,).
        add_up
            Adds tensors up over the processes, in place.
        device
            Where to compute.
        progress
            Told of every image.
        """
        rows = spread_over_groups(self.stack.table.optics_group, images, 1)
        rows = rows[owned[rows]]
        for name, wanted, find in (
            ("density about the molecule", self.settings.surroundings, self._surroundings),
            ("occupancy", self.settings.occupancy, self._factors),
        ):
            if wanted:
                slopes = self.slopes(rows, add_up, device, progress)
                if slopes.power.any():  # some pose is known
                    self._keep_if_better(name, find(slopes), add_up)

    def slopes(
        self, rows: NDArray[np.int64], add_up: AddUp, device: torch.device, progress: Progress | None = None
    ) -> Slopes:
        """Gather the slopes of all amplitudes: the molecule's beads, then all places about it."""
        groups, shells = len(self.reconstruction.likelihood.gain), band(self.stack.box) + 1
        beads = len(self.scatterers.molecule.amplitude) + len(self.scatterers.extra)
        slope = torch.zeros(beads, dtype=torch.float64, device=device)
        power = torch.zeros(groups, shells, dtype=torch.float64, device=device)
        pixel_size = np.ones(groups)
        pixel_size[self.stack.table.optics_group] = self.stack.pixel_size
        training, progress = self.latents.training, progress or Silent()
        self.latents.eval()
        progress.start("amplitudes", len(rows))
        try:
            parts = np.array_split(rows, -(-len(rows) // IMAGES_AT_ONCE)) if len(rows) else []
            for batch in prefetch(self.stack, parts):
                self._add(batch.to(device), slope, power)
                progress.advance(len(batch))
        finally:
            self.latents.train(training)
            progress.finish()
        add_up(slope, power)
        frequency = torch.arange(shells) / torch.from_numpy(self.stack.box * pixel_size)[:, None]
        return Slopes(slope, power, frequency)

    def _add(self, batch: ParticleBatch, slope: Tensor, power: Tensor) -> None:
        """Add the images of a batch to the sums."""
        assert batch.image is not None
        likelihood, box = self.reconstruction.likelihood, self.stack.box
        with torch.no_grad():
            x = self.reconstruction.conformations(self.latents(batch))
            beads = self.scatterers.beads(x, torch.ones_like(self.scatterers.extra, dtype=torch.bool))
            points = project(beads.positions, *self.reconstruction.poses.best(batch))
            weight, transfer = likelihood.weight(batch, box), likelihood.transfer(batch, box)
            matched = image_coefficients(batch.image) * (weight * transfer)
            passed = weight * transfer.square()
        amplitude = beads.amplitude.clone().requires_grad_()
        model = projection_coefficients(points, amplitude, beads.width, batch.pixel_size, box)
        cross = (matched.real * model.real + matched.imag * model.imag).sum((1, 2))
        model_power = (passed * (model.real.square() + model.imag.square())).sum((1, 2))
        scale = likelihood.scale(cross.detach(), model_power.detach(), batch)
        (scale * cross - 0.5 * scale.square() * model_power).sum().backward()  # type: ignore[no-untyped-call]
        assert amplitude.grad is not None
        slope += amplitude.grad
        share = (scale.square() / batch.pixel_size**4)[:, None]
        shells = power.new_zeros(len(batch), power.shape[1])
        shells.index_add_(1, shell_index(box, power.device).flatten(), passed.flatten(1).double())
        power.index_add_(0, batch.optics_group, share * shells)

    def _surroundings(self, slopes: Slopes) -> dict[str, Tensor]:
        """Return new amplitudes of the places about the molecule."""
        places, width = (part.double().cpu().numpy() for part in (self.scatterers.places, self.scatterers.extra_width))
        curvature = slopes.curvature(places, places, width, width)
        now = self.scatterers.extra.double().cpu().numpy()
        slope = slopes.slope[len(self.scatterers.molecule.amplitude) :].cpu().numpy() + curvature @ now
        # The slope's own noise has the curvature for its covariance.
        price = THRESHOLD * np.sqrt(np.diag(curvature))
        return {"extra": torch.from_numpy(minimise(curvature, slope - price, now, 0.0, np.inf))}

    def _factors(self, slopes: Slopes) -> dict[str, Tensor]:
        """Return new factors of the residues."""
        molecule = self.scatterers.molecule
        with torch.no_grad():
            beads: Beads = molecule(self.reconstruction.conformations.template[None])
        residue, amplitude = molecule.residue.cpu().numpy(), beads.amplitude.double().cpu().numpy()
        at, width = beads.positions[0].double().cpu().numpy(), beads.width.double().cpu().numpy()
        count = len(self.scatterers.factor)
        belongs = np.zeros((len(residue), count))
        belongs[np.arange(len(residue)), residue] = amplitude
        curvature = belongs.T @ slopes.curvature(at, at, width, width) @ belongs
        now = self.scatterers.factor.double().cpu().numpy()
        slope = belongs.T @ slopes.slope[: len(residue)].cpu().numpy() + curvature @ now
        difference = np.diff(np.eye(count), axis=0) / STEP
        curvature += np.eye(count) / SPREAD**2 + difference.T @ difference
        slope += 1 / SPREAD**2
        return {"factor": torch.from_numpy(minimise(curvature, slope, now, 0.0, MOST_FACTOR))}

    def _keep_if_better(self, name: str, found: dict[str, Tensor], add_up: AddUp) -> None:
        """Take new amplitudes; take them back if free coefficients do not gain by them."""
        before = self.held_out.measure()
        old = {key: getattr(self.scatterers, key).clone() for key in found}
        for key, value in found.items():
            getattr(self.scatterers, key).copy_(value)
        mean, error = gain(self.held_out.measure(), before, add_up)
        keep = mean > EVIDENCE * error
        if not keep:
            for key, value in old.items():
                getattr(self.scatterers, key).copy_(value)
        verdict = "kept" if keep else "not kept"
        logger.info("%s: %s, free coefficients gain %.2f ± %.2f nats/image", name, verdict, mean, error)


def minimise(curvature: Array, slope: Array, start: Array, low: float, high: float) -> Array:
    """Minimise `½ a·C a - b·a` between bounds, by accelerated projected gradients from `start`.

    Parameters
    ----------
    curvature
        C, positive semi-definite, shape (n, n).
    slope
        b, shape (n,).
    start
        Shape (n,).
    low, high
        Bounds.

    Returns
    -------
    array (n,)
    """
    if not len(slope):
        return start
    largest = float(np.abs(curvature).sum(1).max())  # no eigenvalue is larger
    a = ahead = np.clip(start, low, high)
    momentum = 1.0
    for _ in range(ITERATIONS):
        following = np.clip(ahead - (curvature @ ahead - slope) / largest, low, high)
        momentum_next = 0.5 * (1 + np.sqrt(1 + 4 * momentum**2))
        ahead = following + (momentum - 1) / momentum_next * (following - a)
        a, momentum = following, momentum_next
    return a
