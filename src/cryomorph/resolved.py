"""Motion that two estimates of the same particles' conformations have in common, whatever noise each of them has.

If two estimates share neither noise nor model, what they have in common over particles is in the data. What depends
on the view alone is left out of it: a model that is wrong in its details fits images a little otherwise from each side,
and two models that began with one template err alike. Molecules do not know from where they are looked at.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CERTAIN = 3.0
"""Standard errors by which a covariance is above zero before it is called motion."""
RANGE = 2.0
"""Standard errors within which a value lies when its range is stated."""
LEADING = 0.9
"""Share of the variance that the leading directions of a model's conformations carry."""
PARTICLES_OF_A_FUNCTION = 10
"""Particles that there must be for each function of the view that is fitted to them."""
NEGLIGIBLE = 1e-4
"""Å² of variance or covariance that no data can tell from none: a hundredth of an Å, rounding among it."""


@dataclass(frozen=True, eq=False)
class Motion:
    """Covariance over particles of two estimates of their conformations: the variance of what moves, at least.

    Each estimate is drawn to the mean by its prior, which makes the covariance less than the motion's variance and
    never more. Under noise alone its expectation is 0, and it is negative as often as positive.

    Attributes
    ----------
    residue_covariance, residue_error : array (n,)
        Of each residue's displacement, summed over x, y and z, and its standard error; Å².
    covariance, error : float
        Mean over residues, and its standard error; Å².
    correlation : float
        The covariance as a share of what the two estimates vary: 1 without noise, 0 without motion.
    """

    residue_covariance: Array
    residue_error: Array
    covariance: float
    error: float
    correlation: float

    @property
    def resolved(self) -> bool:
        """Whether there is motion beyond noise."""
        return self.covariance > max(CERTAIN * self.error, NEGLIGIBLE)

    @property
    def angstrom(self) -> float:
        """Root mean square displacement over particles and residues, 0 for a negative covariance."""
        return float(np.sqrt(max(self.covariance, 0.0)))

    @property
    def angstrom_error(self) -> float:
        """Standard error of `angstrom`; without motion, how far the range reaches above it."""
        if self.resolved:
            return self.error / (2 * self.angstrom)
        return self.at_most - self.angstrom

    @property
    def at_most(self) -> float:
        """Root mean square displacement at the upper end of the covariance's range, Å."""
        return float(np.sqrt(max(self.covariance, 0.0) + RANGE * self.error))

    @property
    def residue_angstrom(self) -> Array:
        """Root mean square displacement of each residue over particles, shape (n,), Å."""
        return np.sqrt(np.maximum(self.residue_covariance, 0.0))


def views(rotation: Array, defocus: Array) -> Array:
    """Return smooth functions of the view, orthonormal over particles, the constant among them; shape (m, k).

    Moments of the direction of view of even order, since opposite views tell the same (order 4: spherical harmonics up
    to that degree), and of the defocus; as many as so many particles can tell from noise.

    Parameters
    ----------
    rotation
        Map frame to image frame, shape (m, 3, 3).
    defocus
        Mean of U and V, shape (m,), Å.
    """
    count = len(rotation)
    direction = rotation[:, 2]
    squares = np.stack([direction[:, i] * direction[:, j] for i in range(3) for j in range(i, 3)], axis=1)
    fourths = (squares[:, :, None] * squares[:, None]).reshape(count, -1)
    depth = (defocus - defocus.mean()) / max(defocus.std(), 1.0)
    depths = np.stack([depth, depth**2], axis=1)
    families = [np.ones((count, 1)), squares, depths, fourths, squares * depth[:, None]]
    basis = np.zeros((count, 0))
    for family in families:
        left, size, _ = np.linalg.svd(family - basis @ (basis.T @ family), full_matrices=False)
        fresh = left[:, size > 1e-6 * np.sqrt(count)]
        if basis.shape[1] and (basis.shape[1] + fresh.shape[1]) * PARTICLES_OF_A_FUNCTION > count:
            break
        basis = np.concatenate([basis, fresh], axis=1)
    return basis


def resolved_motion(first: NDArray[np.floating], second: NDArray[np.floating], known: Array) -> Motion:
    """Return the motion that two estimates agree on.

    Parameters
    ----------
    first, second
        Conformations of the same particles in one frame, each shape (m, n, 3) in Å, m at least 2. What is not motion
        must be independent in the two: the noise, and the model.
    known
        What is no motion whoever sees it, such as `views`: orthonormal functions of the particles, shape (m, k).
    """
    count = len(first)
    free = count - known.shape[1]
    a, b = without(first, known), without(second, known)
    products = np.einsum("pri,pri->pr", a, b)
    # A particle's leverage on the fit is small: the variance of the products is the jackknife's to that order.
    error = np.sqrt(count) / free
    whole = products.mean(1)
    covariance = float(whole.sum() / free)
    spread = np.sqrt(np.square(a).sum() * np.square(b).sum()) / (a.shape[1] * free)
    return Motion(
        residue_covariance=products.sum(0) / free,
        residue_error=products.std(0) * error,
        covariance=covariance,
        error=float(whole.std() * error),
        correlation=covariance / spread if spread > NEGLIGIBLE else 0.0,
    )


