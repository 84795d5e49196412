"""Rotations, rigid superposition and projection. Conventions: docs/conventions.md.

A rotation matrix `R` takes a point of the map frame to the image frame; the image sees `(R x)[:2]`.
"""

from collections.abc import Callable

import numpy as np
import roma
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


def relion_to_matrix(rot: Array, tilt: Array, psi: Array) -> Array:
    """Rotation matrices of RELION's Euler angles (ZYZ).

    Parameters
    ----------
    rot, tilt, psi
        `rlnAngleRot`, `rlnAngleTilt`, `rlnAnglePsi` in degrees, shape (m,).

    Returns
    -------
    array (m, 3, 3)
        `A` with `A[2] = (sin tilt cos rot, sin tilt sin rot, cos tilt)` and `A[0, 2] = -cos psi sin tilt`.
    """
    ca, sa = np.cos(np.deg2rad(rot)), np.sin(np.deg2rad(rot))
    cb, sb = np.cos(np.deg2rad(tilt)), np.sin(np.deg2rad(tilt))
    cg, sg = np.cos(np.deg2rad(psi)), np.sin(np.deg2rad(psi))
    rows = [
        [cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb],
        [-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb],
        [sb * ca, sb * sa, cb],
    ]
    return np.moveaxis(np.array(rows, dtype=np.float64), (0, 1), (-2, -1))


def matrix_to_relion(matrix: Array) -> tuple[Array, Array, Array]:
    """RELION Euler angles (degrees) of rotation matrices; the inverse of `relion_to_matrix`.

    At tilt 0 or 180 only one combination of rot and psi matters; psi is set to zero there.
    """
    sin_tilt = np.hypot(matrix[..., 2, 0], matrix[..., 2, 1])
    pole = sin_tilt < 1e-9
    tilt = np.arctan2(sin_tilt, matrix[..., 2, 2])
    rot = np.arctan2(matrix[..., 2, 1], matrix[..., 2, 0])
    psi = np.arctan2(matrix[..., 1, 2], -matrix[..., 0, 2])
    rot = np.where(pole, np.arctan2(-matrix[..., 1, 0], matrix[..., 1, 1]), rot)
    psi = np.where(pole, 0.0, psi)
    return np.rad2deg(rot), np.rad2deg(tilt), np.rad2deg(psi)


def cryosparc_to_matrix(pose: Array) -> Array:
    """Rotation matrices of cryoSPARC's `alignments3D/pose`.

    Parameters
    ----------
    pose
        Axis times angle in radians, shape (m, 3). cryoSPARC's vector rotates the image frame to the map frame, so the
        matrix is the transpose of the usual exponential map.

    Returns
    -------
    array (m, 3, 3)
        In the same sense as `relion_to_matrix`.
    """
    forward = roma.rotvec_to_rotmat(torch.from_numpy(np.array(pose, dtype=np.float64)))
    return np.asarray(forward.transpose(-1, -2).numpy(), dtype=np.float64)


def matrix_to_cryosparc(matrix: Array) -> Array:
    """CryoSPARC pose vectors of rotation matrices; the inverse of `cryosparc_to_matrix`."""
    vectors = roma.rotmat_to_rotvec(torch.from_numpy(np.swapaxes(np.array(matrix, dtype=np.float64), -1, -2).copy()))
    return np.asarray(vectors.numpy(), dtype=np.float64)


def random_rotations(count: int, generator: np.random.Generator) -> Array:
    """Rotation matrices (count, 3, 3) drawn uniformly (Haar) on SO(3), from normalised Gaussian quaternions."""
    quaternions = generator.standard_normal((count, 4))
    quaternions /= np.linalg.norm(quaternions, axis=1, keepdims=True)
    return np.asarray(roma.unitquat_to_rotmat(torch.from_numpy(quaternions)).numpy(), dtype=np.float64)


def nearest_rotation(matrix: Array) -> Array:
    """Rotation matrices nearest to any matrices (..., 3, 3), in the least-squares sense; never a reflection."""
    u, _, vt = np.linalg.svd(matrix)
    u[..., :, 2] *= np.sign(np.linalg.det(u @ vt))[..., None]
    return np.asarray(u @ vt)


def angle_between(a: Array, b: Array) -> Array:
    """Angle in radians, 0 to π, of the rotation that takes `a` to `b`; rotation matrices (..., 3, 3) to (...)."""
    # The chord is exact for small angles, where the arc cosine of the trace is not.
    half_chord = np.linalg.norm(a - b, axis=(-2, -1)) / np.sqrt(8)
    return np.asarray(2 * np.arcsin(np.minimum(half_chord, 1)))


def common_rotation(found: Array, true: Array) -> Array:
    """Find the rotation Q of the map frame by which poses differ as a whole: `found = true @ Q` for most.

    Parameters
    ----------
    found, true
        Rotation matrices, map frame to image frame, shape (m, 3, 3).

    Returns
    -------
    array (3, 3)
        The least sum of chordal distances (a median of `true.T @ found`), so that it does not matter how far those
        are off that are off.
    """
    relative = np.swapaxes(true, -1, -2) @ found

    def fit(weights: Array) -> Array:
        return nearest_rotation(np.einsum("m,mij->ij", weights, relative))

    return _least_absolute(fit, lambda rotation: np.linalg.norm(relative - rotation, axis=(-2, -1)), len(relative))


