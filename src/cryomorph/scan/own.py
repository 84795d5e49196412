"""The scan of each image against its own conformation: nothing is shared, and yet no rotation is looked at by itself.

Along each viewing direction a conformation is projected once. The power of the projection comes from its Fourier
coefficients, at all in-plane angles, exactly as the likelihood has it; the cross term by looking up beads in the image
on circles, where the next in-plane angle is the next number. What fits best is then compared exactly.
"""

from dataclasses import replace

import numpy as np
import torch
from scipy.special import jv
from torch import Tensor

from cryomorph.likelihood.matched_filter import MatchedFilter
from cryomorph.particles.batch import ParticleBatch
from cryomorph.scan.candidates import Candidates
from cryomorph.scan.exact import exact
from cryomorph.scan.grid import ProductGrid
from cryomorph.scan.images import RingTransform
from cryomorph.scan.kernels import kernels
from cryomorph.structure.beads import Beads

MORE = 32
"""Rotations that are compared exactly besides those that are wanted, lest one is missed for a small error."""
FINER = 3.0
"""How much closer numbers on and between circles are than the sampling theorem asks for."""
WIDTH_STEP = 0.05
"""Å: circles are shared by beads whose widths differ less."""
VECTOR = 8
"""Numbers that are added at once: so many more columns may be read."""


