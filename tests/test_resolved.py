"""Statistics of two estimates, on arrays whose motion is known."""

import numpy as np
import pytest

from cryomorph.geometry import random_rotations
from cryomorph.resolved import agreement, common_component, leading_directions, resolved_motion, views, without

RESIDUES = 30


def two_estimates(generator, motion, noise, particles=1000):
    """A motion of so many Å rms along one direction, and two estimates of it with noise of their own."""
    direction = generator.standard_normal((RESIDUES, 3))
    direction *= np.sqrt(RESIDUES) / np.linalg.norm(direction)
    true = motion * generator.standard_normal((particles, 1, 1)) * direction
    mean = 10 * generator.standard_normal((RESIDUES, 3))
    first, second = (mean + true + noise * generator.standard_normal(true.shape) for _ in range(2))
    return first, second, direction


def constant(particles):
    return np.full((particles, 1), particles**-0.5)


def test_motion_is_found_beneath_noise_that_is_larger():
    generator = np.random.default_rng(0)
    first, second, direction = two_estimates(generator, 1.0, 2.0)
    found = resolved_motion(first, second, constant(1000))
    assert found.resolved
    assert abs(found.covariance - 1) < 4 * found.error
    assert found.angstrom == pytest.approx(1, abs=4 * found.angstrom_error)
    assert found.correlation == pytest.approx(1 / (1 + 3 * 4), rel=0.2)
    expected = np.linalg.norm(direction, axis=1)
    np.testing.assert_allclose(found.residue_covariance, expected**2, atol=6 * found.residue_error.max())
    component = common_component(*(without(x, constant(1000)) for x in (first, second)))
    assert np.linalg.norm(component) == pytest.approx(1)
    assert abs((component * direction).sum()) / np.linalg.norm(direction) > 0.99


def test_noise_alone_has_no_motion_and_its_error_is_that_of_repetitions():
    generator = np.random.default_rng(1)
    repeated = [resolved_motion(*two_estimates(generator, 0.0, 1.0, 200)[:2], constant(200)) for _ in range(200)]
    values, errors = (np.array([getattr(found, name) for found in repeated]) for name in ("covariance", "error"))
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values))
    assert errors.mean() == pytest.approx(values.std(), rel=0.15)
    assert np.mean([found.resolved for found in repeated]) < 0.02
    assert np.mean([found.at_most > 0 for found in repeated]) == 1


def test_the_error_of_a_motion_is_that_of_repetitions():
    generator = np.random.default_rng(2)
    repeated = [resolved_motion(*two_estimates(generator, 1.0, 1.0, 200)[:2], constant(200)) for _ in range(200)]
    values = np.array([found.angstrom for found in repeated])
    assert np.mean([found.angstrom_error for found in repeated]) == pytest.approx(values.std(), rel=0.15)


def test_estimates_drawn_to_the_mean_give_less_motion_never_more():
    generator = np.random.default_rng(3)
    first, second, _ = two_estimates(generator, 2.0, 0.1)
    middle = first.mean(0)
    assert resolved_motion(middle + 0.5 * (first - middle), second, constant(1000)).covariance == pytest.approx(
        2.0, rel=0.2
    )


def test_no_variation_at_all_is_no_motion():
    still = np.zeros((5, RESIDUES, 3)) + np.arange(3)
    found = resolved_motion(still, still, constant(5))
    assert (found.covariance, found.error, found.angstrom, found.at_most, found.correlation) == (0, 0, 0, 0, 0)
    assert not found.resolved
    alike = agreement(still, still)
    assert (alike.rmsd, alike.correlation, alike.directions, len(alike.angles)) == (0, 0, (0, 0), 0)
    assert not common_component(0 * still, 0 * still).any()


def test_the_same_directions_are_told_from_others():
    generator = np.random.default_rng(4)
    first, second, _ = two_estimates(generator, 3.0, 0.05)
    alike = agreement(first, second)
    assert alike.directions == (1, 1)
    assert alike.angles[0] < 2
    assert alike.correlation > 0.99
    assert alike.rmsd == pytest.approx(0.05 * np.sqrt(6), rel=0.05)
    assert alike.residue_correlation.shape == alike.residue_rmsd.shape == (RESIDUES,)
    other = two_estimates(generator, 3.0, 0.05)[1]
    assert agreement(first, other).angles[0] > 60


@pytest.mark.parametrize("particles", [20, 500])
def test_leading_directions_carry_their_share_of_the_variance(particles):
    generator = np.random.default_rng(5)
    widths = np.r_[3.0, 2.0, 1.0, np.zeros(27)]
    x = generator.standard_normal((particles, 30)) * widths
    x -= x.mean(0)
    directions = leading_directions(x, 0.9)
    np.testing.assert_allclose(directions.T @ directions, np.eye(2), atol=1e-9)
    assert np.square(x @ directions).sum() >= 0.9 * np.square(x).sum()


def seen_from_everywhere(generator, particles=1000):
    rotation = random_rotations(particles, generator)
    return rotation, generator.uniform(1e4, 2e4, particles)


def test_what_depends_on_the_view_alone_is_no_motion():
    """As errors of a model do: what an image tells of them goes with the squares of the direction of view."""
    generator = np.random.default_rng(6)
    rotation, defocus = seen_from_everywhere(generator)
    along = 1 - np.square(rotation[:, 2] @ np.array([0.6, 0.0, 0.8]))
    error = (along / (along + 0.5) * defocus / 1.5e4)[:, None, None] * generator.standard_normal((RESIDUES, 3))
    first, second = (error + 0.1 * generator.standard_normal(error.shape) for _ in range(2))
    assert resolved_motion(first, second, constant(1000)).angstrom > 0.3
    found = resolved_motion(first, second, views(rotation, defocus))
    assert found.angstrom < 0.05


def test_motion_does_not_depend_on_the_view_and_stays():
    generator = np.random.default_rng(7)
    first, second, _ = two_estimates(generator, 1.0, 0.5)
    found = resolved_motion(first, second, views(*seen_from_everywhere(generator)))
    assert found.angstrom == pytest.approx(1.0, abs=4 * found.angstrom_error)


def test_functions_of_the_view_leave_no_motion_in_noise():
    generator = np.random.default_rng(8)
    values = []
    for _ in range(100):
        first, second, _ = two_estimates(generator, 0.0, 1.0, 200)
        found = resolved_motion(first, second, views(*seen_from_everywhere(generator, 200)))
        values.append((found.covariance, found.error))
    covariance, error = np.array(values).T
    assert abs(covariance.mean()) < 4 * covariance.std() / 10
    assert error.mean() == pytest.approx(covariance.std(), rel=0.2)


@pytest.mark.parametrize(("particles", "functions"), [(1000, 22), (100, 8), (50, 1)])
def test_there_are_as_many_functions_of_the_view_as_particles_tell(particles, functions):
    basis = views(*seen_from_everywhere(np.random.default_rng(9), particles))
    assert basis.shape == (particles, functions)
    np.testing.assert_allclose(basis.T @ basis, np.eye(functions), atol=1e-9)
    np.testing.assert_allclose(basis @ (basis.T @ np.ones(particles)), 1, atol=1e-9)


def test_views_from_one_side_at_one_defocus_are_no_functions():
    basis = views(np.broadcast_to(np.eye(3), (500, 3, 3)), np.full(500, 1e4))
    assert basis.shape == (500, 1)
