import numpy as np
import pytest

from cryomorph.analysis.landscape import landscape

MANY = 40_000


@pytest.fixture(scope="module")
def normal():
    random = np.random.default_rng(0)
    return 2.0 * random.standard_normal(MANY) + 1, 0.5 * random.standard_normal(MANY)


def middles(edges):
    return (edges[1:] + edges[:-1]) / 2


def test_energy_of_a_normal_density_is_a_parabola(normal):
    found = landscape(("pc1", "pc2"), *normal, 60)
    # Smoothing by m^(-1/6) standard deviations widens a normal density by that much.
    wider = 1 + MANY ** (-1 / 3)
    expected = np.add.outer(
        np.square((middles(found.x) - 1) / 2) / (2 * wider), np.square(middles(found.y) / 0.5) / (2 * wider)
    )
    low = expected < 3
    assert low.sum() > 300
    np.testing.assert_allclose(found.energy[low], expected[low], atol=0.2)
    assert np.nanmin(found.energy) == 0


def test_where_hardly_any_particles_are_nothing_is_said(normal):
    x, y = normal
    found = landscape(("pc1", "pc2"), x, y, 60)
    unknown = np.isnan(found.energy)
    far = np.add.outer(np.square((middles(found.x) - 1) / 2), np.square(middles(found.y) / 0.5)) > 25
    near = np.add.outer(np.square((middles(found.x) - 1) / 2), np.square(middles(found.y) / 0.5)) < 4
    assert unknown[far].all()
    assert not unknown[near].any()
    assert found.energy.shape == (60, 60)
    assert found.names == ("pc1", "pc2")


def test_two_wells_differ_by_the_logarithm_of_their_populations():
    random = np.random.default_rng(1)
    count = 30_000
    right = random.uniform(size=count) < 0.2
    x, y = np.where(right, 5.0, -5.0) + 0.7 * random.standard_normal(count), 0.7 * random.standard_normal(count)
    found = landscape(("pc1", "pc2"), x, y, 80)
    wells = [np.nanmin(found.energy[middles(found.x) < 0]), np.nanmin(found.energy[middles(found.x) > 0])]
    assert wells[1] - wells[0] == pytest.approx(np.log(4), abs=0.15)


def test_lengths_do_not_matter_and_axes_are_in_their_order(normal):
    x, y = normal
    found, other = landscape(("a", "b"), x, y, 30), landscape(("b", "a"), 10 * y, x, 30)
    np.testing.assert_allclose(other.energy, found.energy.T, atol=1e-6)


def test_of_few_particles_nothing_is_said():
    x = np.linspace(0, 1, 4)
    assert np.isnan(landscape(("a", "b"), x, x, 20).energy).all()


def test_particles_that_do_not_move_make_a_map_too():
    found = landscape(("a", "b"), np.zeros(50), np.zeros(50), 20)
    assert np.nanmin(found.energy) == 0
    assert (np.diff(found.x) > 0).all()


def test_a_narrow_curved_cloud_is_not_smeared_out():
    """Particles on a half circle of radius 5: of a bin half-way to its centre nothing is known, on it all is."""
    random = np.random.default_rng(2)
    angle = random.uniform(0, np.pi, 4000)
    radius = 5 + 0.1 * random.standard_normal(4000)
    found = landscape(("pc1", "pc2"), radius * np.cos(angle), radius * np.sin(angle), 80)
    away = np.hypot(middles(found.x)[:, None], middles(found.y)[None])
    above = np.broadcast_to(middles(found.y)[None] > 0.5, away.shape)
    assert np.isnan(found.energy[above & (away < 3.5)]).all()
    assert np.isfinite(found.energy[above & (abs(away - 5) < 0.1)]).all()