class OwnScan:
    """Compares each image with a conformation of its own at all rotations of a grid and the known shifts.

    Beads farther from the origin than all of a bead is inside the windows count as if the image were empty there,
    until the exact comparison.

    Parameters
    ----------
    likelihood
        With windows that are prepared: misfits are those of its images, optics and calibration.
    grid
        Rotations.
    """

    def __init__(self, likelihood: MatchedFilter, grid: ProductGrid) -> None:
        self.likelihood, self.grid, self.windows = likelihood, grid, likelihood.windows
        self.transform = RingTransform(likelihood, RingTransform.room(self.windows), np.zeros((1, 2), dtype=np.int64))
        device, rings = self.transform.device, self.transform.rings
        self.kernels = kernels(likelihood.settings.engine, device)
        self.viewing = torch.from_numpy(grid.viewing()[:, :2]).float().to(device)
        self.angles = torch.from_numpy(grid.angles).to(device)
        self.step = 1 / (2 * FINER * rings.frequency)
        self.fine = int(np.ceil(2 * np.pi * rings.radius / (self.step * grid.in_plane)))
        rounded = torch.round(self.windows.width.double() / WIDTH_STEP).long()
        kinds, kind = torch.unique(rounded, return_inverse=True)
        self.order = torch.argsort(kind, stable=True)
        self.kind = kind[self.order]
        reference = self.windows.footprints.reference
        width = np.maximum(WIDTH_STEP * kinds.cpu().numpy(), reference)
        # From one step on the other side of the origin to the farthest bead; of two more nothing is seen.
        radius = self.step * np.arange(-1, int(rings.radius / self.step) + 2)
        wider = np.exp(-2 * np.pi**2 * np.multiply.outer(width**2 - reference**2, rings.waves**2))  # (kinds, W)
        self.bases = [self._basis(m, radius, wider).float().to(device) for m in range(rings.highest + 1)]
        fine_angles = 2 * np.pi * np.arange(grid.in_plane * self.fine) / (grid.in_plane * self.fine)
        turns = np.multiply.outer(np.arange(rings.highest + 1), fine_angles)
        self.turns = (
            torch.from_numpy(np.stack([np.cos(turns), -np.sin(turns)], axis=1)).float().flatten(0, 1).to(device)
        )
        self.shape = len(width), len(radius)

    @torch.no_grad()
    def lowest(self, batch: ParticleBatch, beads: Beads, count: int, *, normalised: bool = False) -> Candidates:
        """Find the rotations of the lowest misfit.

        Parameters
        ----------
        batch
            b images, with windows.
        beads
            Of b conformations, one for each image.
        count
            k, how many are wanted; at most n.
        normalised
            Whether at the best scale of each image and rotation, before a gain is known, instead of the current gain.
        """
        cross, power = self.terms(batch, beads)
        if normalised:
            misfit = self.likelihood.normalised_misfit(cross, power)
        else:
            misfit = self.likelihood.misfit(cross.T, power.T, batch).T
        kept = min(count + MORE, len(self.grid))
        values, codes = misfit.topk(kept, dim=1, largest=False)
        rotation = self.grid.rotations(*np.divmod(codes.cpu().numpy(), self.grid.in_plane))
        found = Candidates(
            torch.from_numpy(rotation).to(values),
            batch.shift[:, None].expand(-1, kept, -1),
            torch.arange(len(batch), device=values.device)[:, None].expand(-1, kept),
            values,
        )
        best = exact(found, batch, beads, self.likelihood, normalised=normalised)
        rows = slice(None), slice(count)
        none = torch.zeros_like(best.conformation[rows])
        return Candidates(best.rotation[rows], best.shift[rows], none, best.misfit[rows])

    @torch.no_grad()
    def terms(self, batch: ParticleBatch, beads: Beads) -> tuple[Tensor, Tensor]:
        """Return both terms of the misfit at all rotations, `Likelihood.terms` but for small errors; (b, n) each."""
        waves = self.transform.cross(batch, 0)
        share = beads.amplitude.float()[self.order].contiguous()
        optics = replace(batch, statistic=None, image=None)
        cross, power = [], []
        for row in torch.arange(len(batch), device=waves.device).split(1):  # type: ignore[no-untyped-call]
            seen = torch.einsum("dci,bi->dbc", self.viewing, beads.positions[row[0]].float())
            at, turn = self._polar(seen[:, self.order])
            circles = self._circles(waves[row[0]])
            found = self.kernels.look_up(circles, at, turn, share, self.kind, self.grid.in_plane)
            cross.append(found.flatten())
            cost = self.likelihood.turned_power(seen, beads.amplitude, optics[row], self._distinct(optics[row]))
            repeats = self.grid.in_plane // cost.shape[1]
            power.append(cost.repeat(1, repeats).flatten())
        return torch.stack(cross), torch.stack(power)

    def _distinct(self, one: ParticleBatch) -> Tensor:
        """Return the in-plane angles at which the power of a projection may differ; the others repeat them."""
        if torch.equal(one.ctf.defocus_u, one.ctf.defocus_v):
            return self.angles[:1]
        return self.angles if self.grid.in_plane % 2 else self.angles[: self.grid.in_plane // 2]

    def _polar(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return circles and steps around them of projected beads (N, B, 2), each (N, B)."""
        around, last = self.grid.in_plane * self.fine, self.shape[1]
        # A bead that is nowhere shows in the power; here it must not be looked up.
        at = (torch.hypot(seen[..., 0], seen[..., 1]) / self.step + 1).nan_to_num(last).clamp(max=last)
        turn = torch.atan2(seen[..., 1], seen[..., 0]).nan_to_num(0.0) * (around / (2 * torch.pi))
        return at.contiguous(), torch.where(turn < 0, turn + around, turn).clamp(min=0).contiguous()

    def _basis(self, m: int, radius: np.ndarray, wider: np.ndarray) -> Tensor:
        """Matrix (rings, kinds · radii) from harmonic m of an image to what beads see of it."""
        rings = self.transform.rings
        part = rings.of_harmonic(m)
        waves = jv(m, 2 * np.pi * np.outer(rings.waves[part], radius))
        return torch.from_numpy(wider[:, part].T[:, :, None] * waves[:, None]).flatten(1)

    def _circles(self, waves: Tensor) -> Tensor:
        """Return what beads of each kind see of an image on circles; see `look_up`."""
        harmonics, start = [], 0
        for basis in self.bases:
            stop = start + 2 * len(basis)
            harmonics.append(waves[start:stop].view(2, -1) @ basis)
            start = stop
        seen = torch.cat(harmonics).T @ self.turns  # (kinds · radii, fine angles)
        kinds, radii = self.shape
        angles = self.grid.in_plane
        by_row = seen.view(kinds, radii, angles, self.fine).transpose(2, 3)
        # Two turns, for windows that begin anywhere in the first; two circles more, where nothing is.
        circles = seen.new_zeros(kinds, radii + 3, self.fine, 2 * angles + VECTOR)
        circles[:, :radii, :, :angles] = by_row
        circles[:, :radii, :, angles : 2 * angles] = by_row
        return circles
