"""Grids of rotations."""

import numpy as np
import pytest

from cryomorph.geometry import random_rotations
from cryomorph.scan.grid import ProductGrid, super_fibonacci


def nearest(rotations, count=2000):
    """Degrees from random rotations to the nearest of a grid."""
    wanted = random_rotations(count, np.random.default_rng(0)).reshape(count, 9)
    trace = (wanted.astype(np.float32) @ rotations.reshape(-1, 9).T.astype(np.float32)).max(1)
    return np.rad2deg(np.arccos(np.clip(0.5 * (trace.astype(np.float64) - 1), -1, 1)))


def assert_rotations(rotations):
    identity = np.broadcast_to(np.eye(3), rotations.shape)
    np.testing.assert_allclose(rotations @ rotations.swapaxes(-1, -2), identity, atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotations), 1, atol=1e-12)


def test_spirals_are_spread_as_published():
    """Diepeveen et al. (2023) give 4.8 degrees as the mean distance to the nearest of 14,761 rotations."""
    rotations = super_fibonacci(14_761)
    assert_rotations(rotations)
    assert abs(nearest(rotations).mean() - 4.8) < 0.1
    assert nearest(rotations).max() < 10


@pytest.mark.parametrize(("directions", "in_plane"), [(7, 6), (12, 2)])
def test_a_product_has_all_in_plane_angles_of_all_directions(directions, in_plane):
    grid = ProductGrid(directions, in_plane)
    assert len(grid) == directions * in_plane
    viewing = grid.viewing()
    assert_rotations(viewing)
    for direction in range(directions):
        for angle in range(in_plane):
            found = grid.rotations(np.array(direction), np.array(angle))
            turn = 2 * np.pi * angle / in_plane
            in_the_plane = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
            np.testing.assert_allclose(found, in_the_plane @ viewing[direction], atol=1e-12)
            np.testing.assert_allclose(found[2], viewing[direction, 2])  # the direction
    many = grid.rotations(np.array([[0, 3], [1, 2]]), np.array([[1, 0], [0, 1]]))
    assert many.shape == (2, 2, 3, 3)
    assert_rotations(many)


def test_directions_cover_the_sphere_evenly():
    viewing = ProductGrid(400, 2).viewing()[:, 2]
    np.testing.assert_allclose(viewing.mean(0), 0, atol=0.01)
    np.testing.assert_allclose(viewing.T @ viewing / 400, np.eye(3) / 3, atol=0.01)
    closest = np.rad2deg(np.arccos(np.sort(viewing @ viewing.T, axis=1)[:, -2]))
    even = np.rad2deg(np.sqrt(4 * np.pi / 400))
    assert closest.min() > 0.6 * even
    assert closest.max() < 1.1 * even


def test_a_grid_of_at_least_so_many_has_like_steps():
    grid = ProductGrid.of_at_least(14_761)
    assert 14_761 <= len(grid) < 14_761 + grid.in_plane
    around, across = 2 * np.pi / grid.in_plane, np.sqrt(4 * np.pi / grid.directions)
    assert abs(around / across - 1) < 0.05
    every = grid.rotations(*np.divmod(np.arange(len(grid)), grid.in_plane))
    assert nearest(every).mean() < 1.05 * nearest(super_fibonacci(len(grid))).mean()
