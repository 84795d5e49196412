"""Measures of latents and rendering as published, which the comparison with peers rests on."""

import numpy as np
import pytest
import torch

from conftest import helix_model
from cryomorph.config import component
from cryomorph.fourier import image_coefficients
from cryomorph.likelihood.direct import projection_coefficients
from cryomorph.structure.beads import bead_model
from cryomorph.structure.model import read_template
from latent_measures import distances, nearest, neighbourhood, regression
from rendering import dense, rendered_misfit, separable
from systems import make_batch

PATH, IMAGES = 20, 6
CONFORMATION = np.repeat(np.arange(PATH), IMAGES)


def opening(step=1.0):
    """Two atoms that part by so many Å a conformation, of a line of three: RMSD is linear in the distance."""
    line = np.zeros((PATH, 3, 3))
    line[:, 0, 0], line[:, 2, 0] = -10 - step * np.arange(PATH), 10 + step * np.arange(PATH)
    return line


def test_distances_of_a_line_that_grows():
    expected = np.abs(np.subtract.outer(np.arange(PATH), np.arange(PATH))) * np.sqrt(2 / 3)
    assert distances(opening()) == pytest.approx(expected, abs=1e-5)


def test_no_particle_is_its_own_neighbour_even_where_latents_coincide():
    latents = np.zeros((30, 2))
    assert (nearest(latents, 4) != np.arange(30)[:, None]).all()
    assert sorted(nearest(np.arange(5.0)[:, None], 2)[2]) == [1, 3]


def test_neighbourhood_of_true_latents_is_ideal_and_of_noise_is_chance():
    apart = distances(opening())
    true = CONFORMATION[:, None] + 1e-3 * np.random.default_rng(0).standard_normal((len(CONFORMATION), 1))
    found, agreement = neighbourhood(true, CONFORMATION, apart, k=IMAGES - 1)
    assert found == pytest.approx(0, abs=1e-6)
    assert agreement == pytest.approx(1)
    noise = np.random.default_rng(1).standard_normal((len(CONFORMATION), 2))
    found, agreement = neighbourhood(noise, CONFORMATION, apart, k=IMAGES - 1)
    # All pairs: E|i - j| = (n² - 1) / (3 n) of n conformations, with more for leaving out the particle itself.
    chance = np.sqrt(2 / 3) * (PATH**2 - 1) / (3 * PATH) * len(CONFORMATION) / (len(CONFORMATION) - 1)
    assert found == pytest.approx(chance, rel=0.05)
    assert agreement == pytest.approx(0, abs=0.05)


def test_neighbourhood_knows_no_scale():
    apart = distances(opening())
    latents = np.random.default_rng(2).standard_normal((len(CONFORMATION), 3)) + CONFORMATION[:, None]
    one, other = (neighbourhood(scale * latents, CONFORMATION, apart, k=5) for scale in (1.0, 1e3))
    assert one == pytest.approx(other)


def test_regression_of_true_latents_misses_by_the_step_between_conformations():
    # The nearest one of another fold is one step away, whichever way.
    latents = CONFORMATION[:, None].astype(float)
    assert regression(latents, CONFORMATION, opening(), k=1) == pytest.approx(np.sqrt(2 / 3), rel=1e-4)


def test_regression_of_noise_is_no_better_than_the_mean():
    latents = np.random.default_rng(3).standard_normal((len(CONFORMATION), 2))
    best = np.mean(distances(opening())[CONFORMATION][:, PATH // 2])
    assert regression(latents, CONFORMATION, opening(), k=40) > 0.95 * best


def drawn(box, pixel_size):
    generator = torch.Generator().manual_seed(0)
    points = 8 * torch.randn((2, 5, 2), generator=generator)
    amplitude = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    width = torch.tensor([3.0, 3.5, 4.0, 4.5, 5.0])
    arguments = points, amplitude, width, torch.full((2,), pixel_size), box
    return arguments, dense(*arguments), separable(*arguments)


@pytest.mark.parametrize("box", [48, 49])
def test_both_ways_of_drawing_give_the_coefficients_that_are_known(box):
    arguments, one, other = drawn(box, 2.0)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    # Their integral is the sum of amplitudes, and the pixel's area is 4 Å².
    torch.testing.assert_close(one.sum((1, 2)), torch.full((2,), 15.0 / 4), rtol=1e-4, atol=0)
    torch.testing.assert_close(image_coefficients(one), projection_coefficients(*arguments), rtol=0, atol=1e-4)


def test_rendered_misfit_is_that_of_the_direct_likelihood(tmp_path):
    path = tmp_path / "helix.pdb"
    helix_model({"A": 12}).write_pdb(str(path))
    template = read_template(path)
    beads = bead_model(template, "ca")(torch.from_numpy(template.coordinates).float()[None].expand(3, -1, -1))
    # Wide enough that nothing is left beyond the circle, where the direct likelihood does not look.
    beads.width.fill_(3.5)
    batch = make_batch(3, 48, 2.0)
    made = component("likelihood", "direct")
    expected = made(made.Settings(), 1)(beads, batch.rotation, batch.shift, batch)
    for draw in (dense, separable):
        found = rendered_misfit(draw)(beads, batch.rotation, batch.shift, batch)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-2)
