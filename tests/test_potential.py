from math import pi

import numpy as np
import pytest
import torch

from cryomorph.structure.potential import (
    POTENTIAL_PER_SCATTERING,
    ProjectedPotential,
    atomic_potential,
    displaced_volume,
    ice_potential,
    interaction_constant,
    to_image,
)
from cryomorph.structure.scattering import electron_scattering

ADENYLATE_KINASE = {"C": 1040, "H": 1685, "N": 289, "O": 320, "S": 7}  # 23,582 Da
BOXES = [40, 41]


def pixel_coordinates(box: int, pixel_size: float) -> np.ndarray:
    return (np.arange(box) - box // 2) * pixel_size


@pytest.mark.parametrize(("voltage", "expected"), [(100, 0.9244e-3), (200, 0.7288e-3), (300, 0.6526e-3)])
def test_interaction_constant_has_its_tabulated_values(voltage, expected):
    assert interaction_constant(voltage) == pytest.approx(expected, rel=1e-4)


def test_potential_of_a_scattering_factor():
    assert pytest.approx(47.878, abs=1e-3) == POTENTIAL_PER_SCATTERING


def test_mean_inner_potential_of_ice_is_near_the_published_four_and_a_half_volts():
    assert ice_potential() == pytest.approx(4.53, abs=0.1)


def test_ice_takes_away_the_known_share_of_a_proteins_contrast():
    zero = torch.zeros(1, dtype=torch.float64)
    total = {
        solvent: sum(count * float(atomic_potential(name, zero, solvent)) for name, count in ADENYLATE_KINASE.items())
        for solvent in (False, True)
    }
    volume = sum(count * displaced_volume(name) for name, count in ADENYLATE_KINASE.items())
    assert volume * 0.602214 / 23582 == pytest.approx(0.74, abs=0.02)  # partial specific volume, cm³/g
    assert 6.5 < total[False] / volume < 8.0
    assert 0.25 < total[True] / total[False] < 0.45


def test_untabulated_element_displaces_its_van_der_waals_sphere():
    assert displaced_volume("Zn") == pytest.approx(4 / 3 * pi * 1.39**3, rel=1e-3)


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("solvent", [False, True])
def test_integral_of_the_image_is_the_integral_of_the_potential(box, solvent):
    potential = ProjectedPotential(["C"], box, 1.5, solvent)
    image = to_image(potential(torch.tensor([[[3.2, -4.4]]])), box)
    expected = 47.878 * 2.5088 - (ice_potential() * 16.44 if solvent else 0.0)
    assert float(image.sum()) * 1.5**2 == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("box", BOXES)
def test_atoms_with_a_b_factor_are_sums_of_gaussians(box):
    pixel_size, b_factor = 0.5, 60.0
    elements = ["C", "N", "C", "O", "H", "S"]
    positions = np.random.default_rng(1).uniform(-3, 3, (2, 6, 2))
    fourier = ProjectedPotential(elements, box, pixel_size, False)(torch.from_numpy(positions).float())
    k2 = torch.fft.rfftfreq(box, pixel_size)[None] ** 2 + torch.fft.fftfreq(box, pixel_size)[:, None] ** 2
    image = to_image(fourier * torch.exp(-0.25 * b_factor * k2), box).numpy()
    grid = pixel_coordinates(box, pixel_size)
    expected = np.zeros((2, box, box))
    for frame in range(2):
        for element, (x, y) in zip(elements, positions[frame], strict=True):
            squared = (grid[None] - x) ** 2 + (grid[:, None] - y) ** 2
            for a, b in zip(*electron_scattering(element), strict=True):
                width = b + b_factor
                expected[frame] += POTENTIAL_PER_SCATTERING * a * 4 * pi / width * np.exp(-4 * pi**2 * squared / width)
    np.testing.assert_allclose(image, expected, atol=1e-4 * expected.max())


@pytest.mark.parametrize("box", BOXES)
def test_displaced_ice_is_a_gaussian_of_the_atoms_volume(box):
    pixel_size, position = 0.4, torch.tensor([[[1.1, -0.7]]])
    vacuum, in_ice = (
        to_image(ProjectedPotential(["C"], box, pixel_size, solvent)(position), box)[0] for solvent in (False, True)
    )
    grid = pixel_coordinates(box, pixel_size)
    squared = (grid[None] - 1.1) ** 2 + (grid[:, None] + 0.7) ** 2
    edge = 16.44 ** (1 / 3)
    expected = ice_potential() * edge * np.exp(-pi * squared / edge**2)
    np.testing.assert_allclose((vacuum - in_ice).numpy(), expected, atol=1e-4 * expected.max())


@pytest.mark.parametrize("box", BOXES)
def test_transform_is_the_direct_sum_over_atoms_below_nyquist(box):
    pixel_size = 1.2
    positions = np.random.default_rng(2).uniform(-20, 20, (1, 30, 2))
    elements = ["C", "N", "O"] * 10
    potential = ProjectedPotential(elements, box, pixel_size, True)
    kx, ky = np.fft.rfftfreq(box, pixel_size)[None], np.fft.fftfreq(box, pixel_size)[:, None]
    radius = torch.from_numpy(np.hypot(kx, ky))
    expected = np.zeros((box, box // 2 + 1), dtype=complex)
    for element, (x, y) in zip(elements, positions[0], strict=True):
        factor = atomic_potential(element, radius, True).numpy()
        expected += factor * np.exp(-2j * pi * (kx * x + ky * y)) / pixel_size**2
    nyquist = 0.5 / pixel_size - 1e-9
    expected[(abs(kx) > nyquist) | (abs(ky) > nyquist)] = 0
    fourier = potential(torch.from_numpy(positions).float())[0].numpy()
    np.testing.assert_allclose(fourier, expected, atol=1e-6 * abs(expected).max())
