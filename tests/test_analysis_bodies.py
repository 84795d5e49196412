import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryomorph.analysis.bodies import deformation, divide, find_bodies, find_screw


def globule(count, centre, seed):
    """Points at least 3.8 Å apart in a ball, like the Cα atoms of a domain, in an order like that of a chain."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(-4, 5)] * 3), -1).reshape(-1, 3) * 4.3
    grid = grid[np.argsort(np.linalg.norm(grid, axis=1), kind="stable")][:count]
    grid = grid[np.lexsort(grid.T)]
    return grid + random.uniform(-0.3, 0.3, grid.shape) + centre


@pytest.fixture(scope="module")
def two():
    """Two domains of 90 and 60 residues that touch, along x."""
    return np.vstack([globule(90, [0, 0, 0], 0), globule(60, [24, 0, 0], 1)])


def about(axis, point, degrees, along=0.0):
    """A screw motion as a function."""
    axis = np.array(axis) / np.linalg.norm(axis)
    turn = Rotation.from_rotvec(np.deg2rad(degrees) * axis)
    return lambda x: turn.apply(x - point) + point + along * axis


ANYWHERE = about([1, -2, 0.5], [3, 4, 5], 77, 12)
"""Some rigid motion of everything, which must not matter."""
HINGE = np.array([12.0, 3, 0])


def moved(x, rows, motion):
    end = x.copy()
    end[rows] = motion(end[rows])
    return end


def on_axis(body, point):
    """Distance of a point from the axis of a body's motion."""
    away = point - body.point
    return np.linalg.norm(away - (away @ body.axis) * body.axis)


@pytest.mark.parametrize("degrees", [8, 25, 60])
@pytest.mark.parametrize("axis", [[0, 0, 1], [0, 1, 1], [1, 0.3, 0]])
def test_a_planted_hinge_is_found_with_its_axis_and_angle(two, axis, degrees):
    end = ANYWHERE(moved(two, slice(90, 150), about(axis, HINGE, degrees)))
    fixed, body = find_bodies(two, end)
    np.testing.assert_array_equal(fixed.residues, np.arange(90))
    np.testing.assert_array_equal(body.residues, np.arange(90, 150))
    assert body.rotation == pytest.approx(degrees, abs=1e-6)
    np.testing.assert_allclose(body.axis, axis / np.linalg.norm(axis), atol=1e-7)
    assert body.translation == pytest.approx(0, abs=1e-7)
    assert on_axis(body, HINGE) < 1e-5
    centre = two[90:].mean(0)
    assert body.shift == pytest.approx(np.linalg.norm(about(axis, HINGE, degrees)(centre) - centre))
    assert (fixed.rotation, fixed.translation, fixed.shift) == (0, 0, 0)


def test_the_point_is_that_of_the_axis_nearest_to_the_body(two):
    body = find_bodies(two, moved(two, slice(90, 150), about([0, 0, 1], HINGE, 30)))[1]
    assert (two[90:].mean(0) - body.point) @ body.axis == pytest.approx(0, abs=1e-9)


def test_noise_and_a_flexible_loop_do_not_hide_a_hinge(two):
    random = np.random.default_rng(2)
    end = moved(two, slice(90, 150), about([0, 0, 1], HINGE, 20)) + 0.2 * random.standard_normal(two.shape)
    end[20:24] += [0, 3, 0]
    fixed, body = find_bodies(two, ANYWHERE(end))
    assert len(np.setxor1d(fixed.residues, np.arange(90))) <= 2
    assert body.rotation == pytest.approx(20, abs=1)
    assert abs(body.axis[2]) > 0.998
    assert on_axis(body, HINGE) < 0.6


def test_a_screw_goes_along_its_axis(two):
    body = find_bodies(two, moved(two, slice(90, 150), about([0, 0, -1], HINGE, 35, 4.0)))[1]
    np.testing.assert_allclose(body.axis, [0, 0, -1], atol=1e-7)
    assert (body.rotation, body.translation) == (pytest.approx(35), pytest.approx(4))


def test_a_body_that_slides_has_no_rotation(two):
    body = find_bodies(two, moved(two, slice(90, 150), lambda x: x + np.array([0, 3, 4])))[1]
    assert (body.rotation, body.translation, body.shift) == (0, pytest.approx(5), pytest.approx(5))
    np.testing.assert_allclose(body.axis, [0, 0.6, 0.8], atol=1e-7)
    np.testing.assert_allclose(body.point, two[90:].mean(0))