@dataclass(frozen=True, eq=False)
class Agreement:
    """How alike two models decode the same particles.

    Attributes
    ----------
    residue_rmsd : array (n,)
        Root mean square distance over particles of each residue in the two conformations, Å.
    residue_correlation : array (n,)
        Correlation over particles of the displacements of each residue; 0 where it does not move.
    rmsd : float
        Over particles and residues, Å.
    correlation : float
        Of all displacements.
    angles : array (k,)
        Principal angles between the leading directions of the two models' conformations, ascending, degrees.
    directions : tuple of int
        How many of them each model has; k is the smaller number.
    """

    residue_rmsd: Array
    residue_correlation: Array
    rmsd: float
    correlation: float
    angles: Array
    directions: tuple[int, int]


def agreement(first: NDArray[np.floating], second: NDArray[np.floating]) -> Agreement:
    """Compare what two models make of the same particles, each shape (m, n, 3) in Å, in one frame."""
    squares = np.square(np.asarray(first, np.float64) - second).sum(2).mean(0)
    a, b = centred(first), centred(second)
    common = np.einsum("pri,pri->r", a, b)
    power = np.sqrt(np.square(a).sum((0, 2)) * np.square(b).sum((0, 2)))
    least = NEGLIGIBLE * len(a)
    one, two = (leading_directions(x.reshape(len(x), -1), LEADING) for x in (a, b))
    cosines = np.linalg.svd(one.T @ two, compute_uv=False)
    whole = float(np.sqrt(np.square(a).sum() * np.square(b).sum()))
    return Agreement(
        residue_rmsd=np.sqrt(squares),
        residue_correlation=np.divide(common, power, out=np.zeros_like(common), where=power > least),
        rmsd=float(np.sqrt(squares.mean())),
        correlation=float(common.sum() / whole) if whole > least * a.shape[1] else 0.0,
        angles=np.rad2deg(np.arccos(np.clip(cosines, 0, 1))),
        directions=(one.shape[1], two.shape[1]),
    )


def common_component(first: Array, second: Array) -> Array:
    """Return the direction along which two displacements (m, n, 3) have most in common; unit length, shape (n, 3)."""
    a, b = (x.reshape(len(x), -1) for x in (first, second))
    basis = np.linalg.qr(np.concatenate([leading_directions(x, 0.99) for x in (a, b)], axis=1))[0]
    cross = (a @ basis).T @ (b @ basis)
    vectors = np.linalg.eigh(cross + cross.T)[1]
    direction = basis @ vectors[:, -1] if basis.shape[1] else np.zeros(a.shape[1])
    return direction.reshape(-1, 3)


def leading_directions(displacement: Array, share: float) -> Array:
    """Return the fewest orthonormal directions (3n, k) that carry a share of the variance.

    Parameters
    ----------
    displacement
        Of particles from their mean, shape (m, 3n), Å.
    share
        Of the variance; without any variance there are no directions.
    """
    particles, size = displacement.shape
    if particles < size:
        power, vectors = np.linalg.eigh(displacement @ displacement.T)
    else:
        power, vectors = np.linalg.eigh(displacement.T @ displacement)
    power, vectors = power[::-1], vectors[:, ::-1]
    total = power.sum()
    if total < NEGLIGIBLE * particles * size / 3:
        return np.zeros((size, 0))
    wanted = int(np.searchsorted(np.cumsum(power), share * total)) + 1
    if particles >= size:
        return vectors[:, :wanted]
    return np.asarray(displacement.T @ vectors[:, :wanted] / np.sqrt(power[:wanted]))


def without(coordinates: NDArray[np.floating], known: Array) -> Array:
    """Return what orthonormal functions (m, k) of the particles do not explain of conformations (m, n, 3), Å."""
    flat = np.asarray(coordinates, dtype=np.float64).reshape(len(coordinates), -1)
    flat = flat - flat.mean(0)  # rounding
    return np.asarray((flat - known @ (known.T @ flat)).reshape(coordinates.shape))


def centred(coordinates: NDArray[np.floating]) -> Array:
    """Return displacements (m, n, 3) of conformations from their mean over particles, Å."""
    x = np.asarray(coordinates, dtype=np.float64)
    return np.asarray(x - x.mean(0))
