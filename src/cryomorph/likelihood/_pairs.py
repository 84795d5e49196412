"""The pair term `Σ_{b,c} a_b a_c κ(p_b - p_c)`: spread the beads, weigh their Fourier coefficients, collect them again.

Two grids serve. The periodic box of the images (here) holds every coefficient that the residual counts and none else.
A smaller one (`_cut`) of twice the molecule's diameter needs κ at the distances that occur only. Neither assumes
anything about the contrast transfer.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from cryomorph.fourier import inside_circle, shell_index
from cryomorph.gridding.box import BoxGrid
from cryomorph.gridding.footprints import Footprints
from cryomorph.gridding.rows import Rows
from cryomorph.gridding.transfer import Engine, transfer
from cryomorph.likelihood._weighing import products
from cryomorph.likelihood.base import ShellCalibration
from cryomorph.optics import phase_coefficients
from cryomorph.particles.batch import ParticleBatch
from cryomorph.selection import Selection

SAMPLES_AT_ONCE = 2**20
"""Samples of grids that are transformed at a time on a CPU: they stay in its cache."""


class PairTerm(ABC):
    """Power of the model image for one kind of beads, on a periodic grid.

    Parameters
    ----------
    footprints
        Of the beads on that grid.
    size
        Samples N along an edge of the grid.
    engine
        For all that is not a Fourier transform.
    """

    def __init__(self, footprints: Footprints, size: int, engine: Engine) -> None:
        device = footprints.table.device
        self.footprints = footprints
        self.engine = engine
        self.sums, self.products = transfer(engine, device), products(engine, device)
        self.rows = Rows.disc(size, float("inf")).to(device)

    def __call__(self, points: Tensor, amplitude: Tensor, batch: ParticleBatch) -> tuple[Tensor, Tensor]:
        """Return `‖h * v‖²` of each image (b,) and its gradient (b, B, 2) by the points, both in units of Å.

        Parameters
        ----------
        points
            Projected beads (x, y) in Å, shape (b, B, 2).
        amplitude
            Of the beads, shape (B,).
        batch
            The optics of the b images.
        """
        step_index, step = self._steps(batch)
        size = self.rows.size
        at = points / step[:, None, None] + size // 2
        weighing = self._weighing(batch)
        at_once = max(SAMPLES_AT_ONCE // size**2, 1) if points.device.type == "cpu" else len(points)
        power, gradient = points.new_empty(len(points)), torch.empty_like(points)
        for start in range(0, len(points), at_once):
            part = slice(start, start + at_once)
            spread = self.sums.spread(at[part], amplitude, self.footprints, step_index[part], size)
            spectrum = torch.fft.rfft2(spread)
            self._weigh(spectrum, tuple(values[part] for values in weighing))
            field = torch.fft.irfft2(spectrum, s=(size, size), norm="forward")
            power[part], gradient[part] = self.sums.collect(
                field.flatten(1), self.rows, at[part], amplitude, self.footprints, step_index[part]
            )
        return power, 2 * gradient / step[:, None, None]

    def turned(self, points: Tensor, amplitude: Tensor, batch: ParticleBatch, angles: Tensor) -> Tensor:
        """Return `‖h * v‖²` of projections in one image at several in-plane angles, without gradient.

        Turning beads is turning the contrast transfer the other way. What a selection leaves out is not turned.

        Parameters
        ----------
        points
            Projected beads (x, y) in Å, shape (n, B, 2).
        amplitude
            Of the beads, shape (B,).
        batch
            The image's optics, b = 1.
        angles
            Radians, shape (a,).

        Returns
        -------
        Tensor (n, a)
        """
        size = self.rows.size
        many = batch[torch.zeros(len(angles), dtype=torch.int64, device=points.device)]
        optics = replace(many.ctf, astigmatism_angle=many.ctf.astigmatism_angle - angles.to(many.ctf.astigmatism_angle))
        share = torch.ones(len(angles), size, size // 2 + 1, dtype=torch.complex64, device=points.device)
        self._weigh(share, self._weighing(replace(many, ctf=optics)))
        share[..., 1 : (size + 1) // 2] *= 2  # these columns stand for two
        weight = share.real.flatten(1).repeat_interleave(2, dim=1).T.contiguous()  # of real and imaginary parts
        step_index, step = self._steps(batch)
        at = points / step[0] + size // 2
        at_once = max(SAMPLES_AT_ONCE // size**2, 1) if points.device.type == "cpu" else len(points)
        power = points.new_empty(len(points), len(angles))
        for start in range(0, len(points), at_once):
            part = slice(start, start + at_once)
            own = step_index[:1].expand(len(at[part])).contiguous()
            spread = self.sums.spread(at[part], amplitude, self.footprints, own, size)
            power[part] = torch.view_as_real(torch.fft.rfft2(spread)).square_().flatten(1) @ weight
        return power

    @abstractmethod
    def _steps(self, batch: ParticleBatch) -> tuple[Tensor, Tensor]:
        """Return which of the footprints' steps each image has, and the step in Å; both of shape (b,)."""

    @abstractmethod
    def _weighing(self, batch: ParticleBatch) -> tuple[Tensor, ...]:
        """Return what the coefficients of each image are multiplied by, in any form, image by image."""

    @abstractmethod
    def _weigh(self, spectrum: Tensor, weighing: tuple[Tensor, ...]) -> None:
        """Multiply spectra (b, N, N // 2 + 1) in place; 0 where nothing counts."""


