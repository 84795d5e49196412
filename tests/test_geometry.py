"""Rotations and superposition, against RELION's own projections, scipy and closed forms."""

from pathlib import Path

import numpy as np
import pytest
import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from cryomorph.geometry import (
    angle_between,
    common_rotation,
    common_translation,
    cryosparc_to_matrix,
    matrix_to_cryosparc,
    matrix_to_relion,
    nearest_rotation,
    procrustes_mean,
    project,
    random_rotations,
    relion_to_matrix,
    rmsd,
    superpose,
    superpose_core,
)

ORACLE = Path(__file__).parent / "oracles" / "relion_projections.csv"
RNG = np.random.default_rng(7)
angles = st.floats(-720, 720, allow_nan=False)


def test_projection_lands_where_relion_put_the_point():
    lines = [line for line in ORACLE.read_text().splitlines() if not line.startswith("#")]
    table = np.genfromtxt(lines, delimiter=",", names=True)
    box, pixel = 64, 3.54
    matrix = relion_to_matrix(table["rlnAngleRot"], table["rlnAngleTilt"], table["rlnAnglePsi"])
    point = np.array([49 - box // 2, 0, 0]) * pixel
    shift = -np.stack([table["rlnOriginXAngst"], table["rlnOriginYAngst"]], axis=1)
    points = torch.from_numpy(np.broadcast_to(point, (len(table), 1, 3)).copy())
    seen = project(points, torch.from_numpy(matrix), torch.from_numpy(shift))[:, 0].numpy() / pixel + box // 2
    expected = np.stack([table["column_seen"], table["row_seen"]], axis=1)
    assert len(table) == 24
    # RELION's maximum is a whole pixel, so half a pixel is what rounding explains.
    assert np.abs(seen - expected).max() < 0.51


def test_relion_matrix_has_the_documented_entries():
    rot, tilt, psi = np.array([20.0]), np.array([70.0]), np.array([-130.0])
    matrix = relion_to_matrix(rot, tilt, psi)[0]
    a, b, g = np.deg2rad([20.0, 70.0, -130.0])
    np.testing.assert_allclose(matrix[2], [np.sin(b) * np.cos(a), np.sin(b) * np.sin(a), np.cos(b)])
    np.testing.assert_allclose(matrix[0, 2], -np.cos(g) * np.sin(b))


@settings(deadline=None)
@given(angles, angles, angles)
def test_relion_matrix_is_the_inverse_of_the_intrinsic_zyz_rotation(rot, tilt, psi):
    ours = relion_to_matrix(np.array([rot]), np.array([tilt]), np.array([psi]))[0]
    theirs = Rotation.from_euler("ZYZ", [rot, tilt, psi], degrees=True).inv().as_matrix()
    np.testing.assert_allclose(ours, theirs, atol=1e-9)


@settings(deadline=None)
@given(angles, st.one_of(angles, st.sampled_from([0.0, 180.0, -180.0])), angles)
def test_relion_angles_round_trip(rot, tilt, psi):
    matrix = relion_to_matrix(np.array([rot]), np.array([tilt]), np.array([psi]))
    np.testing.assert_allclose(relion_to_matrix(*matrix_to_relion(matrix)), matrix, atol=1e-8)


def test_cryosparc_pose_is_the_transposed_exponential_map():
    pose = np.array([[0.3, -0.2, 0.9], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(cryosparc_to_matrix(pose), Rotation.from_rotvec(-pose).as_matrix(), atol=1e-12)


def test_cryosparc_poses_round_trip():
    matrix = random_rotations(50, RNG)
    np.testing.assert_allclose(cryosparc_to_matrix(matrix_to_cryosparc(matrix)), matrix, atol=1e-7)


def test_random_rotations_are_uniform():
    matrices = random_rotations(20_000, np.random.default_rng(0))
    np.testing.assert_allclose(
        matrices @ matrices.transpose(0, 2, 1), np.broadcast_to(np.eye(3), matrices.shape), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(matrices), 1)
    # Under the Haar measure every entry has mean 0 and variance 1/3; the trace has mean 0 and variance 1.
    assert np.abs(matrices.mean(0)).max() < 4 * np.sqrt(1 / 3 / 20_000)
    assert abs(np.trace(matrices, axis1=1, axis2=2).var() - 1) < 0.05


def test_projection_does_not_move_the_rotation_centre():
    rotation = torch.from_numpy(random_rotations(5, RNG))
    seen = project(torch.zeros(5, 1, 3, dtype=torch.float64), rotation, torch.zeros(5, 2, dtype=torch.float64))
    assert torch.equal(seen, torch.zeros(5, 1, 2, dtype=torch.float64))


def test_superposition_undoes_a_rigid_motion():
    points = RNG.normal(size=(6, 20, 3))
    rotation, translation = random_rotations(6, RNG), RNG.normal(size=(6, 3))
    moved = points @ rotation.transpose(0, 2, 1) + translation[:, None]
    found, offset = superpose(points, moved)
    np.testing.assert_allclose(found, rotation, atol=1e-10)
    np.testing.assert_allclose(offset, translation, atol=1e-10)
    np.testing.assert_allclose(rmsd(points, moved), 0, atol=1e-10)


def test_superposition_agrees_with_scipy():
    a, b = RNG.normal(size=(30, 3)), RNG.normal(size=(30, 3))
    reference, distance = Rotation.align_vectors(b - b.mean(0), a - a.mean(0))
    np.testing.assert_allclose(superpose(a, b)[0], reference.as_matrix(), atol=1e-8)
    assert rmsd(a, b) == pytest.approx(distance / np.sqrt(30))


def test_rmsd_refuses_reflections():
    points = RNG.normal(size=(40, 3))
    assert rmsd(points * [-1, 1, 1], points) > 0.3


def test_procrustes_mean_beats_every_member_and_ignores_rigid_motions():
    shapes = RNG.normal(size=(12, 3)) + 0.3 * RNG.normal(size=(8, 12, 3))
    moved = shapes @ random_rotations(8, RNG).transpose(0, 2, 1) + RNG.normal(size=(8, 1, 3))
    weights = np.arange(1.0, 9.0)
    mean = procrustes_mean(moved, weights)

    def cost(structure):
        return np.average(rmsd(shapes, structure) ** 2, weights=weights)

    assert cost(mean) < min(cost(member) for member in shapes)
    for _ in range(20):
        assert cost(mean) <= cost(mean + 0.02 * RNG.normal(size=mean.shape)) + 1e-9


def turns(degrees, axes):
    """Rotations by angles (m,) about axes (m, 3) of any length."""
    axes = axes / np.linalg.norm(axes, axis=-1, keepdims=True)
    return Rotation.from_rotvec(np.deg2rad(degrees)[:, None] * axes).as_matrix()


def test_nearest_rotation_is_the_polar_factor_and_never_a_reflection():
    rotation = random_rotations(6, RNG)
    stretch = np.diag([1.3, 0.8, 0.5])
    np.testing.assert_allclose(nearest_rotation(rotation @ stretch), rotation, atol=1e-12)
    mirrored = nearest_rotation(rotation @ np.diag([1.0, 1.0, -0.2]))
    np.testing.assert_allclose(np.linalg.det(mirrored), 1)
    np.testing.assert_allclose(mirrored, rotation, atol=1e-12)


@pytest.mark.parametrize("degrees", [0.0, 1e-5, 0.1, 30.0, 90.0, 179.0, 180.0])
def test_angle_between_rotations_is_that_of_the_turn(degrees):
    base = random_rotations(20, RNG)
    turned = turns(np.full(20, degrees), RNG.normal(size=(20, 3))) @ base
    np.testing.assert_allclose(np.rad2deg(angle_between(turned, base)), degrees, atol=1e-6, rtol=1e-6)


def test_angle_between_random_rotations_has_the_known_mean():
    """Under the Haar measure the angle has the density (1 - cos) / π, hence the mean π/2 + 2/π."""
    generator = np.random.default_rng(3)
    angle = angle_between(random_rotations(20_000, generator), random_rotations(20_000, generator))
    assert angle.mean() == pytest.approx(np.pi / 2 + 2 / np.pi, abs=0.02)


@pytest.mark.parametrize("outliers", [0.0, 0.4, 0.7])
def test_common_rotation_is_recovered_exactly_whatever_the_others_are(outliers):
    generator = np.random.default_rng(5)
    true, common = random_rotations(400, generator), random_rotations(1, generator)[0]
    found = true @ common
    wrong = generator.random(400) < outliers
    found[wrong] = random_rotations(int(wrong.sum()), generator)
    assert angle_between(common_rotation(found, true), common) < 1e-7


def test_common_rotation_is_that_of_the_larger_of_two_parts():
    """The smaller part agrees in itself, as when a pseudo-symmetry is mistaken: no mean of the two is wanted."""
    generator = np.random.default_rng(6)
    true, (one, other) = random_rotations(200, generator), random_rotations(2, generator)
    found = np.concatenate([true[:120] @ one, true[120:] @ other])
    assert angle_between(common_rotation(found, true), one) < 1e-7


def test_common_rotation_of_inexact_poses_is_near_their_mean():
    generator = np.random.default_rng(7)
    true, common = random_rotations(2000, generator), random_rotations(1, generator)[0]
    found = turns(generator.uniform(0, 6, 2000), generator.normal(size=(2000, 3))) @ true @ common
    assert np.rad2deg(angle_between(common_rotation(found, true), common)) < 0.2


def test_common_translation_is_recovered_exactly_whatever_the_others_are():
    generator = np.random.default_rng(8)
    rotation, common = random_rotations(300, generator), np.array([3.0, -5.0, 8.0])
    displacement = rotation[:, :2] @ common
    displacement[:120] += generator.normal(0, 20, (120, 2))
    np.testing.assert_allclose(common_translation(rotation, displacement), common, atol=1e-6)


def test_common_translation_along_a_direction_that_nobody_sees_is_none():
    """All images look down the z axis of the map."""
    zero = np.zeros(50)
    rotation = relion_to_matrix(np.linspace(0, 300, 50), zero, zero)
    np.testing.assert_allclose(
        common_translation(rotation, rotation[:, :2] @ [1.0, 2.0, 9.0]), [1.0, 2.0, 0.0], atol=1e-6
    )


def test_the_core_is_superposed_whatever_the_arms_do():
    generator = np.random.default_rng(0)
    target = generator.normal(size=(100, 3)) * 15
    bent = target.copy()
    bent[70:] = target[70:] @ random_rotations(1, generator)[0].T + 6
    small = roma.rotvec_to_rotmat(torch.tensor([[0.05, -0.08, 0.03]], dtype=torch.float64)).numpy()
    mobile = bent @ np.swapaxes(small, 1, 2) + [0.5, -0.3, 0.8]
    rotation, translation = superpose_core(mobile, target, rounds=30)
    moved = mobile @ np.swapaxes(rotation, 1, 2) + translation[:, None]
    assert np.abs(moved[0, :70] - target[:70]).max() < 0.3
    everything, shift = superpose(mobile, target)
    moved = mobile @ np.swapaxes(everything, 1, 2) + shift[:, None]
    assert np.abs(moved[0, :70] - target[:70]).max() > 1.0
