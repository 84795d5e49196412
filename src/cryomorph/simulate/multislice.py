"""From atoms to images by multislice: the wave passes slice by slice, and the microscope images what leaves the last.

Each slice multiplies the wave by its transmission and the wave propagates on (Cowley & Moodie 1957). Electrons travel
along +z of the image frame. What leaves the specimen is given the microscope's aberration, with the defocus of the
specimen's middle, and the envelopes of partial coherence; its squared modulus is the expected image. Ice is a random
field in every slice, displaced by what stands there.
"""

from collections.abc import Iterator
from math import pi

import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomorph.geometry import project
from cryomorph.optics import CTFParameters, aberration, electron_wavelength
from cryomorph.simulate.detector import read_transfer
from cryomorph.simulate.ice import IceField, left_of_field
from cryomorph.simulate.images import working_box
from cryomorph.simulate.molecules import Molecules, reach
from cryomorph.simulate.nuisances import Disturbances, Nuisances, draw_nuisances
from cryomorph.simulate.particles import Particles, ctf_parameters
from cryomorph.simulate.settings import SimulationSettings
from cryomorph.simulate.slices import BAND, SlicePotentials, propagator, transmitted
from cryomorph.structure.potential import interaction_constant

MILLIRADIAN = 1e-3
_ICE_STREAM = 2_000_003


