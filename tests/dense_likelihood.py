"""The misfit pixel by pixel: Gaussians in real space, CTF by FFT, residual. NumPy in double precision, no shortcuts."""

import numpy as np
import torch

from cryomorph.geometry import random_rotations
from cryomorph.optics import CTFParameters
from cryomorph.particles.batch import ParticleBatch
from cryomorph.structure.beads import Beads


def coarse_batch(box: int, images: int = 3, seed: int = 0) -> ParticleBatch:
    """Noise images of two optics groups with pixels so large that Nyquist is at 16 Å or coarser.

    A likelihood that leaves out finer detail still sees all of them. Cs is far larger than a lens has, so that it shows
    at these frequencies.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(images, generator=generator)

    return ParticleBatch(
        index=torch.arange(images),
        image=torch.randn(images, box, box, generator=generator),
        pixel_size=uniform(8.0, 9.0),
        optics_group=torch.arange(images) % 2,
        rotation=torch.from_numpy(random_rotations(images, np.random.default_rng(seed))).float(),
        shift=torch.stack([uniform(-20, 20), uniform(-20, 20)], dim=1),
        ctf=CTFParameters(
            defocus_u=uniform(20_000, 60_000),
            defocus_v=uniform(20_000, 60_000),
            astigmatism_angle=uniform(0, 3),
            voltage=uniform(200, 300),
            spherical_aberration=uniform(500, 1000),
            amplitude_contrast=uniform(0.05, 0.2),
            phase_shift=uniform(0, 1),
            b_factor=uniform(0, 1000),
        ),
    )


def coarse_beads(images: int = 3, beads: int = 5, seed: int = 1) -> Beads:
    """Beads so wide that nothing of them lies beyond Nyquist of `coarse_batch`, and as bright as its noise."""
    generator = torch.Generator().manual_seed(seed)
    return Beads(
        positions=25 * torch.randn(images, beads, 3, generator=generator),
        amplitude=500 + 500 * torch.rand(beads, generator=generator),
        width=13 + 3 * torch.rand(beads, generator=generator),
    )


def dense_misfit(positions: np.ndarray, beads: Beads, gain: np.ndarray, batch: ParticleBatch) -> np.ndarray:
    """`½‖y - s h * v‖² - ½‖y‖²` of each image (b,) at the poses of the batch, for bead positions (b, B, 3)."""
    observed, model = batch.image.double().numpy(), dense_images(positions, beads, gain, batch)
    return 0.5 * (np.square(observed - model) - np.square(observed)).sum((1, 2))


def dense_images(positions: np.ndarray, beads: Beads, gain: np.ndarray, batch: ParticleBatch) -> np.ndarray:
    """Images (b, D, D) without noise of bead positions (b, B, 3) at the poses of the batch."""
    amplitude, width = beads.amplitude.double().numpy(), beads.width.double().numpy()
    box, images = batch.image.shape[-1], []
    for i, place in enumerate(positions):
        seen = place @ batch.rotation[i].double().numpy().T
        x, y = (seen[:, axis] + float(batch.shift[i, axis]) for axis in (0, 1))
        pixel = float(batch.pixel_size[i])
        in_x, in_y = _periodic_gaussian(x, width, box, pixel), _periodic_gaussian(y, width, box, pixel)
        projection = np.einsum("b,by,bx->yx", amplitude, in_y, in_x)
        parameters = {name: float(value[i]) for name, value in vars(batch.ctf).items()}
        frequency = np.fft.fftfreq(box, pixel)
        transfer = _ctf(frequency[None], frequency[:, None], **parameters)
        images.append(gain[batch.optics_group[i]] * np.fft.ifft2(np.fft.fft2(projection) * transfer).real)
    return np.array(images)


def dense_gradient(beads: Beads, gain: np.ndarray, batch: ParticleBatch, step: float = 0.01) -> np.ndarray:
    """Central differences of `dense_misfit` by every bead position, shape (b, B, 3)."""
    positions = beads.positions.double().numpy()
    gradient = np.empty_like(positions)
    for bead in range(positions.shape[1]):
        for axis in range(3):
            moved = np.zeros_like(positions)
            moved[:, bead, axis] = step
            above, below = (dense_misfit(positions + sign * moved, beads, gain, batch) for sign in (1, -1))
            gradient[:, bead, axis] = (above - below) / (2 * step)
    return gradient


def _periodic_gaussian(centre: np.ndarray, width: np.ndarray, box: int, pixel: float) -> np.ndarray:
    """Normalised Gaussians (B, D) along one axis of an image with its origin at pixel `D // 2`, repeated every box."""
    at = (np.arange(box) - box // 2) * pixel
    distance = at - centre[:, None] + box * pixel * np.arange(-2, 3)[:, None, None]
    gaussian = np.exp(-0.5 * np.square(distance / width[:, None])).sum(0)
    return gaussian / (np.sqrt(2 * np.pi) * width[:, None])


def _ctf(
    kx: np.ndarray,
    ky: np.ndarray,
    *,
    defocus_u: float,
    defocus_v: float,
    astigmatism_angle: float,
    voltage: float,
    spherical_aberration: float,
    amplitude_contrast: float,
    phase_shift: float,
    b_factor: float,
) -> np.ndarray:
    """Contrast transfer function of docs/conventions.md, through the angle of the frequency."""
    volts = voltage * 1e3
    wavelength = 12.2643 / np.sqrt(volts * (1 + 0.978476e-6 * volts))
    k, angle = np.hypot(kx, ky), np.arctan2(ky, kx)
    defocus = 0.5 * (defocus_u + defocus_v + (defocus_u - defocus_v) * np.cos(2 * (angle - astigmatism_angle)))
    gamma = np.pi * wavelength * defocus * k**2 + phase_shift
    gamma -= 0.5 * np.pi * spherical_aberration * 1e7 * wavelength**3 * k**4
    wave = np.sqrt(1 - amplitude_contrast**2) * np.sin(gamma) + amplitude_contrast * np.cos(gamma)
    return wave * np.exp(-0.25 * b_factor * k**2)
