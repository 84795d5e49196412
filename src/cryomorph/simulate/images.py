"""From atoms to images: projected potential, contrast transfer, noise."""

from collections.abc import Iterator

import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray

from cryomorph.errors import InputError
from cryomorph.geometry import project
from cryomorph.optics import ctf, electron_wavelength
from cryomorph.simulate.molecules import Molecules, reach
from cryomorph.simulate.nuisances import Disturbances, Nuisances, draw_nuisances
from cryomorph.simulate.particles import Particles, ctf_parameters
from cryomorph.simulate.settings import SimulationSettings
from cryomorph.structure.potential import ProjectedPotential, interaction_constant, to_image

_BATCH_PIXELS = 2**20  # held at once, not counting that they are rendered finer; some 100 MB of work space


def contrasts(
    molecules: Molecules,
    particles: Particles,
    settings: SimulationSettings,
    batch_size: int | None = None,
    extent: float | None = None,
    disturbances: Disturbances | None = None,
) -> Iterator[NDArray[np.float32]]:
    """Yield the noise-free contrast of all images in order, in batches (b, D, D); protein is bright.

    They are made in a box large enough for no tail of the contrast transfer function to come back on its other side.

    Parameters
    ----------
    molecules
        In the map frame.
    particles
        Poses and defocus.
    settings
        Optics and box.
    batch_size
        b; chosen by memory if not given.
    extent
        The `reach` of the molecules, if it is known already.
    disturbances
        A belt, neighbours, occupancies and B-factors; none if not given.
    """
    extent = reach(molecules) if extent is None else extent
    if disturbances is None:
        disturbances = draw_nuisances(Nuisances(), molecules, len(particles), extent, settings.seed)
    box = working_box(disturbances.reach(extent), settings)
    elements, of_atoms = molecules.template.elements, (disturbances.occupancy, disturbances.b_factor)
    first = box // 2 - settings.box // 2
    window = slice(first, first + settings.box)
    potential = ProjectedPotential(elements, box, settings.pixel_size, settings.solvent, *of_atoms)
    belt = torch.from_numpy(disturbances.belt)
    carbons = ProjectedPotential(("C",) * len(belt), box, settings.pixel_size, settings.solvent)
    neighbours = disturbances.neighbours
    strength = 2 * interaction_constant(settings.voltage)
    parameters = ctf_parameters(particles, settings)
    frequency_x = torch.fft.rfftfreq(box, settings.pixel_size)[None, None]
    frequency_y = torch.fft.fftfreq(box, settings.pixel_size)[None, :, None]
    if batch_size is None:
        batch_size = int(np.clip(_BATCH_PIXELS // box**2, 1, 32))
    for start in range(0, len(particles), batch_size):
        rows = slice(start, start + batch_size)
        atoms = torch.from_numpy(molecules.atoms(particles.conformation[rows]))
        rotation = torch.from_numpy(particles.rotation[rows]).float()
        shift = torch.from_numpy(particles.shift[rows]).float()
        projected = potential(project(atoms, rotation, shift))
        if len(belt):
            projected += carbons(project(belt.expand(len(atoms), -1, -1), rotation, shift))
        beside = np.flatnonzero(neighbours.present[rows])
        if len(beside):
            images = start + beside
            others = torch.from_numpy(molecules.atoms(neighbours.conformation[images]))
            pose = (torch.from_numpy(part[images]).float() for part in (neighbours.rotation, neighbours.shift))
            projected[torch.from_numpy(beside)] += potential(project(others, *pose))
        fourier = strength * projected * ctf(frequency_x, frequency_y, parameters[rows])
        yield to_image(fourier, box)[:, window, window].numpy()


def working_box(extent: float, settings: SimulationSettings) -> int:
    """Pixels a side at which nothing wraps round into the image, rounded up to a size that transforms fast.

    A wave of frequency k is displaced by λ Δf k; the tail of an atom on one edge must not reach the opposite edge of
    the image through the periodic boundary.
    """
    wavelength = float(electron_wavelength(torch.tensor(settings.voltage, dtype=torch.float64)))
    defocus = max(abs(value) for value in settings.defocus) + settings.astigmatism[1] / 2
    tail = wavelength * defocus / (2 * settings.pixel_size)
    needed = settings.box / 2 + (extent + 3 * settings.shift + tail) / settings.pixel_size
    return int(scipy.fft.next_fast_len(max(settings.box, int(np.ceil(needed))), real=True))


def add_noise(
    contrast: NDArray[np.float32], settings: SimulationSettings, image: int, scale: float = 1.0
) -> NDArray[np.float32]:
    """Add noise to one image and express it in units of the noise's standard deviation.

    Parameters
    ----------
    contrast
        Noise-free, shape (D, D).
    settings
        `dose`, `snr_db`, `pixel_size` and `seed` are used.
    image
        Number of the image; every image has a random stream of its own.
    scale
        By which the contrast is multiplied. The noise is that of a scale of 1.

    Raises
    ------
    InputError
        If the contrast reaches 1 (no electron left) and the noise is that of a dose.
    """
    generator = np.random.default_rng(np.random.SeedSequence(settings.seed, spawn_key=(image,)))
    if settings.snr_db is not None:
        noise = contrast.std() * 10 ** (-settings.snr_db / 20)
        noisy = scale * contrast / noise + generator.standard_normal(contrast.shape)
        return np.asarray(noisy, dtype=np.float32)
    contrast = np.float32(scale) * contrast
    if settings.dose is None:
        return contrast
    if contrast.max() > 1:
        raise InputError(
            f"image {image + 1}: contrast of {contrast.max():.2f}, more than the weak phase approximation allows; "
            "use larger pixels or a larger b_factor"
        )
    electrons = settings.dose * settings.pixel_size**2
    counts = generator.poisson(electrons * (1 - contrast.astype(np.float64)))
    return np.asarray((electrons - counts) / np.sqrt(electrons), dtype=np.float32)