class Multislice:
    """Simulates the images of one optical setting.

    Parameters
    ----------
    elements
        Of the atoms of an image.
    occupancy
        Share of its scattering that each of them has, shape (m,).
    settings
        Of the simulation.
    extent
        How far atoms reach from the images' origin, Å.
    device
        Where to compute.

    Attributes
    ----------
    size, sampling
        Samples N along an edge of the wave, and Å between them.
    layers
        Number of slices.
    """

    def __init__(
        self,
        elements: tuple[str, ...],
        occupancy: NDArray[np.float64],
        b_factor: NDArray[np.float64],
        settings: SimulationSettings,
        extent: float,
        device: torch.device,
    ) -> None:
        self.settings, self.physics, self.device = settings, settings.multislice, device
        self.box = working_box(extent, settings)
        field = self.box * settings.pixel_size
        finest = min(self.physics.sampling, BAND * settings.pixel_size)
        self.size = int(scipy.fft.next_fast_len(int(np.ceil(field / finest)), real=True))
        self.sampling = field / self.size
        self.layers = max(1, int(np.ceil(max(self.physics.ice, 2 * extent) / self.physics.slice)))
        dose = 0.0 if settings.dose is None or settings.snr_db is not None else settings.dose
        damage = 0.5 * self.physics.damage * dose  # the mean over the exposure
        self.potentials = SlicePotentials(
            elements,
            self.size,
            self.sampling,
            solvent=settings.solvent and self.physics.ice > 0,
            b_factor=b_factor + damage,
            occupancy=occupancy,
            device=device,
        )
        self.wavelength = float(electron_wavelength(torch.tensor(settings.voltage, dtype=torch.float64)))
        self.strength = interaction_constant(settings.voltage)
        self.over = propagator(self.size, self.sampling, self.wavelength, device)
        layer = self.size, self.sampling, self.physics.slice, self.physics.ice_motion * dose
        self.ice = IceField(*layer, device) if self.physics.ice > 0 else None
        self.detector = None if self.physics.mtf is None else read_transfer(self.physics.mtf)

    def slices(self, positions: Tensor, generator: torch.Generator) -> Tensor:
        """Return the potential of all slices, ice included, relative to even ice; (layers, N, N) V Å."""
        potential: Tensor
        potential, volume = self.potentials(positions.to(self.device), self.physics.slice, self.layers)
        if self.ice is not None:
            left = left_of_field(volume, self.physics.slice)
            potential += self.ice.draw(self.layers, generator) * left
        return potential

    def exit_wave(self, potential: Tensor) -> Tensor:
        """Return the Fourier transform (N, N) of the wave that leaves the last of the slices (layers, N, N)."""
        step = self.over(self.physics.slice)
        spectrum = torch.zeros(self.size, self.size, dtype=torch.complex64, device=self.device)
        spectrum[0, 0] = self.size**2  # a plane wave
        for layer in potential:
            passed = transmitted(layer, self.strength, self.settings.amplitude_contrast)
            spectrum = torch.fft.fft2(torch.fft.ifft2(spectrum) * passed) * step
        return spectrum

    def image(self, exit_wave: Tensor, optics: CTFParameters) -> Tensor:
        """Return the expected image (D, D) of an exit wave's transform, in electrons for each that came in."""
        along = torch.fft.fftfreq(self.size, self.sampling, device=self.device)
        x, y = along[None, None], along[None, :, None]
        # The aberration is that of the specimen's middle. The wave is known where it leaves that, and slices act
        # where they begin, half their thickness before what is in them.
        distance = 0.5 * (self.layers + 1) * self.physics.slice
        back = pi * self.wavelength * distance * (x.square() + y.square())
        gamma = aberration(x, y, optics.to(self.device)) + back
        scattered = exit_wave[None] * torch.polar(self._envelope(x, y, optics), gamma)
        phase_plate = torch.polar(torch.ones(1), -optics.phase_shift).to(self.device)
        scattered[:, 0, 0] *= phase_plate  # relative to all else
        intensity = torch.fft.ifft2(scattered).abs().square()
        return self._seen(torch.fft.rfft2(intensity))[0]

    def _envelope(self, x: Tensor, y: Tensor, optics: CTFParameters) -> Tensor:
        """Return by what partial coherence, and a B-factor, weaken each frequency of the wave."""
        k2 = x.square() + y.square()
        temporal = 0.5 * (pi * self.wavelength * self.physics.focal_spread * k2).square()
        mean = 0.5 * (optics.defocus_u + optics.defocus_v).to(self.device)[:, None, None]
        cs = self.settings.spherical_aberration * 1e7
        slope = mean - cs * self.wavelength**2 * k2  # of the aberration, over λ k
        spatial = (pi * self.physics.illumination * MILLIRADIAN * slope).square() * k2
        return torch.exp(-temporal - spatial - 0.25 * self.settings.b_factor * k2)

    def _seen(self, spectrum: Tensor) -> Tensor:
        """Return images of pixels, given the transforms of images of samples about sample `N // 2`."""
        box, size = self.box, self.size
        most = (box - 1) // 2
        index = torch.arange(-most, most + 1, device=self.device)
        kept = spectrum.new_zeros(len(spectrum), box, box // 2 + 1)
        kept[:, index % box, : most + 1] = spectrum[:, index % size, : most + 1] * (box / size) ** 2
        # From about sample N // 2 to about pixel 0, and by `to_image`'s roll to about pixel D // 2.
        turns = (size // 2) / size * index
        wave = torch.polar(torch.ones_like(turns, dtype=torch.float32), 2 * pi * (turns - turns.round()))
        kept[:, index % box, : most + 1] *= wave[:, None] * wave[None, most:]
        if self.detector is not None:
            along = torch.fft.fftfreq(box, device=self.device)
            kept *= self.detector(torch.hypot(along[: box // 2 + 1].abs()[None], along[:, None]))
        image: Tensor = torch.fft.irfft2(kept, s=(box, box)).roll((box // 2, box // 2), dims=(-2, -1))
        first = box // 2 - self.settings.box // 2
        window = slice(first, first + self.settings.box)
        return image[:, window, window]


def contrasts(
    molecules: Molecules,
    particles: Particles,
    settings: SimulationSettings,
    extent: float | None = None,
    disturbances: Disturbances | None = None,
    device: torch.device | None = None,
) -> Iterator[NDArray[np.float32]]:
    """Yield the contrast of all images in order, one at a time (1, D, D): 1 less the expected image; protein is bright.

    Parameters are those of `cryomorph.simulate.images.contrasts`; on a GPU by default, if there is one.
    """
    extent = reach(molecules) if extent is None else extent
    if disturbances is None:
        disturbances = draw_nuisances(Nuisances(), molecules, len(particles), extent, settings.seed)
    if device is None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parameters, neighbours = ctf_parameters(particles, settings), disturbances.neighbours
    elements = molecules.template.elements
    own = disturbances.occupancy, disturbances.b_factor
    belt = ("C",) * len(disturbances.belt)
    setups: dict[bool, Multislice] = {}
    for image in range(len(particles)):
        beside = bool(neighbours.present[image])
        if beside not in setups:
            atoms = elements + belt + (elements if beside else ())
            occupancy, b_factor = (
                np.concatenate([values, np.full(len(belt), of_belt), values if beside else np.zeros(0)])
                for values, of_belt in zip(own, (1.0, 0.0), strict=True)
            )
            setups[beside] = Multislice(atoms, occupancy, b_factor, settings, disturbances.reach(extent), device)
        setup = setups[beside]
        generator = torch.Generator().manual_seed(_seed(settings.seed, image))
        wave = setup.exit_wave(setup.slices(_scene(molecules, particles, disturbances, image), generator))
        yield (1 - setup.image(wave, parameters[image : image + 1]))[None].cpu().numpy()


def _seed(seed: int, image: int) -> int:
    return int(np.random.SeedSequence(seed, spawn_key=(image, _ICE_STREAM)).generate_state(1, np.uint64)[0] >> 1)


def _scene(molecules: Molecules, particles: Particles, disturbances: Disturbances, image: int) -> Tensor:
    """Return all atoms of an image, in Å in its frame, z along the beam; shape (m, 3)."""
    neighbours = disturbances.neighbours
    scene = [
        (_atoms(molecules, particles.conformation[image]), particles.rotation[image], particles.shift[image]),
        (disturbances.belt, particles.rotation[image], particles.shift[image]),
    ]
    if neighbours.present[image]:
        other = _atoms(molecules, neighbours.conformation[image])
        scene.append((other, neighbours.rotation[image], neighbours.shift[image]))
    return torch.cat([_placed(*part) for part in scene])


def _atoms(molecules: Molecules, conformation: int) -> NDArray[np.float32]:
    atoms: NDArray[np.float32] = molecules.atoms(np.array([conformation]))[0]
    return atoms


def _placed(atoms: NDArray[np.float32], rotation: NDArray[np.float64], shift: NDArray[np.float64]) -> Tensor:
    points, turn = torch.from_numpy(atoms).float()[None], torch.from_numpy(rotation).float()[None]
    seen = project(points, turn, torch.from_numpy(shift).float()[None])[0]
    return torch.cat([seen, points[0] @ turn[0, 2][:, None]], dim=1)
