"""Images on rings: angular harmonics of matched-filtered windows, and what the power of a projection costs."""

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomorph.gridding.footprints import SUPPORT
from cryomorph.likelihood.matched_filter import MatchedFilter, Windows
from cryomorph.optics import CTFParameters, ctf
from cryomorph.particles.batch import ParticleBatch
from cryomorph.scan.rings import Rings, interpolate_bessel

Array = NDArray[np.float64]

ANGLES = 64
"""Directions over half a circle in which an astigmatic contrast transfer is looked at."""
HARMONICS = 12
"""Highest harmonic, in turns per half circle, of the squared contrast transfer that is kept."""
AT_ONCE = 64
"""Images whose contrast transfer is computed at a time."""


class RingTransform:
    """Takes windows to harmonics, by one matrix for each pixel size.

    Parameters
    ----------
    likelihood
        With windows that are prepared.
    radius
        Å, farthest that a bead may be from the origin.
    shifts
        Displacements of particles that are tried, in samples of the windows' grid, int64, shape (t, 2).
    """

    def __init__(self, likelihood: MatchedFilter, radius: float, shifts: NDArray[np.int64]) -> None:
        self.likelihood, self.shifts = likelihood, shifts
        windows = likelihood.windows
        self.windows = windows
        sizes = windows.pixel_sizes.double().cpu()
        self.step: Array = windows.grid.step(sizes).numpy()
        frequency = windows.grid.highest / (windows.grid.box * float(sizes.min()))
        reach = windows.rows.safe * float(self.step.max())
        self.rings = Rings.make(radius, reach, frequency)
        self.device = windows.width.device
        self.matrices = [self._matrix(step).to(self.device) for step in self.step]
        self.places = [self._moved(shift).to(self.device) for shift in shifts]
        self.table = torch.from_numpy(self.rings.bessel_table(radius).astype(np.float32)).to(self.device)
        # Radii, as shares of the highest frequency, that resolve the contrast transfer as far as the box does.
        fine = max(4 * windows.grid.box, 512)
        self.fine = (np.arange(fine) + 0.5) / fine
        self._interpolations: dict[int, Tensor] = {}

    @staticmethod
    def room(windows: Windows) -> float:
        """Å from the origin up to which all of a bead is inside the windows."""
        return (windows.rows.safe - SUPPORT / 2) * float(windows.grid.step(windows.pixel_sizes.double().cpu()).min())

    def shift(self, number: int, batch: ParticleBatch) -> Tensor:
        """Return the displacement in Å of each particle that a shift stands for, shape (b, 2)."""
        step = torch.from_numpy(self.step).to(batch.shift)[self._size_index(batch)]
        return batch.shift + step[:, None] * torch.from_numpy(self.shifts[number]).to(batch.shift)

    def cross(self, batch: ParticleBatch, shift: int) -> Tensor:
        """Return the harmonics of images, times quadrature weights, with one of the shifts taken back.

        Returns
        -------
        Tensor (b, columns)
            For each m from 0 to M the real, then the imaginary parts on the rings of `Rings.of_harmonic(m)`, twofold
            for m > 0.
        """
        if batch.statistic is None:
            raise ValueError("a scan needs the windows that the likelihood prepared")
        samples = torch.nn.functional.pad(batch.statistic.float(), (0, 1))[:, self.places[shift]]
        if len(self.matrices) == 1:
            return samples @ self.matrices[0]
        size = self._size_index(batch)
        harmonics = samples.new_empty(len(batch), self.matrices[0].shape[1])
        for number, matrix in enumerate(self.matrices):
            harmonics[size == number] = samples[size == number] @ matrix
        return harmonics

    def power(self, batch: ParticleBatch) -> Tensor:
        """Return what `|V|²` of a projection is multiplied by, on the rings, to be its power in an image.

        Returns
        -------
        Tensor (b, harmonics, 2, K)
            Real and imaginary parts of harmonics 0, 2, 4, ... of the squared contrast transfer in units of the noise,
            twofold but for the first; one harmonic only if there is no astigmatism in the batch.
        """
        astigmatic = bool((batch.ctf.defocus_u != batch.ctf.defocus_v).any())
        matrices = self._interpolation(1 + HARMONICS if astigmatic else 1)
        parts = []
        for first in range(0, len(batch), AT_ONCE):
            rows = slice(first, first + AT_ONCE)
            harmonics = torch.fft.rfft(self._squared_transfer(batch, rows, ANGLES if astigmatic else 1), norm="forward")
            weighed = torch.einsum("bfn,nfk->bnk", harmonics[..., : len(matrices)], matrices.to(harmonics.dtype))
            parts.append(torch.stack([weighed.real, weighed.imag], dim=2).float())
        return torch.cat(parts)

    def _interpolation(self, count: int) -> Tensor:
        """Matrices (count, f, K) from fine radii to rings, with all factors that images share."""
        if count not in self._interpolations:
            fine = self.fine * self.rings.frequency
            factor = 2 * np.pi * fine * self.rings.frequency / len(fine)
            every = [
                (1 if n == 0 else 2) * factor[:, None] * self.rings.interpolation(fine, 2 * n) for n in range(count)
            ]
            self._interpolations[count] = torch.from_numpy(np.stack(every)).to(self.device)
        return self._interpolations[count]

    def _squared_transfer(self, batch: ParticleBatch, rows: slice, angles: int) -> Tensor:
        """Return what each coefficient of |V|² counts in the power, on fine radii and angles; (b, f, angles)."""
        grid, pixel_size = self.windows.grid, batch.pixel_size[rows].double()
        radius = torch.from_numpy(self.fine * self.rings.frequency).to(self.device)[:, None]
        angle = torch.arange(angles, device=self.device) * (torch.pi / angles)
        optics = CTFParameters(**{name: value.double() for name, value in vars(batch.ctf[rows]).items()})
        squared = ctf(radius * angle.cos(), radius * angle.sin(), optics).square()
        length = (grid.box * pixel_size)[:, None]
        index = radius[:, 0] * length
        gaussian = torch.exp(-4 * (torch.pi * self.windows.footprints.reference * radius[:, 0]).square())
        # The area of a Fourier coefficient, Parseval's factor, and the beads' unit.
        weight = gaussian * length.square() / grid.box**2 / pixel_size[:, None] ** 4
        weight = weight * (index <= grid.highest)
        calibration = self.likelihood.calibration
        if calibration is not None:
            shell = index.round().long().clamp(max=grid.highest)
            of_shell = (calibration.signal.square() / calibration.noise)[batch.optics_group[rows]]
            weight = weight * of_shell.gather(1, shell).to(weight.dtype)
        return squared * weight[..., None]

    def _size_index(self, batch: ParticleBatch) -> Tensor:
        sizes = self.windows.pixel_sizes
        return torch.searchsorted(sizes, batch.pixel_size).clamp(max=len(sizes) - 1)

    def _matrix(self, step: float) -> Tensor:
        """From the samples of a window to the columns of `cross`, shape (samples, columns)."""
        rings, rows = self.rings, self.windows.rows
        x, y = _positions(self.windows, step)
        r, angle = np.hypot(x, y), np.arctan2(y, x)
        fade = np.clip((r - rings.radius) / max(rows.safe * step - rings.radius, step), 0, 1)
        area = step**2 * (0.5 + 0.5 * np.cos(np.pi * fade))
        bessel = interpolate_bessel(rings.bessel_table(float(r.max())), 2 * np.pi * np.outer(r, rings.nodes))
        columns = []
        for m in range(rings.highest + 1):
            used = rings.of_harmonic(m)
            values = bessel[:, used, m] * rings.weight[used] * (area * (1 if m == 0 else 2))[:, None]
            columns += [values * np.cos(m * angle)[:, None], -values * np.sin(m * angle)[:, None]]
        gather = _gathering(self.windows, int(np.argmin(np.abs(self.step - step))))
        return torch.from_numpy((gather.T @ np.concatenate(columns, axis=1)).astype(np.float32))

    def _moved(self, shift: NDArray[np.int64]) -> Tensor:
        """Which sample comes where when a shift is taken back; one more than there are: a zero."""
        rows = self.windows.rows
        places = rows.places().cpu().numpy()
        row, column = places // rows.size + shift[1], places % rows.size + shift[0]
        inside = (row >= 0) & (row < rows.size) & (column >= 0) & (column < rows.size)
        numbers = np.full(rows.size**2, len(places))
        numbers[places] = np.arange(len(places))
        return torch.from_numpy(
            np.where(inside, numbers[(row % rows.size) * rows.size + column % rows.size], len(rows))
        )


