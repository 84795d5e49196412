"""The exact likelihood from a small matched-filtered window of each image instead of the image.

For images of noise variance 1, `‖y - s h * v‖² = ‖y‖² - 2 s Σ_b a_b g(P x_b) + s² Σ_{b,c} a_b a_c κ(P (x_b - x_c))`
with the matched-filtered image `g = h ⋆ G_σ ⋆ y` and the autocorrelation κ of `h * G_σ`. The window of g that the
molecule reaches and the contrast transfer of the image say everything that the image has to say. The first sum takes
one look at the window for each bead, the second a fast Fourier transform (docs/method.md).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from cryomorph.geometry import project
from cryomorph.gridding.box import BoxGrid
from cryomorph.gridding.footprints import SUPPORT, Footprints
from cryomorph.gridding.rows import Rows
from cryomorph.gridding.transfer import Engine, transfer
from cryomorph.likelihood._cut import CutPairs, cut_pairs
from cryomorph.likelihood._filtering import filtered_windows
from cryomorph.likelihood._pairs import BoxPairs, PairTerm, pixel_size_index
from cryomorph.likelihood._store import WindowStore
from cryomorph.likelihood.base import Likelihood, LikelihoodSettings
from cryomorph.particles.batch import ParticleBatch
from cryomorph.particles.stack import BatchSource, ParticleStack
from cryomorph.progress import Progress
from cryomorph.structure.beads import Beads

NOISE_AT_ONCE = 64
"""Images of noise that are made at a time."""
FEW_OUTSIDE = 1e-3
"""Share of the bead positions that may be outside the windows without a word: ends of a motion, for a while."""


class MatchedFilterSettings(LikelihoodSettings):
    """What is kept of the images, and how the pair term is computed."""

    kind: Literal["matched_filter"] = "matched_filter"
    margin: float = Field(8.0, ge=0, description="Å that windows reach beyond the template's beads")
    storage: Literal["float16", "float32"] = Field("float16", description="numbers kept in the windows")
    pairs: Literal["auto", "box"] = Field(
        "auto",
        description="grid of the pair term: the images' box, or a smaller one if the molecule leaves room (auto)",
    )
    engine: Engine = Field("auto", description="numba on a CPU and Triton on a GPU, or one of torch, numba, triton")


@dataclass(frozen=True, eq=False)
class Windows:
    """What windows of images of one box hold, for beads of given widths.

    Attributes
    ----------
    grid
        Of the images.
    rows
        Samples that are kept of it.
    footprints
        Of the beads on it.
    pixel_sizes
        Å, distinct and ascending, those of the footprints' steps.
    width
        Of the beads in Å, shape (B,).
    """

    grid: BoxGrid
    rows: Rows
    footprints: Footprints
    pixel_sizes: Tensor
    width: Tensor


def _windows(box: int, pixel_sizes: Tensor, width: Tensor, reach: float) -> Windows:
    """Keep what is within `reach` (Å) of the origin, for beads of widths (B,) in Å, whose device it is on."""
    grid = BoxGrid(box)
    steps = grid.step(pixel_sizes.double().cpu())
    footprints = Footprints.make(width.double().cpu().numpy(), steps.numpy(), grid.oversampling)
    rows = Rows.disc(grid.size, reach / float(steps.min()))
    device = width.device
    return Windows(grid, rows.to(device), footprints.to(device), pixel_sizes.to(device), width)


class MatchedFilter(Likelihood):
    """Cross term from the windows, pair term from the beads alone; the values and gradients are those of `direct`.

    Windows of `prepare` reach as far as the template's beads and a margin. What a bead has beyond them is compared with
    an empty image: it costs what the pair term says and gains nothing; `remarks` tells of it. For a batch that comes
    with images but no windows, windows of the whole box are made on the spot.
    """

    Settings = MatchedFilterSettings
    settings: MatchedFilterSettings

    def __init__(self, settings: MatchedFilterSettings, groups: int) -> None:
        super().__init__(settings, groups)
        self._prepared: Windows | None = None
        self._box_pairs: BoxPairs | None = None
        self._cut_pairs: CutPairs | None = None
        self._placed = torch.zeros(2, dtype=torch.int64)

    def prepare(
        self, stack: ParticleStack, beads: Beads, cache: Path, progress: Progress | None = None, *, room: float = 0.0
    ) -> BatchSource:
        """Make the windows of all images, or find them in the cache; see the base class."""
        pixel_sizes = torch.from_numpy(np.unique(stack.pixel_size.astype(np.float32)))
        # Where pixels are large, the template's own footprints reach further than the margin.
        footprint = SUPPORT / 2 * float(BoxGrid(stack.box).step(pixel_sizes).min())
        reach = float(beads.positions.detach().norm(dim=-1).max()) + max(self.settings.margin, footprint) + room
        windows = _windows(stack.box, pixel_sizes, beads.width, reach)
        self._prepared = windows
        self._box_pairs = self._pairs_of(windows)
        self._cut_pairs = None
        if self.settings.pairs == "auto":
            self._cut_pairs = cut_pairs(self._box_pairs, stack, beads, self.calibration, self.selection)
        reference = windows.footprints.reference
        return WindowStore.open(cache, stack, self, windows.rows, reference, self.settings.storage, progress)

    @property
    def windows(self) -> Windows:
        """What the windows of `prepare` hold."""
        if self._prepared is None:
            raise ValueError("no windows yet: prepare comes first")
        return self._prepared

    def without_signal(self, batch: ParticleBatch, generator: torch.Generator) -> ParticleBatch:
        """Return a batch whose windows are those of images of noise, of the power that is expected.

        Parameters
        ----------
        batch
            Particles, of which the optics count.
        generator
            Of random numbers on the CPU.
        """
        box, windows = self.windows.grid.box, self.windows
        parts = []
        for rows in torch.arange(len(batch)).split(NOISE_AT_ONCE):  # type: ignore[no-untyped-call]
            part = batch[rows.to(batch.index.device)]
            spectrum = torch.fft.rfft2(torch.randn(len(part), box, box, generator=generator))
            if self.calibration is not None:
                along = torch.fft.fftfreq(box, 1 / box)
                shell = torch.hypot(along[:, None], along[: box // 2 + 1]).round().long()
                noise = self.calibration.noise.cpu()[part.optics_group.cpu()]
                spectrum = spectrum * noise[:, shell.clamp(max=noise.shape[1] - 1)].sqrt()
            image = torch.fft.irfft2(spectrum, s=(box, box)).float().to(part.shift.device)
            noisy = replace(part, image=image, statistic=None)
            parts.append(filtered_windows(self, noisy, windows.rows, windows.footprints.reference))
        return replace(batch, image=None, statistic=torch.cat(parts))

    def terms(self, beads: Beads, rotation: Tensor, shift: Tensor, batch: ParticleBatch) -> tuple[Tensor, Tensor]:
        """Return `⟨y, h * v⟩` and `‖h * v‖²` of each image; see the base class."""
        points = project(beads.positions, rotation, shift - batch.shift)
        with torch.no_grad():
            at = points.float().contiguous()
            windows, samples = self._samples(beads, batch)
            cross = self._cross(windows, samples, at, beads.amplitude, batch)
            power = self._power(windows, at, beads.amplitude, batch)
        return _Attached.apply(points, *cross), _Attached.apply(points, *power)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def turned_power(self, points: Tensor, amplitude: Tensor, batch: ParticleBatch, angles: Tensor) -> Tensor:
        """Return `‖h * v‖²` of projections (n, B, 2), in Å, in one image at in-plane angles (a,), in radians; (n, a).

        Windows must be prepared. What a selection leaves out does not turn: with one, values at angles are approximate.
        """
        pairs, points = self._pair_term(self.windows, points.float().contiguous())
        return pairs.turned(points, amplitude, batch, angles)

    def remarks(self) -> list[str]:
        """Say how many beads were outside the windows, if that may matter."""
        beads, outside = self._placed.tolist()
        self._placed.zero_()
        if outside <= FEW_OUTSIDE * beads:
            return []
        return [
            f"{outside / beads:.2g} of the bead positions lay outside the windows kept of the images, where images "
            f"count as empty: start again with a larger likelihood.margin (it is {self.settings.margin:g} Å)"
        ]

    def _samples(self, beads: Beads, batch: ParticleBatch) -> tuple[Windows, Tensor]:
        """Return the windows of a batch, prepared or made here, and what they are windows of."""
        if batch.statistic is not None:
            if self._prepared is None:
                raise ValueError("the windows of this batch were prepared by another likelihood")
            known = self._prepared.width
            if beads.width is not known and not torch.equal(beads.width, known):
                raise ValueError("the windows of this batch were prepared for other beads")
            return self._prepared, batch.statistic.float()
        if batch.image is None:
            raise ValueError("a likelihood needs the images of the batch, or what it prepared of them")
        pixel_sizes = torch.unique(batch.pixel_size)  # sorted
        windows = _windows(batch.image.shape[-1], pixel_sizes, beads.width, float("inf"))
        return windows, filtered_windows(self, batch, windows.rows, windows.footprints.reference).float()

    def _cross(
        self, windows: Windows, samples: Tensor, points: Tensor, amplitude: Tensor, batch: ParticleBatch
    ) -> tuple[Tensor, Tensor]:
        """Return `⟨y, h * v⟩` (b,) and its gradient by the points (b, B, 2) in Å."""
        step = windows.grid.step(batch.pixel_size)[:, None, None]
        at = points / step
        self._count(at, windows.rows)
        step_index = pixel_size_index(windows.pixel_sizes, batch)
        total, gradient = transfer(self.settings.engine, points.device).collect(
            samples, windows.rows, at + windows.rows.size // 2, amplitude, windows.footprints, step_index
        )
        return total, gradient / step

    def _power(
        self, windows: Windows, points: Tensor, amplitude: Tensor, batch: ParticleBatch
    ) -> tuple[Tensor, Tensor]:
        """Return `‖h * v‖²` (b,) and its gradient by the points (b, B, 2) in Å."""
        pairs, points = self._pair_term(windows, points)
        return pairs(points, amplitude, batch)

    def _pair_term(self, windows: Windows, points: Tensor) -> tuple[PairTerm, Tensor]:
        """Return the smallest grid that has room for projected beads, and the beads where it wants them."""
        if windows is not self._prepared or self._box_pairs is None:
            return self._pairs_of(windows), points
        centred = None if self._cut_pairs is None else self._cut_pairs.centred(points)
        if self._cut_pairs is not None and centred is not None:
            return self._cut_pairs, centred
        return self._box_pairs, points

    def _pairs_of(self, windows: Windows) -> BoxPairs:
        known = self.calibration, self.selection
        return BoxPairs(windows.grid, windows.footprints, windows.pixel_sizes, *known, self.settings.engine)

    def _count(self, points: Tensor, rows: Rows) -> None:
        """Count beads, and those whose middle samples are not all in the windows."""
        if rows.whole:
            return
        self._placed = self._placed.to(points.device)
        self._placed[0] += points[..., 0].numel()
        self._placed[1] += (points.square().sum(-1) > (rows.safe - SUPPORT / 2) ** 2).sum()


class _Attached(torch.autograd.Function):
    """Values (b,) of which the gradient (b, B, 2) by points is known already."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, points: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.to(points.dtype)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grad: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad[0][:, None, None] * gradient.to(grad[0].dtype), None, None