@dataclass(frozen=True, eq=False)
class Shares:
    """What coefficients count, for each optics group and each pattern of those that count at all.

    Attributes
    ----------
    table : Tensor (groups · patterns, rows, columns)
    groups, patterns : int
        Either is 1 where there is no difference.
    """

    table: Tensor
    groups: int
    patterns: int

    @classmethod
    def make(cls, share: Tensor, patterns: Tensor | None) -> Self:
        """Combine what counts for groups, shape (G, rows, columns), and patterns of the same coefficients or none."""
        if patterns is None:
            return cls(share.float().contiguous(), len(share), 1)
        table = share.float()[:, None] * patterns.to(share.device)
        return cls(table.flatten(0, 1).contiguous(), len(share), len(patterns))

    def rows(self, batch: ParticleBatch) -> Tensor:
        """Return which of the table each image has, int64, shape (b,)."""
        group = batch.optics_group if self.groups > 1 else torch.zeros_like(batch.optics_group)
        return group * self.patterns + batch.index % self.patterns


class BoxPairs(PairTerm):
    """On the box of the images: the same coefficients as in the residual, whatever the contrast transfer.

    Parameters
    ----------
    grid
        Of the images.
    footprints
        Of the beads on that grid.
    pixel_sizes
        Å, those of the footprints' steps, ascending.
    calibration
        Of the shells, or None.
    selection
        Of the coefficients that count, or None.
    engine
        See the base class.
    """

    def __init__(
        self,
        grid: BoxGrid,
        footprints: Footprints,
        pixel_sizes: Tensor,
        calibration: ShellCalibration | None,
        selection: Selection | None,
        engine: Engine,
    ) -> None:
        super().__init__(footprints, grid.size, engine)
        self.grid = grid
        self.pixel_sizes = pixel_sizes
        device = footprints.table.device
        share = inside_circle(grid.box, device)[None] / grid.box**2  # Parseval
        if calibration is not None:
            of_shell = (calibration.signal.square() / calibration.noise).to(device)
            share = share * of_shell[:, shell_index(grid.box, device)]
        self.shares = Shares.make(share, None if selection is None else selection.plane)

    def _steps(self, batch: ParticleBatch) -> tuple[Tensor, Tensor]:
        return pixel_size_index(self.pixel_sizes, batch), self.grid.step(batch.pixel_size)

    def _weighing(self, batch: ParticleBatch) -> tuple[Tensor, ...]:
        phase = phase_coefficients(batch.ctf, 1 / (self.grid.box * batch.pixel_size))
        return self.shares.rows(batch), axis_power(self.grid, self.footprints.reference, batch), phase

    def _weigh(self, spectrum: Tensor, weighing: tuple[Tensor, ...]) -> None:
        share, axis, phase = weighing
        self.products.weigh_box(spectrum, self.shares.table, share, axis, phase)


def axis_power(grid: BoxGrid, reference: float, batch: ParticleBatch, *, kernel: bool = True) -> Tensor:
    """Return what the power of each coefficient is multiplied by along an axis, shape (b, K + 1).

    The envelope of the contrast transfer and the narrowest bead, of width `reference` in Å; with `kernel`, less what
    spreading and collecting multiplied it by.
    """
    frequency = torch.arange(grid.highest + 1, device=batch.pixel_size.device) / (grid.box * batch.pixel_size[:, None])
    envelope = torch.exp(-0.5 * batch.ctf.b_factor[:, None] * frequency.square())
    return grid.damping(batch.pixel_size, reference, kernel=kernel).square() * envelope


def pixel_size_index(pixel_sizes: Tensor, batch: ParticleBatch) -> Tensor:
    """Which of some ascending pixel sizes each image has, int64, shape (b,)."""
    return torch.searchsorted(pixel_sizes, batch.pixel_size).clamp(max=len(pixel_sizes) - 1)
