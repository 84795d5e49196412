"""The pair term `Σ_{b,c} a_b a_c κ(p_b - p_c)`: spread the beads, weigh their Fourier coefficients, collect them again.

On the periodic box of the images every coefficient that the residual counts is there, none else, so nothing about the
contrast transfer is assumed: astigmatism, phase plates and the box's wrap-around are as in the residual.
"""

from typing import Any

import torch
from torch import Tensor

from cryomorph.fourier import inside_circle, shell_index
from cryomorph.gridding.footprints import Footprints
from cryomorph.gridding.rows import Rows
from cryomorph.gridding.transfer import Transfer
from cryomorph.likelihood._filtering import BoxGrid
from cryomorph.likelihood.base import ShellCalibration
from cryomorph.optics import phase_coefficients
from cryomorph.particles.batch import ParticleBatch

AT_ONCE = 8
"""Images transformed at a time on a CPU: their spectra stay in its cache."""


class PairTerm:
    """Power of the model image for one kind of beads, box and calibration.

    Parameters
    ----------
    grid
        Of the images.
    footprints
        Of the beads on that grid.
    calibration
        Of the shells, or None.
    sums
        Moves numbers between beads and samples.
    """

    def __init__(
        self,
        grid: BoxGrid,
        footprints: Footprints,
        calibration: ShellCalibration | None,
        sums: Transfer,
    ) -> None:
        device = footprints.table.device
        self.grid = grid
        self.footprints = footprints
        self.calibration = calibration
        self.sums = sums
        self.rows = Rows.disc(grid.size, float("inf")).to(device)
        share = inside_circle(grid.box, device)[None] / grid.box**2  # Parseval
        if calibration is not None:
            of_shell = calibration.signal.square() / calibration.noise
            share = share * of_shell[:, shell_index(grid.box, device)]
        self.share = share.float()  # (1 or groups, 2K + 1, K + 1)

    def __call__(
        self, points: Tensor, amplitude: Tensor, step_index: Tensor, batch: ParticleBatch
    ) -> tuple[Tensor, Tensor]:
        """Return `‖h * v‖²` of each image (b,) and its gradient by the points (b, B, 2), both per sample of the grid."""
        group = batch.optics_group if len(self.share) > 1 else torch.zeros_like(batch.optics_group)
        size = self.grid.size
        at_once = AT_ONCE if points.device.type == "cpu" else len(points)
        power, gradient = points.new_empty(len(points)), torch.empty_like(points)
        axis = self._axis_factors(batch)
        phase = phase_coefficients(batch.ctf, 1 / (self.grid.box * batch.pixel_size))
        for start in range(0, len(points), at_once):
            part = slice(start, start + at_once)
            spread = self.sums.spread(points[part], amplitude, self.footprints, step_index[part], size)
            spectrum = torch.fft.rfft2(spread)
            self._weigh(spectrum, self.share, group[part], axis[part], phase[part])
            field = torch.fft.irfft2(spectrum, s=(size, size), norm="forward")
            power[part], gradient[part] = self.sums.collect(
                field.flatten(1), self.rows, points[part], amplitude, self.footprints, step_index[part]
            )
        return power, 2 * gradient

    def _axis_factors(self, batch: ParticleBatch) -> Tensor:
        """Return what the power of each coefficient is multiplied by along an axis, shape (b, K + 1)."""
        frequency = torch.arange(self.grid.highest + 1, device=batch.pixel_size.device)
        frequency = frequency / (self.grid.box * batch.pixel_size[:, None])
        envelope = torch.exp(-0.5 * batch.ctf.b_factor[:, None] * frequency.square())
        return self.grid.damping(batch.pixel_size, self.footprints.reference).square() * envelope

    def _weigh(self, spectrum: Tensor, share: Tensor, group: Tensor, axis: Tensor, phase: Tensor) -> None:
        """Multiply spectra (b, N, N // 2 + 1), in place, by the power of the transfer; 0 where nothing counts."""
        if spectrum.device.type == "cpu" and spectrum.dtype == torch.complex64:
            from cryomorph.likelihood._weigh_numba import weigh
        else:
            weigh = _weigh_anywhere
        weigh(spectrum, share, group, axis, phase)


def _weigh_anywhere(spectrum: Tensor, share: Tensor, group: Tensor, axis: Tensor, phase: Tensor) -> None:
    highest = axis.shape[1] - 1
    kx = torch.arange(highest + 1, device=axis.device, dtype=phase.dtype)
    ky = torch.arange(-highest, highest + 1, device=axis.device)
    x2, y2 = kx.square(), ky.to(phase.dtype).square()[:, None]
    c: Any = phase.unbind(1)
    xx, yy, xy, fourth, constant = (value[:, None, None] for value in c)
    turns = xx * x2 + yy * y2 + xy * kx * ky[:, None] + fourth * (x2 + y2).square() + constant
    power = 0.5 - 0.5 * torch.cos(2 * torch.pi * (turns - turns.round()))
    factor = share[group] * power * axis[:, None] * axis[:, ky.abs()][:, :, None]
    kept = spectrum[:, ky % spectrum.shape[1], : highest + 1] * factor.to(axis.dtype)
    spectrum.zero_()
    spectrum[:, ky % spectrum.shape[1], : highest + 1] = kept
