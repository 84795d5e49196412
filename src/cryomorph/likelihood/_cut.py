"""The pair term on a grid as large as the molecule asks for, whatever the box of the images."""

from dataclasses import dataclass

import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomorph.fourier import band, shell_index
from cryomorph.gridding.box import BoxGrid
from cryomorph.gridding.footprints import SUPPORT, Footprints, kernel_transform
from cryomorph.gridding.transfer import Engine
from cryomorph.likelihood._pairs import BoxPairs, PairTerm, Shares, axis_power, pixel_size_index
from cryomorph.likelihood.base import ShellCalibration
from cryomorph.optics import phase_coefficients
from cryomorph.particles.batch import ParticleBatch
from cryomorph.particles.stack import ParticleStack
from cryomorph.selection import Selection
from cryomorph.structure.beads import Beads

Array = NDArray[np.float64]

NEGLIGIBLE = 3e-5
"""Power of the narrowest bead, relative to that at low frequency, beyond which frequencies are left out."""
FADE = 6.0
"""Periods of the highest frequency over which κ fades out beyond the largest distance in the molecule."""
SPILL = 6
"""Fourier indices beyond the highest frequency that fading out reaches."""
ROOM = 1.08
"""Diameter that there is room for, compared with the template's; larger conformations are computed on the box."""
SMALLER = 0.8
"""Share of the box's samples along an edge from which the smaller grid pays."""
DIRECTIONS = 8
"""Directions along which the extent of a molecule is looked at; between them it is at most 2 % larger."""