def common_translation(rotation: Array, displacement: Array) -> Array:
    """Find the translation c of the map frame by which shifts differ as a whole: `(rotation @ c)[:2]` for most.

    Parameters
    ----------
    rotation
        Map frame to image frame, shape (m, 3, 3).
    displacement
        Differences of shifts in Å, shape (m, 2).

    Returns
    -------
    array (3,)
        In Å, with the least sum of distances; zero along directions that no image sees.
    """
    seen = rotation[:, :2]

    def fit(weights: Array) -> Array:
        normal = np.einsum("m,mki,mkj->ij", weights, seen, seen)
        return np.asarray(
            np.linalg.pinv(normal, rcond=1e-9, hermitian=True) @ np.einsum("m,mki,mk->i", weights, seen, displacement)
        )

    return _least_absolute(fit, lambda c: np.linalg.norm(displacement - seen @ c, axis=-1), len(seen))


def _least_absolute(fit: Callable[[Array], Array], distance: Callable[[Array], Array], count: int) -> Array:
    """Least sum of distances (m,) by least squares that are weighted anew until nothing moves."""
    estimate = fit(np.ones(count))
    for _ in range(100):
        updated = fit(1 / np.maximum(distance(estimate), 1e-9))
        if np.abs(updated - estimate).max() < 1e-9:
            return updated
        estimate = updated
    return estimate


def project(points: Tensor, rotation: Tensor, shift: Tensor) -> Tensor:
    """Where points of the map frame are seen in the image.

    Parameters
    ----------
    points
        Positions in Å in the map frame, shape (b, n, 3).
    rotation
        Rotation matrices, shape (b, 3, 3).
    shift
        Displacement of the particle in the image (x, y) in Å, shape (b, 2): minus RELION's origin.

    Returns
    -------
    Tensor (b, n, 2)
        `(x, y)` in Å from the image's origin, which is the centre of pixel `D // 2`; x runs along columns.
    """
    return points @ rotation[:, :2].transpose(1, 2) + shift[:, None]


def superpose(mobile: Array, target: Array) -> tuple[Array, Array]:
    """Least-squares rigid superposition without reflection (Kabsch), batched.

    Parameters
    ----------
    mobile, target
        Coordinates, shapes (..., n, 3); leading dimensions broadcast.

    Returns
    -------
    rotation : array (..., 3, 3)
    translation : array (..., 3)
        `mobile @ rotation.T + translation` lies on `target`.
    """
    share = np.full(mobile.shape[-2], 1 / mobile.shape[-2])
    return _superpose_weighted(mobile, target, share)


def _superpose_weighted(mobile: Array, target: Array, share: Array) -> tuple[Array, Array]:
    """Superpose with weights (..., n) that sum to one."""
    centre_m, centre_t = ((share[..., None] * x).sum(-2, keepdims=True) for x in (mobile, target))
    covariance = np.swapaxes(share[..., None] * (target - centre_t), -1, -2) @ (mobile - centre_m)
    u, _, vt = np.linalg.svd(covariance)
    u[..., :, 2] *= np.sign(np.linalg.det(u @ vt))[..., None]
    rotation = u @ vt
    translation = (centre_t - centre_m @ np.swapaxes(rotation, -1, -2))[..., 0, :]
    return rotation, translation


def superpose_core(mobile: Array, target: Array, *, scale: float = 2.0, rounds: int = 10) -> tuple[Array, Array]:
    """Rigid superposition by what hardly differs: least squares with weights `1 / (1 + (distance / scale)²)` (Cauchy).

    Parts that moved as a whole count little, so that the rest comes to lie on the target, like the core of a molecule
    whose arms moved.

    Parameters
    ----------
    mobile, target
        Coordinates in Å, shapes (k, n, 3) and (n, 3); roughly superposed.
    scale
        Å at which a weight is a half.
    rounds
        Of weighing and superposing again.

    Returns
    -------
    rotation : array (k, 3, 3)
    translation : array (k, 3)
        `mobile @ rotation.T + translation` lies on `target`.
    """
    rotation, translation = np.broadcast_to(np.eye(3), (len(mobile), 3, 3)), np.zeros((len(mobile), 3))
    for _ in range(rounds):
        moved = mobile @ np.swapaxes(rotation, -1, -2) + translation[:, None]
        weight = 1 / (1 + np.square(moved - target).sum(-1) / scale**2)
        rotation, translation = _superpose_weighted(mobile, target, weight / weight.sum(-1, keepdims=True))
    return rotation, translation


def rmsd(a: Array, b: Array) -> Array:
    """Root mean square deviation in Å, minimised over rigid motions (no reflection); shapes (..., n, 3) to (...)."""
    rotation, translation = superpose(a, b)
    moved = a @ np.swapaxes(rotation, -1, -2) + translation[..., None, :]
    return np.asarray(np.sqrt(np.square(moved - b).sum(-1).mean(-1)))


def procrustes_mean(coordinates: Array, weights: Array, iterations: int = 50) -> Array:
    """Weighted generalised Procrustes mean: the single structure nearest to all, each superposed on it.

    Parameters
    ----------
    coordinates
        Shape (k, n, 3), in Å.
    weights
        Non-negative, shape (k,); for instance how many images show each conformation.
    iterations
        Upper bound; stops when the mean no longer moves.

    Returns
    -------
    array (n, 3)
    """
    share = weights / weights.sum()
    mean = coordinates[int(np.argmax(share))]
    for _ in range(iterations):
        rotation, translation = superpose(coordinates, mean)
        moved = coordinates @ np.swapaxes(rotation, -1, -2) + translation[:, None]
        updated = np.einsum("k,kni->ni", share, moved)
        if np.abs(updated - mean).max() < 1e-6:
            return np.asarray(updated)
        mean = updated
    return np.asarray(mean)