def _positions(windows: Windows, step: float) -> tuple[Array, Array]:
    """Place (x, y) of each kept sample in Å from the particle."""
    rows = windows.rows
    places = rows.places().cpu().numpy()
    return (places % rows.size - rows.size // 2) * step, (places // rows.size - rows.size // 2) * step


def _gathering(windows: Windows, size_index: int) -> scipy.sparse.csr_array:
    """Matrix that collects samples under the footprint of the narrowest bead, placed on each sample in turn."""
    rows, table = windows.rows, windows.footprints.table[size_index, 0].double().cpu().numpy()
    weight = (table * (-0.5) ** np.arange(len(table))[:, None]).sum(0)  # a bead on a sample
    taps = np.flatnonzero(np.abs(weight) > 1e-9 * weight.max())
    places = rows.places().cpu().numpy()
    number = np.full(rows.size**2, -1)
    number[places] = np.arange(len(places))
    offset = taps - len(weight) // 2 + 1
    target = np.arange(len(places))
    parts = []
    for along_y in range(len(taps)):
        line = (places // rows.size + offset[along_y]) % rows.size
        for along_x in range(len(taps)):
            source = number[line * rows.size + (places + offset[along_x]) % rows.size]
            kept = source >= 0
            value = np.full(kept.sum(), weight[taps[along_y]] * weight[taps[along_x]])
            parts.append((value, target[kept], source[kept]))
    values, targets, sources = (np.concatenate(part) for part in zip(*parts, strict=True))
    return scipy.sparse.csr_array((values, (targets, sources)), shape=(len(places), len(places)))
