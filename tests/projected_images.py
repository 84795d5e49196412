"""Images of Gaussians at known poses, rendered by the likelihood's own projector, for tests of maps."""

import numpy as np
import torch

from cryomorph.fourier import band
from cryomorph.geometry import project, random_rotations
from cryomorph.likelihood.base import contrast_transfer
from cryomorph.likelihood.direct import projection_coefficients
from cryomorph.optics import CTFParameters
from cryomorph.particles.batch import ParticleBatch


def images_of(coefficients, box):
    """Images (b, D, D) of coefficients about the image's origin: the inverse of `image_coefficients`."""
    highest = band(box)
    spectrum = torch.zeros(len(coefficients), box, box // 2 + 1, dtype=torch.complex64)
    spectrum[:, : highest + 1, : highest + 1] = coefficients[:, highest:]
    spectrum[:, -highest:, : highest + 1] = coefficients[:, :highest]
    return torch.fft.fftshift(torch.fft.irfft2(spectrum, s=(box, box)), dim=(-2, -1))


def blobs(count=40, reach=20.0, seed=1):
    """Positions (B, 3), amplitudes and widths of Gaussians, without any symmetry."""
    generator = np.random.default_rng(seed)
    positions = generator.normal(0, 1, (count, 3))
    positions *= reach * generator.random((count, 1)) ** (1 / 3) / np.linalg.norm(positions, axis=1)[:, None]
    return positions, generator.uniform(5, 15, count), np.full(count, 2.0)


def batch_of(
    positions,
    amplitude,
    width,
    images,
    *,
    box=48,
    pixel_size=2.0,
    noise=0.0,
    shift=3.0,
    defocus=(8000, 16000),
    groups=1,
    seed=0,
):
    """Particles with images, and their poses."""
    generator = np.random.default_rng(seed)
    rotation = random_rotations(images, generator)
    shifts = generator.normal(0, shift, (images, 2)) if shift else np.zeros((images, 2))
    size = torch.as_tensor(pixel_size, dtype=torch.float32).expand(images)
    constant = {"astigmatism_angle": 0.3, "voltage": 300.0, "spherical_aberration": 2.7, "amplitude_contrast": 0.1}
    values = {name: torch.full((images,), value) for name, value in constant.items()}
    mean = torch.from_numpy(generator.uniform(*defocus, images)).float()
    ctf = CTFParameters(
        defocus_u=mean + 300,
        defocus_v=mean - 300,
        phase_shift=torch.zeros(images),
        b_factor=torch.zeros(images),
        **values,
    )
    batch = ParticleBatch(
        index=torch.arange(images),
        image=None,
        pixel_size=size,
        optics_group=torch.arange(images) % groups,
        rotation=torch.from_numpy(rotation).float(),
        shift=torch.from_numpy(shifts).float(),
        ctf=ctf,
    )
    points = project(torch.from_numpy(positions).float()[None].expand(images, -1, -1), batch.rotation, batch.shift)
    beads = (torch.from_numpy(values).float() for values in (amplitude, width))
    coefficients = projection_coefficients(points, *beads, size, box) * contrast_transfer(batch, box)
    image = images_of(coefficients, box)
    batch.image = (image + noise * image.std() * torch.from_numpy(generator.normal(0, 1, image.shape))).float()
    return batch, rotation, shifts
