"""The pair term where contrast transfer depends on the length of the frequency alone: a small grid, a radial table."""

from dataclasses import dataclass

import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray
from scipy.special import j0
from torch import Tensor

from cryomorph.geometry import project, random_rotations
from cryomorph.gridding.footprints import SUPPORT, Footprints, kernel_transform
from cryomorph.gridding.transfer import Engine
from cryomorph.likelihood._filtering import BoxGrid
from cryomorph.likelihood._pairs import BoxPairs, PairTerm
from cryomorph.likelihood.base import ShellCalibration
from cryomorph.optics import phase_coefficients
from cryomorph.particles.batch import ParticleBatch
from cryomorph.particles.stack import ParticleStack
from cryomorph.structure.beads import Beads

Array = NDArray[np.float64]

NEGLIGIBLE = 3e-5
"""Power of the narrowest bead, relative to that at low frequency, beyond which frequencies are left out."""
WINDOW_OVERSAMPLING = 1.2
"""Less than on the box: the highest frequencies hardly count here."""
FADE = 12.0
"""Å over which κ fades out beyond the largest distance in the molecule, so that the grid need not resolve an edge."""
ROOM = 1.08
"""Diameter that there is room for, compared with the template's; larger conformations are computed on the box."""
MOST_ASTIGMATISM = 1.0
"""Å, |U - V|."""
TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 1e-3
"""Relative differences from the box, in value and gradient, up to which the radial table is used."""
COMPARED = 8
"""Images, over the whole range of defocus, for which both are computed."""
DIRECTIONS = 8
"""Directions along which the extent of a molecule is looked at; between them it is at most 2 % larger."""


