"""What scatters, from the images: density about the molecule that does not move, how much and how sharply residues do.

The misfit is quadratic in the amplitudes. Its slope is gathered from the images, each at its own conformation and pose;
its curvature is taken for views from all directions alike, where it depends on the distances between beads only. In
B-factors the model is linearised. What follows is kept if it explains coefficients better that the fit has not seen.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import block_diag
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
from cryomorph.structure.scatterers import MOST_BLUR, MOST_FACTOR, PER_VARIANCE, Scatterers, ScatteringSettings

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]
AddUp = Callable[..., None]

EVIDENCE = 2.0
"""Standard errors by which free coefficients must be explained better."""
THRESHOLD = 2.0
"""Standard errors that an amplitude about the molecule pays, so that noise makes none."""
SPREAD, STEP = 0.3, 0.1
"""Standard deviations, before images are seen, of a residue's factor about 1 and of the difference of neighbours."""
BLUR_SPREAD, BLUR_STEP = 150.0, 50.0
"""The same of a residue's B-factor about 0 and of neighbours', Å²."""
BLUR_PASSES = 3
"""Times that images are looked at for B-factors: steps of a model that is not linear fall short."""
WHOLE_BLUR = 5.0
"""Å², of which B-factors are multiples: beads of few widths are faster."""
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
    blur : Tensor (B,)
        Nats per Å² of a bead's B-factor.
    power : Tensor (groups, shells)
        By what a squared coefficient of a bead of unit amplitude is multiplied in nats, summed over images and each
        shell's coefficients, but for the bead's width.
    frequency : Tensor (groups, shells)
        1/Å.
    """

    slope: Tensor
    blur: Tensor
    power: Tensor
    frequency: Tensor

    def blurred(self, times: int) -> "Slopes":
        """Return these with beads differentiated so often, in all, by B-factors: each factor is `-k²/4`."""
        return replace(self, power=self.power * (-0.25 * self.frequency.square()) ** times)

    def curvature(self, a: Array, b: Array, width_a: Array, width_b: Array) -> Array:
        """Return the curvature between beads at a (A, 3) and b (B, 3) of widths (A,) and (B,), all in Å; (A, B).

        The mean of `cos(2π k·P(a - b))` over all directions is `sin(2πkr) / (2πkr)`.
        """
        distance = np.linalg.norm(a[:, None] - b[None], axis=-1)
        widths = np.square(width_a)[:, None] + np.square(width_b)[None]
        power, frequency = self.power.cpu().numpy().ravel(), self.frequency.cpu().numpy().ravel()
        at, step = np.linspace(0, float(distance.max(initial=0.0)) + 1e-6, DISTANCES, retstep=True)
        kinds, kind = np.unique(widths.round(2), return_inverse=True)  # few
        damped = power[:, None] * np.exp(-2 * np.pi**2 * kinds * frequency[:, None] ** 2)
        table = np.sinc(2 * at[:, None] * frequency) @ damped
        place = distance / step
        below = np.minimum(place.astype(np.int64), DISTANCES - 2)
        kind = kind.reshape(distance.shape)
        low, high = table[below, kind], table[below + 1, kind]
        result: Array = low + (place - below) * (high - low)
        return result


@dataclass(frozen=True, eq=False)
class Unknown:
    """A number of each residue that is looked for.

    Attributes
    ----------
    name : str
        Of the buffer of `Scatterers`.
    blurs : int
        How often a bead is differentiated by its B-factor to get the slope.
    spread, step, rest, most : float
        Standard deviations, before images are seen, about `rest` and of the difference of neighbours; upper bound.
    now : array (n,)
        Its value so far.
    strength, slope : array (B,)
        Amplitude of each bead per unit, but for what B-factors do, and the slope of the log-likelihood.
    """

    name: str
    blurs: int
    spread: float
    step: float
    rest: float
    most: float
    now: Array
    strength: Array
    slope: Array

    def prior(self) -> Array:
        """Return the curvature of the prior in units of the spread, shape (n, n)."""
        identity = np.eye(len(self.now))
        difference = np.diff(identity, axis=0) * (self.spread / self.step)
        return identity + difference.T @ difference


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
        settings = self.settings
        of_residues = {"occupancy": settings.occupancy, "B-factors": settings.b_factors}
        for name, passes, find in (
            ("density about the molecule", int(settings.surroundings), self._surroundings),
            (
                " and ".join(part for part, wanted in of_residues.items() if wanted),
                BLUR_PASSES if settings.b_factors else int(settings.occupancy),
                self._of_residues,
            ),
        ):
            for _ in range(passes):
                slopes = self.slopes(rows, add_up, device, progress)
                # Without power no pose is known.
                if not slopes.power.any() or not self._keep_if_better(name, find(slopes), add_up):
                    break

    def slopes(
        self, rows: NDArray[np.int64], add_up: AddUp, device: torch.device, progress: Progress | None = None
    ) -> Slopes:
        """Gather the slopes of all amplitudes: the molecule's beads, then all places about it."""
        groups, shells = len(self.reconstruction.likelihood.gain), band(self.stack.box) + 1
        beads = len(self.scatterers.molecule.amplitude) + len(self.scatterers.extra)
        slope, blur = torch.zeros(2, beads, dtype=torch.float64, device=device)
        power = torch.zeros(groups, shells, dtype=torch.float64, device=device)
        pixel_size = np.ones(groups)
        pixel_size[self.stack.table.optics_group] = self.stack.pixel_size
        training, progress = self.latents.training, progress or Silent()
        self.latents.eval()
        progress.start("amplitudes", len(rows))
        try:
            parts = np.array_split(rows, -(-len(rows) // IMAGES_AT_ONCE)) if len(rows) else []
            for batch in prefetch(self.stack, parts):
                self._add(batch.to(device), slope, blur, power)
                progress.advance(len(batch))
        finally:
            self.latents.train(training)
            progress.finish()
        add_up(slope, blur, power)
        frequency = torch.arange(shells) / torch.from_numpy(self.stack.box * pixel_size)[:, None]
        return Slopes(slope, blur, power, frequency.to(device))

    def _add(self, batch: ParticleBatch, slope: Tensor, blur: Tensor, power: Tensor) -> None:
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
        width = beads.width.clone().requires_grad_(self.settings.b_factors)
        model = projection_coefficients(points, amplitude, width, batch.pixel_size, box)
        cross = (matched.real * model.real + matched.imag * model.imag).sum((1, 2))
        model_power = (passed * (model.real.square() + model.imag.square())).sum((1, 2))
        scale = likelihood.scale(cross.detach(), model_power.detach(), batch)
        (scale * cross - 0.5 * scale.square() * model_power).sum().backward()  # type: ignore[no-untyped-call]
        assert amplitude.grad is not None
        slope += amplitude.grad
        if width.grad is not None:
            blur += width.grad / (2 * PER_VARIANCE * beads.width)
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

    def _of_residues(self, slopes: Slopes) -> dict[str, Tensor]:
        """Return new factors and B-factors of the residues, as far as they are looked for, together."""
        scatterers, template = self.scatterers, self.reconstruction.conformations.template[None]
        with torch.no_grad():
            whole: Beads = scatterers.molecule(template)
            beads = scatterers.beads(template, torch.zeros_like(scatterers.extra, dtype=torch.bool))
        at, width = _array(beads.positions[0]), _array(beads.width)
        residue, count = scatterers.molecule.residue.cpu().numpy(), len(scatterers.molecule.amplitude)
        unknowns: list[Unknown] = []
        if self.settings.occupancy:
            now, strength = _array(scatterers.factor), _array(whole.amplitude)
            slope = strength * _array(slopes.slope[:count])
            unknowns.append(Unknown("factor", 0, SPREAD, STEP, 1.0, MOST_FACTOR, now, strength, slope))
        if self.settings.b_factors:
            now, strength, slope = _array(scatterers.b_factor), _array(beads.amplitude), _array(slopes.blur[:count])
            unknowns.append(Unknown("b_factor", 1, BLUR_SPREAD, BLUR_STEP, 0.0, MOST_BLUR, now, strength, slope))
        kernels = [slopes.blurred(times).curvature(at, at, width, width) for times in range(3)]
        found, sharper = numbers_of_residues(unknowns, residue, kernels)
        if "b_factor" in found:
            found["b_factor"] = WHOLE_BLUR * (found["b_factor"] / WHOLE_BLUR).round()
        new = {name: torch.from_numpy(values) for name, values in found.items()}
        calibration = self.reconstruction.likelihood.calibration
        if calibration is not None:
            new["signal"] = calibration.signal * torch.exp(0.25 * sharper * slopes.frequency.square())
        return new

    def _keep_if_better(self, name: str, found: dict[str, Tensor], add_up: AddUp) -> bool:
        """Take new amplitudes; take them back if free coefficients do not gain by them. Returns whether they do."""
        before = self.held_out.measure()
        old = self._take(found)
        mean, error = gain(self.held_out.measure(), before, add_up)
        keep = mean > EVIDENCE * error
        if not keep:
            self._take(old)
        verdict = "kept" if keep else "not kept"
        logger.info("%s: %s, free coefficients gain %.2f ± %.2f nats/image", name, verdict, mean, error)
        return keep

    def _take(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """Put amplitudes, and the signal of shells, in place; returns those so far."""
        calibration = self.reconstruction.likelihood.calibration
        places = {key: getattr(calibration if key == "signal" else self.scatterers, key) for key in found}
        old = {key: place.clone() for key, place in places.items()}
        for key, place in places.items():
            place.copy_(found[key])
        return old


def numbers_of_residues(
    unknowns: list[Unknown], residue: NDArray[np.int64], kernels: list[Array]
) -> tuple[dict[str, Array], float]:
    """Minimise over numbers of residues and, with B-factors, over a B-factor by which the whole is sharper.

    Parameters
    ----------
    unknowns
        What is looked for.
    residue
        Of each bead, shape (B,).
    kernels
        Curvature between beads (B, B) differentiated by B-factors not at all, once and twice.

    Returns
    -------
    found : dict of arrays (n,)
    sharper : float
        Å². What all residues have in common is no residue's, but a change of the shells' signal. It has no prior.
    """
    own = np.eye(len(unknowns[0].now))[residue]
    count = own.shape[1]
    carried = [unknown.spread * unknown.strength[:, None] * own for unknown in unknowns]
    curvature = np.block(
        [
            [a.T @ kernels[one.blurs + other.blurs] @ b for other, b in zip(unknowns, carried, strict=True)]
            for one, a in zip(unknowns, carried, strict=True)
        ]
    )
    now = np.concatenate([unknown.now / unknown.spread for unknown in unknowns])
    slope = np.concatenate([unknown.spread * (own.T @ unknown.slope) for unknown in unknowns]) + curvature @ now
    blurs, rest, most = (
        np.repeat(values, count)
        for values in zip(*((u.blurs, u.rest / u.spread, u.most / u.spread) for u in unknowns), strict=True)
    )
    onto = np.hstack([np.eye(len(now)), -blurs[:, None] / np.sqrt(count)])
    prior = block_diag(*(unknown.prior() for unknown in unknowns), np.zeros((1, 1)))
    bound = np.inf if blurs.any() else 0.0
    values = minimise(
        onto.T @ curvature @ onto + prior,
        onto.T @ slope + np.append(rest, 0.0),
        np.append(now, 0.0),
        np.append(np.zeros_like(most), -bound),
        np.append(most, bound),
    )
    parts = np.split(values[:-1], len(unknowns))
    found = {unknown.name: unknown.spread * part for unknown, part in zip(unknowns, parts, strict=True)}
    return found, BLUR_SPREAD * float(values[-1]) / np.sqrt(count)


def _array(values: Tensor) -> Array:
    return values.detach().double().cpu().numpy()


def minimise(curvature: Array, slope: Array, start: Array, low: float | Array, high: float | Array) -> Array:
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
