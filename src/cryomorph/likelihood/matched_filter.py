"""The exact likelihood from a small matched-filtered window of each image instead of the image.

For images of noise variance 1, `‖y - s h * v‖² = ‖y‖² - 2 s Σ_b a_b g(P x_b) + s² Σ_{b,c} a_b a_c κ(P (x_b - x_c))`
with the matched-filtered image `g = h ⋆ G_σ ⋆ y` and the autocorrelation κ of `h * G_σ`. The window of g that the
molecule reaches and the contrast transfer of the image say everything that the image has to say. The first sum takes
one look at the window for each bead, the second a fast Fourier transform (docs/method.md).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from cryomorph.components import Settings
from cryomorph.geometry import project
from cryomorph.gridding.footprints import SUPPORT, Footprints
from cryomorph.gridding.rows import Rows
from cryomorph.gridding.transfer import Engine, Transfer, transfer
from cryomorph.likelihood._filtering import BoxGrid, filtered_windows
from cryomorph.likelihood._pairs import PairTerm
from cryomorph.likelihood._store import WindowStore
from cryomorph.likelihood.base import Likelihood
from cryomorph.particles.batch import ParticleBatch
from cryomorph.particles.stack import BatchSource, ParticleStack
from cryomorph.progress import Progress
from cryomorph.structure.beads import Beads


class MatchedFilterSettings(Settings):
    """What is kept of the images, and which code runs."""

    kind: Literal["matched_filter"] = "matched_filter"
    margin: float = Field(8.0, ge=0, description="Å that windows reach beyond the template's beads")
    storage: Literal["float16", "float32"] = Field("float16", description="numbers kept in the windows")
    engine: Engine = Field("auto", description="numba on a CPU and Triton on a GPU, or one of torch, numba, triton")


@dataclass(frozen=True, eq=False)
class _Geometry:
    """Which samples windows have, and the footprints of the beads on them, for images of given pixel sizes."""

    grid: BoxGrid
    rows: Rows
    footprints: Footprints
    pixel_sizes: Tensor

    @classmethod
    def make(cls, box: int, pixel_sizes: Tensor, width: Tensor, reach: float) -> Self:
        """Keep what is within `reach` (Å) of the origin; `pixel_sizes` are distinct and ascend."""
        grid = BoxGrid(box)
        steps = grid.step(pixel_sizes.double().cpu())
        footprints = Footprints.make(width.double().cpu().numpy(), steps.numpy(), grid.oversampling)
        made = cls(grid, Rows.disc(grid.size, reach / float(steps.min())), footprints, pixel_sizes)
        return made.to(width.device)

    def to(self, device: torch.device) -> Self:
        """Return a copy on another device."""
        return replace(
            self,
            rows=self.rows.to(device),
            footprints=self.footprints.to(device),
            pixel_sizes=self.pixel_sizes.to(device),
        )

    def step_index(self, batch: ParticleBatch) -> Tensor:
        """Which of the pixel sizes each image has, int64, shape (b,)."""
        return torch.searchsorted(self.pixel_sizes, batch.pixel_size).clamp(max=len(self.pixel_sizes) - 1)


class MatchedFilter(Likelihood):
    """Cross term from the windows, pair term from the beads alone; the values and gradients are those of `direct`.

    Windows of `prepare` reach as far as the template's beads and a margin. What a bead has beyond them is compared with
    an empty image: it costs what the pair term says and gains nothing; `remarks` tells of it. For a batch that comes
    with images but no windows, windows of the whole box are made on the spot.
    """

    Settings = MatchedFilterSettings

    def __init__(self, settings: MatchedFilterSettings, groups: int) -> None:
        super().__init__(groups)
        self.settings = settings
        self._prepared: _Geometry | None = None
        self._pair_term: PairTerm | None = None
        self._placed = torch.zeros(2, dtype=torch.int64)

    def prepare(self, stack: ParticleStack, beads: Beads, cache: Path, progress: Progress | None = None) -> BatchSource:
        """Make the windows of all images, or find them in the cache; see the base class."""
        reach = float(beads.positions.detach().norm(dim=-1).max()) + self.settings.margin
        pixel_sizes = torch.from_numpy(np.unique(stack.pixel_size.astype(np.float32)))
        geometry = _Geometry.make(stack.box, pixel_sizes, beads.width, reach)
        self._prepared = geometry
        return WindowStore.open(
            cache, stack, self, geometry.rows, geometry.footprints.reference, self.settings.storage, progress
        )

    def terms(self, beads: Beads, rotation: Tensor, shift: Tensor, batch: ParticleBatch) -> tuple[Tensor, Tensor]:
        """Return `⟨y, h * v⟩` and `‖h * v‖²` of each image; see the base class."""
        device = beads.positions.device
        sums = transfer(self.settings.engine, device)
        with torch.no_grad():
            geometry, windows = self._windows(beads, batch)
            step_index = geometry.step_index(batch)
        step = geometry.grid.step(batch.pixel_size)[:, None, None]
        points = project(beads.positions, rotation, shift - batch.shift) / step + geometry.rows.size // 2
        with torch.no_grad():
            at = points.float().contiguous()
            self._count(at, geometry)
            cross = sums.collect(windows, geometry.rows, at, beads.amplitude, geometry.footprints, step_index)
            power = self._pairs(geometry, sums)(at, beads.amplitude, step_index, batch)
        return _Attached.apply(points, *cross), _Attached.apply(points, *power)  # type: ignore[no-untyped-call]

    def remarks(self) -> list[str]:
        """Say how many beads were outside the windows."""
        beads, outside = self._placed.tolist()
        self._placed.zero_()
        if not outside:
            return []
        return [
            f"{outside / beads:.2g} of the bead positions lay outside the windows kept of the images, where images count "
            f"as empty: start again with a larger likelihood.margin (it is {self.settings.margin:g} Å)"
        ]

    def _windows(self, beads: Beads, batch: ParticleBatch) -> tuple[_Geometry, Tensor]:
        """Return the windows of a batch, prepared or made here, and what they are windows of."""
        if batch.statistic is None:
            if batch.image is None:
                raise ValueError("a likelihood needs the images of the batch, or what it prepared of them")
            geometry = _Geometry.make(batch.image.shape[-1], batch.pixel_size.unique(), beads.width, float("inf"))
            return geometry, filtered_windows(self, batch, geometry.rows, geometry.footprints.reference)
        if self._prepared is None:
            raise ValueError("the windows of this batch were prepared by another likelihood")
        if self._prepared.pixel_sizes.device != batch.statistic.device:
            self._prepared = self._prepared.to(batch.statistic.device)
        return self._prepared, batch.statistic.float()

    def _pairs(self, geometry: _Geometry, sums: Transfer) -> PairTerm:
        known = self._pair_term
        if known is None or known.footprints is not geometry.footprints or known.calibration is not self.calibration:
            known = PairTerm(geometry.grid, geometry.footprints, self.calibration, sums)
            self._pair_term = known
        return known

    def _count(self, points: Tensor, geometry: _Geometry) -> None:
        """Count beads, and those whose middle samples are not all in the windows."""
        if geometry.rows.whole:
            return
        self._placed = self._placed.to(points.device)
        distance2 = (points - geometry.rows.size // 2).square().sum(-1)
        self._placed[0] += distance2.numel()
        self._placed[1] += (distance2 > (geometry.rows.safe - SUPPORT / 2) ** 2).sum()


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