@dataclass(frozen=True)
class WindowGrid:
    """A periodic grid on which the copies of a molecule do not see each other.

    Attributes
    ----------
    size
        Samples N along an edge.
    step
        Å between samples.
    diameter
        Å, largest distance between beads that it has room for.
    highest
        1/Å, the highest frequency that counts.
    """

    size: int
    step: float
    diameter: float
    highest: float

    @classmethod
    def make(cls, diameter: float, highest: float) -> "WindowGrid":
        """Choose a grid for a molecule of a diameter in Å, frequencies up to `highest` in 1/Å."""
        period = 2 * diameter + FADE
        wanted = int(np.ceil(2 * WINDOW_OVERSAMPLING * highest * period))
        size = 2 * int(scipy.fft.next_fast_len(-(-wanted // 2), real=True))
        return cls(size, period / size, diameter, highest)

    @property
    def period(self) -> float:
        """Å along an edge."""
        return self.size * self.step

    @property
    def oversampling(self) -> float:
        """How much finer than the highest frequency needs the grid is."""
        return 1 / (2 * self.step * self.highest)


class RadialPairs(PairTerm):
    """On a grid of twice the molecule's diameter, with κ as a function of distance alone.

    It leaves out what is not radial: astigmatism, the wrap-around of the box and the corners of its frequency grid.
    Use it where these are negligible, as a comparison with `BoxPairs` tells.

    Parameters
    ----------
    window
        The grid.
    box_grid
        Of the images, whose Nyquist frequency limits what counts.
    footprints
        Of the beads on the window's grid.
    calibration
        Of the shells, or None.
    defocus
        Å, the largest: how finely frequencies are sampled.
    engine
        See the base class.
    """

    def __init__(
        self,
        window: WindowGrid,
        box_grid: BoxGrid,
        footprints: Footprints,
        calibration: ShellCalibration | None,
        defocus: float,
        engine: Engine,
    ) -> None:
        super().__init__(footprints, window.size, engine)
        self.window, self.box_grid = window, box_grid
        device = footprints.table.device
        nodes, to_radii, radii2 = _table_matrix(window, defocus)
        self.nodes = torch.from_numpy(nodes).to(device)
        self.to_radii = torch.from_numpy(to_radii).float().to(device)
        self.place = torch.from_numpy(_places(window.size, radii2)).to(device)
        kernel = kernel_transform(np.arange(window.size // 2 + 1) / window.size, window.oversampling)
        self.unspread = torch.from_numpy(1 / np.square(kernel)).float().to(device)
        self.of_shell = None
        if calibration is not None:
            self.of_shell = (calibration.signal.square() / calibration.noise).float().to(device)

    def has_room(self, points: Tensor) -> bool:
        """Tell whether all distances between the projected beads (b, B, 2), in Å, fit the grid."""
        angle = torch.arange(DIRECTIONS, device=points.device) * (torch.pi / DIRECTIONS)
        along = torch.stack([angle.cos(), angle.sin()], dim=1).to(points.dtype) @ points.transpose(1, 2)
        extent = (along.amax(2) - along.amin(2)).max() / np.cos(np.pi / (2 * DIRECTIONS))
        return bool(extent <= self.window.diameter)

    def __call__(self, points: Tensor, amplitude: Tensor, batch: ParticleBatch) -> tuple[Tensor, Tensor]:
        """Return the power of each image and its gradient; see the base class."""
        middle = 0.5 * (points.amax(1, keepdim=True) + points.amin(1, keepdim=True))
        return super().__call__(points - middle, amplitude, batch)

    def _steps(self, batch: ParticleBatch) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(batch.optics_group), torch.full_like(batch.pixel_size, self.window.step)

    def _weighing(self, batch: ParticleBatch) -> tuple[Tensor, ...]:
        """Return the radial tables, shape (b, radii)."""
        unit = 1 / (self.box_grid.box * batch.pixel_size.double())
        square = (self.nodes / unit[:, None]).square()
        c = phase_coefficients(batch.ctf, unit)
        mean = 0.5 * (c[:, 0] + c[:, 1])  # without astigmatism both are the same
        turns = (c[:, 3:4] * square + mean[:, None]) * square + c[:, 4:]
        phase = torch.pi * (turns - turns.round()).float()
        damping = (2 * torch.pi * self.footprints.reference) ** 2 + 0.5 * batch.ctf.b_factor[:, None]
        power = phase.sin().square() * torch.exp(-damping * self.nodes.square().float())
        power = power * (square <= (self.box_grid.highest + 0.5) ** 2) / batch.pixel_size.square()[:, None]
        if self.of_shell is not None:
            shell = square.sqrt().round().long().clamp(max=self.of_shell.shape[1] - 1)
            power = power * self.of_shell[batch.optics_group].gather(1, shell)
        return (power @ self.to_radii,)

    def _weigh(self, spectrum: Tensor, weighing: tuple[Tensor, ...]) -> None:
        (table,) = weighing
        self.products.weigh_radial(spectrum, table, self.place, self.unspread)


def radial_pairs(
    box: BoxPairs, stack: ParticleStack, beads: Beads, calibration: ShellCalibration | None, *, always: bool
) -> tuple[RadialPairs | None, str]:
    """Make radial pairs for a template, if they agree with those on the box; say why, or why not.

    Parameters
    ----------
    box
        The pair term on the box of the images.
    stack
        The particles.
    beads
        Of the template, b = 1.
    calibration
        Of the shells, or None.
    always
        Use them even if they differ.
    """
    table = stack.table
    astigmatism = float(np.abs(table.defocus_u - table.defocus_v).max())
    if astigmatism > MOST_ASTIGMATISM and not always:
        return None, f"on the box of the images, for astigmatism of up to {astigmatism:.0f} Å"
    nyquist = float((box.grid.highest / (box.grid.box * stack.pixel_size)).max())
    highest = highest_frequency(box.footprints.reference, nyquist)
    window = WindowGrid.make(_diameter(beads.positions[0]) * ROOM, highest)
    if window.size >= box.grid.size and not always:
        return None, "on the box of the images, which is hardly larger than the molecule"
    footprints = Footprints.make(beads.width.double().cpu().numpy(), np.array([window.step]), window.oversampling).to(
        beads.width.device
    )
    defocus = float(np.maximum(np.abs(table.defocus_u), np.abs(table.defocus_v)).max())
    radial = RadialPairs(window, box.grid, footprints, calibration, defocus, box.engine)
    in_power, in_gradient = _difference(radial, box, stack, beads)
    compared = f"it differs from the box of the images by {in_power:.1e} in value and {in_gradient:.1e} in gradient"
    if always or (in_power < TOLERANCE and in_gradient < GRADIENT_TOLERANCE):
        return radial, f"by a radial table ({compared})"
    return None, f"on the box of the images; a radial table will not do ({compared})"


def _difference(radial: RadialPairs, box: BoxPairs, stack: ParticleStack, beads: Beads) -> tuple[float, float]:
    """Relative difference of both pair terms for the template: the largest of the powers, rms of the gradients."""
    order = np.argsort(stack.table.defocus_u, kind="stable")
    rows = np.unique(order[np.linspace(0, len(order) - 1, COMPARED).astype(np.int64)])
    batch = stack.batch(rows, images=False).to(beads.width.device)
    rotation = torch.from_numpy(random_rotations(len(rows), np.random.default_rng(0))).to(beads.positions)
    points = project(beads.positions.detach().expand(len(rows), -1, -1), rotation, torch.zeros_like(batch.shift))
    power, slope = radial(points, beads.amplitude, batch)
    exact_power, exact_slope = box(points, beads.amplitude, batch)
    return float(((power - exact_power) / exact_power).abs().max()), float(
        (slope - exact_slope).norm() / exact_slope.norm()
    )


def _diameter(positions: Tensor) -> float:
    """Å, the largest distance between points (B, 3), at most 2 % more."""
    directions = np.random.default_rng(0).standard_normal((2000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    along = positions.detach().double().cpu().numpy() @ directions.T
    return float((along.max(0) - along.min(0)).max()) * 1.01


def highest_frequency(reference: float, nyquist: float) -> float:
    """Frequency in 1/Å up to which the power of beads of width `reference` (Å) counts, at most Nyquist's."""
    return min(nyquist, float(np.sqrt(-np.log(NEGLIGIBLE)) / (2 * np.pi * reference)))


def _table_matrix(window: WindowGrid, defocus: float) -> tuple[Array, Array, Array]:
    """Matrix from power at radial frequencies to the weights of the grid's coefficients.

    Power to κ by one Hankel transform, faded out, and back by another one to the frequencies that the grid has.

    Returns
    -------
    nodes : array (n,)
        1/Å.
    matrix : array (n, radii)
    radii2 : array (radii,)
        Squared lengths of the grid's Fourier indices.
    """
    reach = window.period - window.diameter
    waves = 0.0197 * defocus * window.highest**2 + window.highest * reach  # at 300 kV
    nodes, node_weight = _quadrature(window.highest, int(40 + 3.3 * waves))
    r, r_weight = _quadrature(reach, int(60 + 3.5 * reach / window.step))
    fade = 0.5 + 0.5 * np.cos(np.pi * np.clip((r - window.diameter) / FADE, 0, 1))
    largest = min((window.size - SUPPORT) // 2, int(np.ceil(window.highest * window.period)) + 4)
    index2 = np.add.outer(np.square(np.arange(largest + 1)), np.square(np.arange(largest + 1)))
    radii2 = np.unique(index2[index2 <= largest**2])
    frequency = np.sqrt(radii2) / window.period
    kappa = 2 * np.pi * node_weight[:, None] * nodes[:, None] * j0(2 * np.pi * np.outer(nodes, r))
    back = 2 * np.pi * (r_weight * r * fade)[:, None] * j0(2 * np.pi * np.outer(r, frequency))
    return nodes, kappa @ back / window.period**2, radii2


def _quadrature(end: float, count: int) -> tuple[Array, Array]:
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return 0.5 * end * (nodes + 1), 0.5 * end * weights


def _places(size: int, radii2: Array) -> NDArray[np.int64]:
    """Which of the radii each coefficient (N, N // 2 + 1) has; the number of radii beyond the largest."""
    ky, kx = np.fft.fftfreq(size, 1 / size), np.arange(size // 2 + 1)
    index2 = np.rint(np.square(ky)[:, None] + np.square(kx)).astype(np.int64)
    place = np.searchsorted(radii2, index2)
    return np.where(index2 <= radii2[-1], place, len(radii2))
