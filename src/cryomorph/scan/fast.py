"""The fast scan: all directions, in-plane angles, shifts, images and conformations, by batched matrix products.

The misfit at in-plane angle ψ is a Fourier series in ψ, whose coefficients are products of harmonics of image and
projection, summed over rings (`rings`). Its cross term and the power of the projection under the contrast transfer of
the image, astigmatic or not, go into the same series.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomorph.errors import InputError
from cryomorph.likelihood.matched_filter import MatchedFilter
from cryomorph.particles.batch import ParticleBatch
from cryomorph.progress import Progress
from cryomorph.scan._torch import every_angle
from cryomorph.scan.candidates import Candidates
from cryomorph.scan.grid import ProductGrid
from cryomorph.scan.images import RingTransform
from cryomorph.scan.kernels import kernels
from cryomorph.scan.templates import RingTemplates, ring_templates
from cryomorph.structure.beads import Beads

NUMBERS_AT_ONCE = {"cpu": 2**22, "cuda": 2**27}
"""Coefficients of a block of images and directions: few enough for a cache, many enough for a matrix product."""


@dataclass(frozen=True, eq=False)
class ScanImages:
    """Some images as a scan sees them.

    Attributes
    ----------
    batch
        b particles.
    crosses
        Their harmonics, shape (b, columns), at each of the shifts.
    power
        What the power of projections costs in them, shape (b, harmonics, 2, K).
    """

    batch: ParticleBatch
    crosses: list[Tensor]
    power: Tensor


class RingScan:
    """Compares images with conformations at all rotations of a grid, and all shifts.

    Parameters
    ----------
    likelihood
        With windows that are prepared: misfits are those of its images, optics and calibration.
    grid
        Rotations; an even number of in-plane angles.
    radius
        Å from the origin within which all beads are; default as far as the windows reach.
    shift_range, shift_step
        Å: particles are looked for up to so far from where their files say, at points so far from each other.

    Raises
    ------
    InputError
        If the windows do not reach that far.
    """

    def __init__(
        self,
        likelihood: MatchedFilter,
        grid: ProductGrid,
        *,
        radius: float | None = None,
        shift_range: float = 0.0,
        shift_step: float = 3.0,
    ) -> None:
        if grid.in_plane % 2:
            raise ValueError("a scan needs an even number of in-plane angles")
        windows = likelihood.windows
        self.likelihood, self.grid = likelihood, grid
        room = RingTransform.room(windows) - shift_range
        if radius is not None and radius > room:
            raise InputError(
                f"the molecule reaches {radius:.0f} Å from the origin, the windows kept of the images leave room for "
                f"{room:.0f} Å: give a larger likelihood.margin (it is {likelihood.settings.margin:g} Å)"
            )
        sample = float(windows.grid.step(windows.pixel_sizes.double().cpu()).max())
        self.transform = RingTransform(likelihood, radius or room, shift_lattice(shift_range, shift_step, sample))
        self.kernels = kernels(likelihood.settings.engine, self.transform.device)
        self.waves = self._waves()

    @property
    def radius(self) -> float:
        """Å from the origin within which beads must be."""
        return self.transform.rings.radius

    def __len__(self) -> int:
        """Poses that each conformation is compared in."""
        return len(self.grid) * len(self.transform.shifts)

    def fits(self, beads: Beads) -> Tensor:
        """Tell which of some conformations are small enough, bool, shape (L,)."""
        fits: Tensor = beads.positions.norm(dim=-1).amax(1) <= self.radius
        return fits

    def see(self, batch: ParticleBatch) -> ScanImages:
        """Make ready what a scan needs of images, whatever they are compared with."""
        crosses = [self.transform.cross(batch, shift) for shift in range(len(self.transform.shifts))]
        return ScanImages(batch, crosses, self.transform.power(batch))

    def lowest(self, images: ScanImages, library: Beads, count: int, progress: Progress | None = None) -> Candidates:
        """Find the poses and conformations of the lowest misfit at the current gain.

        Parameters
        ----------
        images
            What `see` returned of b images.
        library
            L conformations.
        count
            k, how many are wanted.
        progress
            Told of images times conformations.
        """
        gain = self.likelihood.gain[images.batch.optics_group].float()[:, None]
        crosses = [-gain * cross for cross in images.crosses]
        power = 0.5 * gain.square()[..., None, None] * images.power
        return self._scan(images.batch, crosses, power, library, count, progress, normalised=False)

    def lowest_normalised(
        self, images: ScanImages, library: Beads, count: int, progress: Progress | None = None
    ) -> Candidates:
        """Likewise at the best scale of each image and pose, before a gain is known.

        The power of projections is averaged over in-plane angles.
        """
        return self._scan(images.batch, images.crosses, images.power, library, count, progress, normalised=True)

    def masses(
        self, images: ScanImages, library: Beads, scale: Tensor, parts: Tensor, count: int, lowest: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Add up `e^-F` over the poses of the grid, part by part, and never keep more than a block of misfits.

        Parameters
        ----------
        images
            What `see` returned of b images.
        library
            L conformations.
        scale
            Of each image, in place of its gain, shape (b,).
        parts
            Which part of all poses each rotation is in for each image, int8, shape (b, in-plane angles, directions).
        count
            How many parts there are, p.
        lowest
            About the lowest misfit F of each image, shape (b,): sums are of `e^(lowest - F)`, so that none overflows.

        Returns
        -------
        log_sum : Tensor (b, L, p)
            Logarithm of the sum, over shifts too; double precision.
        mean : Tensor (b, L, p)
            Mean of F, each weighed by its `e^-F`; 0 where the part is empty.
        """
        size, conformations = len(images.batch), len(library.positions)
        sums = torch.zeros(2, size, conformations, count, dtype=torch.float64, device=scale.device)
        scale = scale.float()[:, None]
        crosses = [-scale * cross for cross in images.crosses]
        power = 0.5 * scale.square()[..., None, None] * images.power
        for number in range(conformations):
            templates = self._templates(library, number, power)
            for cross in crosses:
                for rows, unfolded, _ in self._blocks(cross, power, templates, normalised=False):
                    misfit, turned = every_angle(unfolded, self.grid.in_plane)
                    part = parts[rows][:, turned].long().flatten(1)
                    above = (misfit.transpose(0, 1).flatten(1) - lowest[rows, None]).double()
                    weight = torch.exp(-above)
                    sums[0, rows, number].scatter_add_(1, part, weight)
                    sums[1, rows, number].scatter_add_(1, part, weight * above)
        log_sum = sums[0].log()
        mean = sums[1] / sums[0].clamp(min=torch.finfo(sums.dtype).tiny)
        return log_sum - lowest.double()[:, None, None], torch.where(sums[0] > 0, mean + lowest[:, None, None], 0.0)

    def _scan(
        self,
        batch: ParticleBatch,
        crosses: list[Tensor],
        power: Tensor,
        library: Beads,
        count: int,
        progress: Progress | None,
        *,
        normalised: bool,
    ) -> Candidates:
        if not bool(self.fits(library).all()):
            raise ValueError("a conformation is larger than the scan was made for")
        device = self.transform.device
        values = torch.full((len(batch), count), torch.inf, device=device)
        codes = torch.zeros((len(batch), count), dtype=torch.int64, device=device)
        for number in range(len(library.positions)):
            templates = self._templates(library, number, power)
            for shift, cross in enumerate(crosses):
                first = (number * len(crosses) + shift) * len(self.grid)
                self._compare(cross, power, templates, values, codes, first, normalised=normalised)
            if progress is not None:
                progress.advance(len(batch))
        return self._candidates(batch, values, codes)

    def _compare(
        self,
        cross: Tensor,
        power: Tensor,
        templates: RingTemplates,
        values: Tensor,
        codes: Tensor,
        first: int,
        *,
        normalised: bool,
    ) -> None:
        """Keep the lowest misfits of one conformation at one shift."""
        for rows, sums, cost in self._blocks(cross, power, templates, normalised=normalised):
            kept = cost if normalised else None
            self.kernels.keep_lowest(sums, kept, values[rows], codes[rows], self.grid.in_plane, first)

    def _templates(self, library: Beads, number: int, power: Tensor) -> RingTemplates:
        one = Beads(library.positions[number : number + 1], library.amplitude, library.width)
        return ring_templates(one, self.grid, self.transform, self.kernels, power.shape[1])

    def _blocks(
        self, cross: Tensor, power: Tensor, templates: RingTemplates, *, normalised: bool
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Compare images with one conformation at one shift, block by block.

        Yields
        ------
        rows
            Of the block.
        sums
            As `Kernels.keep_lowest` takes them, with the power of projections unless normalised.
        cost
            Mean power over in-plane angles, shape (block, directions).
        """
        directions = self.grid.directions
        at_once = max(NUMBERS_AT_ONCE[cross.device.type] // (2 * len(templates.real) * directions), 1)
        for start in range(0, len(cross), at_once):
            rows = slice(start, start + at_once)
            series = self._series(cross[rows], templates)
            cost = power[rows, 0, 0] @ templates.power[0, 0]
            if not normalised:
                self._add_power(series, cost, power[rows], templates)
            yield rows, torch.matmul(self.waves, series.flatten(3)).view(2, 2, -1, len(cost), directions), cost

    def _series(self, cross: Tensor, templates: RingTemplates) -> Tensor:
        """Coefficients of the Fourier series of the cross term.

        Those of even and of odd harmonics, real and imaginary parts: (2, 2, (M + 2) // 2, b, N); 0 beyond M.
        """
        count = len(templates.real)
        series = cross.new_empty(2, 2, (count + 1) // 2, len(cross), self.grid.directions)
        if count % 2:
            series[1, :, -1] = 0
        start = 0
        for m, (real, imaginary) in enumerate(zip(templates.real, templates.imaginary, strict=True)):
            harmonics = cross[:, start : start + len(real)]
            torch.mm(harmonics, real, out=series[m % 2, 0, m // 2])
            torch.mm(harmonics, imaginary, out=series[m % 2, 1, m // 2])
            start += len(real)
        return series

    def _add_power(self, series: Tensor, cost: Tensor, power: Tensor, templates: RingTemplates) -> None:
        """Add the power of projections, whose harmonics are even; the mean is known."""
        even_real, even_imaginary = series[0]
        even_real[0] += cost
        for n in range(1, min(power.shape[1], len(even_real))):
            (real, imaginary), (along, across) = power[:, n].unbind(1), templates.power[n]
            even_real[n] += real @ along - imaginary @ across
            even_imaginary[n] += real @ across + imaginary @ along

    def _waves(self) -> Tensor:
        """Matrices (2, 2, angles // 4 + 1, harmonics) that evaluate series: even and odd, real and imaginary parts."""
        count = self.transform.rings.highest + 1
        angle = torch.from_numpy(self.grid.angles[: self.grid.in_plane // 4 + 1])
        order = torch.arange(2 * ((count + 1) // 2)).view(-1, 2).T  # even ones, odd ones
        turns = angle[:, None] * order[:, None]
        return torch.stack([turns.cos(), -turns.sin()], dim=1).float().to(self.transform.device)

    def _candidates(self, batch: ParticleBatch, values: Tensor, codes: Tensor) -> Candidates:
        """Tell which poses and conformations codes stand for."""
        numbers = codes.cpu().numpy()
        pose, angle = np.divmod(numbers, self.grid.in_plane)
        rest, direction = np.divmod(pose, self.grid.directions)
        conformation, shift = np.divmod(rest, len(self.transform.shifts))
        rotation = torch.from_numpy(self.grid.rotations(direction, angle)).to(values)
        every = torch.stack([self.transform.shift(number, batch) for number in range(len(self.transform.shifts))], 1)
        chosen = torch.from_numpy(shift).to(values.device)[..., None].expand(-1, -1, 2)
        return Candidates(rotation, every.gather(1, chosen), torch.from_numpy(conformation).to(values.device), values)


def shift_lattice(shift_range: float, shift_step: float, sample: float) -> NDArray[np.int64]:
    """Displacements to try, nearest first, in samples of `sample` Å: shape (t, 2), (x, y)."""
    step = max(round(shift_step / sample), 1)
    reach = int(shift_range / (step * sample))
    along = step * np.arange(-reach, reach + 1)
    lattice = np.stack(np.meshgrid(along, along, indexing="xy"), axis=-1).reshape(-1, 2)
    length = np.hypot(lattice[:, 0], lattice[:, 1])
    order: Sequence[int] = np.argsort(length, kind="stable").tolist()
    kept = [number for number in order if length[number] * sample <= shift_range + 1e-6]
    return lattice[kept].astype(np.int64)