@dataclass(frozen=True)
class CutGrid:
    """A periodic grid on which the copies of a molecule do not see each other.

    Attributes
    ----------
    size
        Samples N along an edge.
    step
        Å between samples.
    diameter
        Å, largest distance between beads that it has room for.
    fade
        Å beyond, over which κ fades out.
    highest
        Fourier index up to which coefficients count, along an axis.
    frequency
        1/Å, the highest one that counts in κ.
    """

    size: int
    step: float
    diameter: float
    fade: float
    highest: int
    frequency: float

    @classmethod
    def make(cls, diameter: float, frequency: float) -> "CutGrid":
        """Choose a grid for a molecule of a diameter in Å and frequencies up to `frequency` in 1/Å."""
        fade = FADE / frequency
        period = 2 * diameter + fade
        highest = int(np.ceil(frequency * period))
        wanted = 2 * (highest + SPILL) + SUPPORT
        size = 2 * int(scipy.fft.next_fast_len(-(-wanted // 2), real=True))
        return cls(size, period / size, diameter, fade, highest + SPILL, frequency)

    @property
    def period(self) -> float:
        """Å along an edge."""
        return self.size * self.step

    @property
    def oversampling(self) -> float:
        """How much finer than the highest index needs the grid is."""
        return self.size / (2 * self.highest)


class CutPairs(PairTerm):
    """On a grid of twice the molecule's diameter: κ of the box, cut to the distances that occur in the molecule.

    `κ(x, y) t(x) t(y)`, with t = 1 up to the diameter and fading out beyond, has the Fourier coefficients
    `Σ_k κ(k) a(m_x, k_x) a(m_y, k_y)`, two matrix products. Nothing is assumed about κ.

    Parameters
    ----------
    cut
        The grid.
    box_grid
        Of the images.
    footprints
        Of the beads on the smaller grid.
    pixel_sizes
        Å, of the images, distinct and ascending.
    calibration
        Of the shells, or None.
    astigmatic
        Whether an image is.
    engine
        See the base class.
    """

    def __init__(
        self,
        cut: CutGrid,
        box_grid: BoxGrid,
        footprints: Footprints,
        pixel_sizes: Tensor,
        calibration: ShellCalibration | None,
        selection: Selection | None,
        *,
        astigmatic: bool,
        engine: Engine,
    ) -> None:
        super().__init__(footprints, cut.size, engine)
        device = footprints.table.device
        self.cut, self.box_grid, self.astigmatic = cut, box_grid, astigmatic
        self.pixel_sizes = pixel_sizes
        periods = (box_grid.box * pixel_sizes.double()).tolist()
        self.used = min(int(np.ceil(cut.frequency * max(periods))), box_grid.highest)
        matrices = [_cut_matrices(cut, self.used, period) for period in periods]
        self.even, self.odd = (
            torch.from_numpy(np.stack(kind)).float().to(device) for kind in zip(*matrices, strict=True)
        )
        kernel = kernel_transform(np.arange(cut.highest + 1) / cut.size, cut.oversampling)
        self.unspread = torch.from_numpy(1 / np.square(kernel)).float().to(device)
        kept = (slice(None), slice(self.used + 1), slice(self.used + 1))
        share = _quadrant_share(box_grid.box, calibration, device)[kept]
        self.shares = Shares.make(share, None if selection is None else selection.patterns[kept])

    def centred(self, points: Tensor) -> Tensor | None:
        """Move projected beads (b, B, 2), in Å, to the middle of their images; None if a distance exceeds the grid."""
        angle = torch.arange(DIRECTIONS, device=points.device) * (torch.pi / DIRECTIONS)
        along = torch.stack([angle.cos(), angle.sin()], dim=1).to(points.dtype) @ points.transpose(1, 2)
        low, high = along.aminmax(dim=2)
        if (high - low).max() > self.cut.diameter * np.cos(np.pi / (2 * DIRECTIONS)):
            return None
        axes = [0, DIRECTIONS // 2]
        return points - 0.5 * (low + high)[:, None, axes]

    def _steps(self, batch: ParticleBatch) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(batch.optics_group), torch.full_like(batch.pixel_size, self.cut.step)

    def _weighing(self, batch: ParticleBatch) -> tuple[Tensor, ...]:
        """Return the coefficients of the cut κ for kx, ky >= 0: their parts that are even and odd in either."""
        axis = axis_power(self.box_grid, self.footprints.reference, batch, kernel=False)[
            :, : self.used + 1
        ].contiguous()
        phase = phase_coefficients(batch.ctf, 1 / (self.box_grid.box * batch.pixel_size))
        even, odd = self.products.quadrants(
            self.shares.table, self.shares.rows(batch), axis, phase, astigmatic=self.astigmatic
        )
        even = self._cut(even, self.even, batch)
        return even, self._cut(odd, self.odd, batch) if self.astigmatic else even.new_empty(len(even), 0, 0)

    def _cut(self, quadrant: Tensor, matrices: Tensor, batch: ParticleBatch) -> Tensor:
        """Take coefficients, one quadrant, of the box to those of the cut κ on the smaller grid."""
        if len(matrices) == 1:
            return matrices[0] @ (quadrant @ matrices[0].T)
        own = matrices[pixel_size_index(self.pixel_sizes, batch)]
        return own @ (quadrant @ own.mT)

    def _weigh(self, spectrum: Tensor, weighing: tuple[Tensor, ...]) -> None:
        even, odd = weighing
        self.products.weigh_cut(spectrum, even, odd, self.unspread)


def cut_pairs(
    box: BoxPairs,
    stack: ParticleStack,
    beads: Beads,
    calibration: ShellCalibration | None,
    selection: Selection | None,
) -> CutPairs | None:
    """Make the pair term on a grid for a template; None where that is hardly smaller than the box.

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
    selection
        Of the coefficients that count, or None.
    """
    nyquist = float((box.grid.highest / (box.grid.box * stack.pixel_size)).max())
    reference = box.footprints.reference
    frequency = min(nyquist, float(np.sqrt(-np.log(NEGLIGIBLE)) / (2 * np.pi * reference)))
    cut = CutGrid.make(_diameter(beads.positions[0]) * ROOM, frequency)
    if cut.size > SMALLER * box.grid.size:
        return None
    footprints = Footprints.make(beads.width.double().cpu().numpy(), np.array([cut.step]), cut.oversampling)
    device = beads.width.device
    astigmatic = bool(np.any(stack.table.defocus_u != stack.table.defocus_v))
    return CutPairs(
        cut,
        box.grid,
        footprints.to(device),
        box.pixel_sizes,
        calibration,
        selection,
        astigmatic=astigmatic,
        engine=box.engine,
    )


def _diameter(positions: Tensor) -> float:
    """Return the largest distance between points (B, 3) in Å, or up to 2 % more."""
    directions = np.random.default_rng(0).standard_normal((2000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    along = positions.detach().double().cpu().numpy() @ directions.T
    return float((along.max(0) - along.min(0)).max()) * 1.01


def _cut_matrices(cut: CutGrid, highest: int, period: float) -> tuple[Array, Array]:
    """Matrices along one axis from Fourier indices of the box to those of the smaller grid.

    `a(m, k) = (1/P) ∫ t(x) cos(2π x (k/L - m/P)) dx` for a box of L Å, summed over both signs of k.

    Returns
    -------
    even, odd : array (M + 1, K + 1)
        For functions that are even or odd in k.
    """
    reach = cut.diameter + cut.fade
    count = int(60 + 4 * reach * (highest / period + cut.highest / cut.period))
    nodes, weights = np.polynomial.legendre.leggauss(count)
    x, weight = 0.5 * reach * (nodes + 1), 0.5 * reach * weights
    fade = 0.5 + 0.5 * np.cos(np.pi * np.clip((x - cut.diameter) / cut.fade, 0, 1))
    k, m = 2 * np.pi * np.arange(highest + 1) / period, 2 * np.pi * np.arange(cut.highest + 1) / cut.period
    # The integrals of cos(x (k - m)) ± cos(x (k + m)), over both signs of x.
    both = 4 * (weight * fade) / cut.period
    even = np.cos(np.outer(m, x)) * both @ np.cos(np.outer(x, k))
    odd = np.sin(np.outer(m, x)) * both @ np.sin(np.outer(x, k))
    even[:, 0] *= 0.5  # there is one k = 0
    return even, odd


def _quadrant_share(box: int, calibration: ShellCalibration | None, device: torch.device) -> Tensor:
    """How much the coefficients with kx, ky >= 0 count, shape (1 or groups, K + 1, K + 1)."""
    highest = band(box)
    index = torch.arange(highest + 1, device=device)
    share = (index.square() + index.square()[:, None] <= highest**2)[None] / box**2  # Parseval
    if calibration is not None:
        of_shell = (calibration.signal.square() / calibration.noise).to(device)
        share = share * of_shell[:, shell_index(box, device)[highest:]]
    return share.float()
