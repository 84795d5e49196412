"""Images on rings: angular harmonics of matched-filtered windows, and what the power of a projection costs."""

import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomorph.gridding.footprints import DEGREE, SUPPORT
from cryomorph.likelihood.matched_filter import MatchedFilter, Windows
from cryomorph.optics import CTFParameters, ctf, electron_wavelength
from cryomorph.particles.batch import ParticleBatch
from cryomorph.scan.rings import Rings

Array = NDArray[np.float64]

ANGLES = 32
"""Directions over half a circle in which an astigmatic contrast transfer is looked at."""
HARMONICS = 12
"""Highest harmonic, in turns per half circle, of the squared contrast transfer that is ever kept."""
BINS = 16
"""Radii per Fourier index at which the contrast transfer is looked at: they resolve it as far as the box does."""
AT_ONCE = 64
"""Images that are transformed at a time."""
WIDER = 2.0
"""Standard deviations beyond a bead's middle to which the image matters, as far as there is image."""


class RingTransform:
    """Takes windows to harmonics.

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
        extra = float(windows.width.double().square().max()) - windows.footprints.reference**2
        reach = max(radius, min(radius + WIDER * max(extra, 0.0) ** 0.5, self.room(windows)))
        self.rings = Rings.make(radius, reach, frequency)
        self.device = windows.width.device
        self.angles = scipy.fft.next_fast_len(2 * self.rings.highest + 2, real=True)
        self.samplings = [self._sampling(number).to(self.device) for number in range(len(self.step))]
        self.fits = [
            torch.from_numpy((1 if m == 0 else 2) * self.rings.fit(m)).float().to(self.device)
            for m in range(self.rings.highest + 1)
        ]
        self.places = [self._moved(shift).to(self.device) for shift in shifts]
        self.table = torch.from_numpy(self.rings.bessel_table().astype(np.float32)).to(self.device)
        self.index, self.multiplicity = _radii(windows.grid.highest)
        self._interpolations: dict[tuple[int, int], Tensor] = {}

    @staticmethod
    def room(windows: Windows) -> float:
        """Å from the origin up to which all of a bead is inside the windows."""
        return (windows.rows.safe - SUPPORT / 2) * float(windows.grid.step(windows.pixel_sizes.double().cpu()).min())

    def shift(self, number: int, batch: ParticleBatch) -> Tensor:
        """Return the displacement in Å of each particle that a shift stands for, shape (b, 2)."""
        step = torch.from_numpy(self.step).to(batch.shift)[self._size_index(batch)]
        return batch.shift + step[:, None] * torch.from_numpy(self.shifts[number]).to(batch.shift)

    def cross(self, batch: ParticleBatch, shift: int) -> Tensor:
        """Return the circular waves of images, with one of the shifts taken back.

        Returns
        -------
        Tensor (b, columns)
            For each m from 0 to M the real, then the imaginary parts on the rings of `Rings.of_harmonic(m)`, twofold
            for m > 0.
        """
        if batch.statistic is None:
            raise ValueError("a scan needs the windows that the likelihood prepared")
        size = self._size_index(batch)
        columns = 2 * sum(len(fit) for fit in self.fits)
        waves = torch.empty(len(batch), columns, device=self.device)
        for number in range(len(self.step)):
            for rows in torch.split(torch.nonzero(size == number)[:, 0], AT_ONCE):
                samples = torch.nn.functional.pad(batch.statistic[rows].float(), (0, 1))[:, self.places[shift]]
                waves[rows] = self._waves(samples, number)
        return waves

    def _waves(self, samples: Tensor, size: int) -> Tensor:
        """Circular waves (b, columns) of samples (b, samples) of images of one pixel size."""
        polar = torch.sparse.mm(self.samplings[size], samples.T.contiguous()).view(-1, self.angles, len(samples))
        harmonics = torch.fft.rfft(polar, dim=1, norm="forward")[:, : len(self.fits)]
        parts = torch.view_as_real(harmonics).permute(1, 3, 0, 2).contiguous()  # (M + 1, 2, r, b)
        return torch.cat([(fit @ both).flatten(0, 1) for fit, both in zip(self.fits, parts, strict=True)]).T

    def power(self, batch: ParticleBatch) -> Tensor:
        """Return what `|V|²` of a projection is multiplied by, on the rings, to be its power in an image.

        Returns
        -------
        Tensor (b, harmonics, 2, K)
            Real and imaginary parts of harmonics 0, 2, 4, ... of the squared contrast transfer in units of the noise,
            twofold but for the first; one harmonic only if there is no astigmatism in the batch.
        """
        count = 1 + self._highest_harmonic(batch)
        angles = ANGLES if count > 1 else 1
        size = self._size_index(batch)
        power = torch.empty(len(batch), count, 2, len(self.rings.nodes), device=self.device)
        for number in range(len(self.step)):
            matrices = self._interpolation(number, count)
            for rows in torch.split(torch.nonzero(size == number)[:, 0], AT_ONCE):
                transfer = self._squared_transfer(batch, rows, angles)
                harmonics = torch.fft.rfft(transfer, norm="forward")[..., :count]
                weighed = torch.einsum("bfn,nfk->bnk", harmonics, matrices.to(harmonics.dtype))
                power[rows] = torch.stack([weighed.real, weighed.imag], dim=2).float()
        return power

    def _highest_harmonic(self, batch: ParticleBatch) -> int:
        """Highest harmonic of the squared contrast transfer that counts: it has `J_n(b)` of it with b as here."""
        apart = (batch.ctf.defocus_u - batch.ctf.defocus_v).abs()
        b = float((torch.pi * electron_wavelength(batch.ctf.voltage) * apart).max()) * self.rings.frequency**2
        return min(int(np.ceil(1.1 * b)) + 4, HARMONICS) if b > 0 else 0

    def _interpolation(self, size: int, count: int) -> Tensor:
        """Matrices (count, f, K) from radii of coefficients to rings, for images of one pixel size."""
        if (size, count) not in self._interpolations:
            length = self.windows.grid.box * float(self.windows.pixel_sizes[size])
            every = [(1 if n == 0 else 2) * self.rings.interpolation(self.index / length, 2 * n) for n in range(count)]
            self._interpolations[size, count] = torch.from_numpy(np.stack(every)).to(self.device)
        return self._interpolations[size, count]

    def _squared_transfer(self, batch: ParticleBatch, rows: Tensor, angles: int) -> Tensor:
        """Return what each |V|² counts in the power, at all radii of coefficients and some angles; (b, f, angles)."""
        grid, pixel_size = self.windows.grid, batch.pixel_size[rows].double()
        index = torch.from_numpy(self.index).to(self.device)
        radius = index / (grid.box * pixel_size)[:, None]
        angle = torch.arange(angles, device=self.device) * (torch.pi / angles)
        optics = CTFParameters(**{name: value.double() for name, value in vars(batch.ctf[rows]).items()})
        squared = ctf(radius[..., None] * angle.cos(), radius[..., None] * angle.sin(), optics).square()
        gaussian = torch.exp(-4 * (torch.pi * self.windows.footprints.reference * radius).square())
        # Parseval's factor, and the beads' unit.
        share = torch.from_numpy(self.multiplicity).to(self.device) / grid.box**2
        weight = gaussian * share / pixel_size[:, None] ** 4
        shell = index.round().long().clamp(max=grid.highest)
        calibration, selection = self.likelihood.calibration, self.likelihood.selection
        if calibration is not None:
            weight = weight * (calibration.signal.square() / calibration.noise)[batch.optics_group[rows]][:, shell]
        if selection is not None:  # at which angles something is left out is not looked at
            weight = weight * selection.shells[batch.index[rows] % len(selection)][:, shell]
        return squared * weight[..., None]

    def _size_index(self, batch: ParticleBatch) -> Tensor:
        sizes = self.windows.pixel_sizes
        return torch.searchsorted(sizes, batch.pixel_size).clamp(max=len(sizes) - 1)

    def _sampling(self, size: int) -> Tensor:
        """Sparse matrix (distances times angles, samples) from windows of one pixel size to images on circles.

        What it gives at a point is what the narrowest bead would collect there.
        """
        turn = 2 * np.pi * np.arange(self.angles) / self.angles
        r = self.rings.distances[:, None] / self.step[size]
        rows, footprints = self.windows.rows, self.windows.footprints
        table = footprints.table[size, 0].double().cpu().numpy()
        weight, taken = [], []
        for at in ((r * np.sin(turn)).ravel(), (r * np.cos(turn)).ravel()):
            before = np.floor(at)
            values = (at - before - 0.5)[:, None] ** np.arange(DEGREE + 1) @ table
            first = (footprints.taps - SUPPORT) // 2  # the other samples are for wider beads
            weight.append(values[:, first : first + SUPPORT])
            taken.append(before[:, None].astype(np.int64) + np.arange(SUPPORT) - SUPPORT // 2 + 1 + rows.size // 2)
        place = (taken[0] % rows.size)[:, :, None] * rows.size + (taken[1] % rows.size)[:, None]
        number = _numbers(self.windows)[place]
        kept = number >= 0
        point = np.broadcast_to(np.arange(len(number))[:, None, None], number.shape)[kept]
        values = (weight[0][:, :, None] * weight[1][:, None])[kept]
        indices = torch.from_numpy(np.stack([point, number[kept]]))
        shape = (len(number), len(rows))
        sampling = torch.sparse_coo_tensor(
            indices, torch.from_numpy(values.astype(np.float32)), shape, check_invariants=False
        )
        return sampling.coalesce()

    def _moved(self, shift: NDArray[np.int64]) -> Tensor:
        """Which sample comes where when a shift is taken back; one more than there are: a zero."""
        rows = self.windows.rows
        places = rows.places().cpu().numpy()
        row, column = places // rows.size + shift[1], places % rows.size + shift[0]
        inside = (row >= 0) & (row < rows.size) & (column >= 0) & (column < rows.size)
        number = _numbers(self.windows)[(row % rows.size) * rows.size + column % rows.size]
        return torch.from_numpy(np.where(inside & (number >= 0), number, len(rows)))


def _numbers(windows: Windows) -> NDArray[np.int64]:
    """Return which of the kept samples each of the grid is, shape (size²,); -1 if none."""
    places = windows.rows.places().cpu().numpy()
    numbers = np.full(windows.rows.size**2, -1)
    numbers[places] = np.arange(len(places))
    return numbers


def _radii(highest: int) -> tuple[Array, Array]:
    """Lengths of Fourier indices up to `highest`, nearly equal ones together, and how many coefficients they stand for.

    None stands for coefficients of two shells.
    """
    k = np.arange(-highest, highest + 1)
    length = np.hypot(k, k[:, None]).ravel()
    length = length[length <= highest]
    number = np.floor(BINS * length).astype(np.int64)
    count = np.bincount(number)
    total = np.bincount(number, weights=length)
    return total[count > 0] / count[count > 0], count[count > 0].astype(np.float64)