def test_three_bodies_each_with_its_own_axis():
    x = np.vstack([globule(110, [0, 0, 0], 0), globule(60, [26, 0, 0], 1), globule(45, [0, 25, 0], 2)])
    first, second = about([0, 0, 1], [13, 0, 0], 30), about([1, 0, 0], [0, 13, 0], -25)
    fixed, *bodies = find_bodies(x, ANYWHERE(moved(moved(x, slice(110, 170), first), slice(170, 215), second)))
    # A residue on an axis hardly moves, and may be in either body.
    for body, rows in zip([fixed, *bodies], np.split(np.arange(215), [110, 170]), strict=True):
        assert len(np.setxor1d(body.residues, rows)) <= 1
    assert [body.rotation for body in bodies] == [pytest.approx(30, abs=0.1), pytest.approx(25, abs=0.1)]
    np.testing.assert_allclose(bodies[0].axis, [0, 0, 1], atol=1e-3)
    np.testing.assert_allclose(bodies[1].axis, [-1, 0, 0], atol=1e-3)


def test_a_body_may_be_several_stretches_of_chain(two):
    order = np.r_[0:45, 90:150, 45:90]
    x = two[order]
    inside = np.arange(45, 105)
    fixed, body = find_bodies(x, moved(x, inside, about([0, 0, 1], HINGE, 30)))
    np.testing.assert_array_equal(body.residues, inside)
    np.testing.assert_array_equal(fixed.residues, np.r_[0:45, 105:150])


def test_bodies_do_not_depend_on_where_the_molecule_lies(two):
    end = moved(two, slice(90, 150), about([0, 0, 1], HINGE, 20))
    here, there = find_bodies(two, end)[1], find_bodies(ANYWHERE(two), end)[1]
    np.testing.assert_array_equal(here.residues, there.residues)
    assert there.rotation == pytest.approx(here.rotation)
    np.testing.assert_allclose(there.axis, ANYWHERE(here.axis) - ANYWHERE(np.zeros(3)), atol=1e-7)


@pytest.mark.parametrize("end", [lambda x: x, ANYWHERE])
def test_one_body_where_nothing_moves_against_anything(two, end):
    (body,) = find_bodies(two, end(two))
    np.testing.assert_array_equal(body.residues, np.arange(150))


def test_noise_is_no_body(two):
    assert len(find_bodies(two, two + np.random.default_rng(3).standard_normal(two.shape))) == 1


def test_what_swells_evenly_is_no_body():
    x = globule(150, [0, 0, 0], 0)
    assert len(find_bodies(x, 1.15 * x)) == 1


def test_every_residue_is_in_one_body(two):
    random = np.random.default_rng(4)
    end = moved(two, slice(90, 150), about([0, 0, 1], HINGE, 20)) + random.standard_normal(two.shape)
    residues = np.concatenate([body.residues for body in find_bodies(two, end)])
    np.testing.assert_array_equal(np.sort(residues), np.arange(150))


def test_few_residues_are_one_body(helix):
    (body,) = find_bodies(helix.coordinates[:10], helix.coordinates[:10] * 1.5)
    assert len(body.residues) == 10


def test_a_screw_by_its_formula():
    random = np.random.default_rng(5)
    x = random.standard_normal((20, 3)) * 8
    axis = np.array([2.0, -1, 2]) / 3
    screw = find_screw(x, about(axis, [5, 6, 7], 170, -3)(x))
    assert screw.rotation == pytest.approx(170)
    np.testing.assert_allclose(screw.axis, axis, atol=1e-7)
    assert screw.translation == pytest.approx(-3)
    assert on_axis(screw, np.array([5, 6, 7])) < 1e-6


def test_deformation_is_none_where_bodies_are_rigid(two):
    end = moved(two, slice(90, 150), about([0, 0, 1], HINGE, 20))
    label = np.repeat([0, 1], [90, 60])
    np.testing.assert_allclose(deformation(two, end, label), 0, atol=1e-12)
    assert deformation(two, end, np.zeros(150, int)).mean() > 1
    np.testing.assert_array_equal(divide(two, end) == divide(two, end)[0], label == 0)
