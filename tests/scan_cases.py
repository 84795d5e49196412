"""Small particles in memory for scans: images that a likelihood has made windows of."""

from dataclasses import replace

import numpy as np
import torch

from cryomorph.fourier import band
from cryomorph.geometry import project
from cryomorph.likelihood.base import ShellCalibration, contrast_transfer
from cryomorph.likelihood.direct import projection_coefficients
from cryomorph.likelihood.matched_filter import MatchedFilter, MatchedFilterSettings
from cryomorph.particles.batch import ParticleBatch
from cryomorph.structure.beads import Beads
from particle_arrays import ArrayStack
from test_likelihood import make_batch
from test_matched_filter import single

RADIUS = 28.0
"""Å, of the molecules."""


def molecule(beads=40, conformations=1, widths=(2.5, 2.5), seed=0):
    """Return beads all over a ball; conformations differ by some Å."""
    generator = torch.Generator().manual_seed(seed)
    positions = torch.randn(beads, 3, generator=generator)
    positions = RADIUS * positions / positions.norm(dim=1, keepdim=True)
    positions = positions * torch.rand(beads, 1, generator=generator) ** (1 / 3)
    moved = 0.8 * positions + 3 * torch.randn(conformations, beads, 3, generator=generator).clamp(-1, 1)
    amplitude = 1 + torch.rand(beads, generator=generator)
    return Beads(moved if conformations > 1 else positions[None], amplitude, torch.linspace(*widths, beads))


def particles(box=96, images=3, astigmatism=0.0, phase_shift=0.0, pixel_sizes=(2.0,), seed=0):
    """Particles without images; as many optics groups as pixel sizes, defoci of 0.8 to 2 µm."""
    batch = make_batch(box, images=images, groups=len(pixel_sizes), seed=seed)
    batch.ctf.defocus_v = batch.ctf.defocus_u - astigmatism
    batch.ctf.phase_shift = torch.full_like(batch.ctf.phase_shift, phase_shift)
    return single(replace(batch, pixel_size=torch.tensor(pixel_sizes)[batch.optics_group]))


def projections(beads: Beads, batch: ParticleBatch, box: int) -> torch.Tensor:
    """Images (b, D, D) without noise of conformations, at the poses of a batch."""
    points = project(beads.positions.expand(len(batch), -1, -1), batch.rotation, batch.shift)
    coefficients = projection_coefficients(points, beads.amplitude, beads.width, batch.pixel_size, box)
    spectrum = torch.zeros(len(batch), box, box // 2 + 1, dtype=coefficients.dtype)
    rows = torch.arange(-band(box), band(box) + 1) % box
    spectrum[:, rows[:, None], torch.arange(band(box) + 1)] = coefficients * contrast_transfer(batch, box)
    return torch.roll(torch.fft.irfft2(spectrum, s=(box, box)), (box // 2, box // 2), (1, 2))


def seen(beads: Beads, batch: ParticleBatch, box: int, strength=0.7, seed=0) -> tuple[ParticleBatch, float]:
    """Give a batch images of conformations in white noise, `strength` times as strong; returns the gain too."""
    clean = projections(beads, batch, box)
    gain = strength / float(clean.std())
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    return replace(batch, image=gain * clean + noise), gain


def windowed(
    batch, beads, gain, folder, *, calibrated=False, selection=None, **settings
) -> tuple[MatchedFilter, ParticleBatch]:
    """Return a likelihood at a known gain, and the batch with its windows."""
    settings = {"storage": "float32", "margin": 16.0} | settings
    groups, box = int(batch.optics_group.max()) + 1, batch.image.shape[-1]
    likelihood = MatchedFilter(MatchedFilterSettings(**settings), groups)
    if calibrated:  # smooth, as those of real images
        shell = torch.arange((box + 1) // 2)
        noise = torch.stack([1 + 0.5 * torch.cos(shell / (6 + group)) for group in range(groups)])
        likelihood.calibration = ShellCalibration(noise, 1 / (1 + shell / 30).expand(groups, -1))
    template = replace(beads, positions=beads.positions[:1])
    likelihood.selection = selection
    source = likelihood.prepare(ArrayStack(batch), template, folder)
    likelihood.gain.copy_(gain * torch.linspace(1, 0.8, groups))
    return likelihood, source.batch(np.arange(len(batch)))
