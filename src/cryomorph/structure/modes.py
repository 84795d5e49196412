"""Normal modes: the soft motions of a molecule, as an elastic network on its representative atoms has them.

The anisotropic network model (A. R. Atilgan, S. R. Durell, R. L. Jernigan, M. C. Demirel, O. Keskin and I. Bahar 2001,
*Biophys. J.* 80, 505-515): any two atoms within a cutoff are joined by a spring that is at rest in the template. All
springs have the constant 1, which is the unit of energies per Å² and of eigenvalues here.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_solve_banded, cholesky_banded, eigh
from scipy.sparse import coo_array, csr_array
from scipy.sparse.linalg import LinearOperator, eigsh
from scipy.spatial import cKDTree
from threadpoolctl import threadpool_limits

from cryomorph.errors import InputError
from cryomorph.structure.model import Template
from cryomorph.structure.naming import name_residues, stretches

Array = NDArray[np.float64]
Rows = NDArray[np.int64]

CUTOFF = 15.0  # Å
RIGID = 6  # translations and rotations
ZERO = 1e-9  # in spring constants; eigenvalues below it are motions without energy. Rounding leaves some 1e-13
SHIFT = 2e-3  # in spring constants; as soft as soft modes, so that inverting costs them no digits
DENSE_POINTS = 300  # up to here a dense solver is as fast
SLACK = 1e-5  # share of the root mean square motion by which points of one rigid body may disagree


@dataclass(frozen=True)
class Modes:
    """The k softest normal modes of n points, without rigid motions.

    Attributes
    ----------
    eigenvalue : array (k,)
        Of the Hessian, in spring constants, ascending: a displacement of a Å along a mode costs `½ eigenvalue a²`.
    vectors : array (k, n, 3)
        Orthonormal as vectors of 3 n numbers, and orthogonal to translations and rotations. The first number of a mode
        that is at least half as large as its largest is positive.
    """

    eigenvalue: Array
    vectors: Array

    @property
    def softness(self) -> Array:
        """Thermal amplitudes (k,) relative to the softest mode's: by equipartition, 1 / sqrt(eigenvalue)."""
        return np.asarray(np.sqrt(self.eigenvalue[0] / self.eigenvalue))


def template_modes(template: Template, count: int, cutoff: float = CUTOFF, rows: Rows | None = None) -> Modes:
    """Compute normal modes of the representative atoms of a template, or of some of its residues as if alone.

    Parameters
    ----------
    template
        At rest.
    count
        Number of modes.
    cutoff
        As in `normal_modes`.
    rows : array (r,), optional
        Residues to take, such as those of a chain; all when None.

    Returns
    -------
    Modes
        Of n or r points, in the order of `rows`.

    Raises
    ------
    InputError
        As `normal_modes`, with file and residues.
    """
    chosen = np.arange(len(template)) if rows is None else rows
    try:
        return normal_modes(
            template.coordinates[chosen], count, cutoff, lambda found: name_residues(template, np.sort(chosen[found]))
        )
    except InputError as error:
        raise InputError(f"{template.source}: {error}") from error


def normal_modes(
    coordinates: Array,
    count: int,
    cutoff: float = CUTOFF,
    named: Callable[[Rows], str] = lambda rows: f"points ({stretches(rows, str)})",
) -> Modes:
    """Compute normal modes of an elastic network.

    Few modes of many points come from the Lanczos method on the inverse Hessian, whose band is narrow when points are
    sorted along the molecule's longest axis; its Cholesky factor (3 n times the band, 8 bytes each) is the memory that
    is needed. The start vector is fixed, so that results can be repeated. Rigid motions are known and are projected
    out.

    Parameters
    ----------
    coordinates : array (n, 3)
        Å.
    count
        Number of modes, at most `3 n - 6`.
    cutoff
        Points up to this far apart are joined by a spring, Å.
    named
        Says for messages what points (a sorted array of rows) are.

    Returns
    -------
    Modes

    Raises
    ------
    InputError
        If there are not that many modes, if points coincide, or if more than the six rigid motions cost no energy (an
        eigenvalue below 1e-9 spring constants): parts are not joined, or hang loose. The message names those outside
        the largest part that moves as one body.
    """
    total = 3 * len(coordinates) - RIGID
    if not 1 <= count <= total:
        raise InputError(f"{count} normal modes are wanted; {len(coordinates)} residues have {max(total, 0)}")
    coinciding = np.unique(cKDTree(coordinates).query_pairs(0.0, output_type="ndarray"))
    if len(coinciding):
        raise InputError(f"{named(coinciding)} coincide, so that springs between them have no direction")
    eigenvalue, vectors = _softest(coordinates, count, cutoff)
    free = vectors[eigenvalue < ZERO]
    if len(free):
        loose = _loose(coordinates, cutoff, free)
        raise InputError(
            f"springs of up to {cutoff:g} Å do not hold {named(loose)} firmly to the rest, so that normal modes are not"
            " defined; leave them out or take a larger cutoff"
        )
    return Modes(eigenvalue, vectors * _signs(vectors)[:, None, None])


def displaced(coordinates: Array, modes: Modes, amplitudes: ArrayLike) -> Array:
    """Conformations along normal modes, `x = x_0 + sqrt(n) Σ_k a_k U_k`.

    Since modes are orthonormal, `a_k` is the root mean square displacement over the n residues that mode k makes, and
    the norm of `a` that of all together. (Koo et al., CryoChains, simulate with `x = x_0 + sqrt(n / K) Σ_k d_k U_k`:
    `a_k = d_k / sqrt(K)`.)

    Parameters
    ----------
    coordinates : array (n, 3)
        `x_0` in Å.
    modes
        Of these n points, k of them.
    amplitudes : array (..., k)
        Å.

    Returns
    -------
    array (..., n, 3)
    """
    amplitudes = np.asarray(amplitudes, dtype=np.float64)
    moved: Array = coordinates + np.sqrt(len(coordinates)) * np.tensordot(amplitudes, modes.vectors, axes=1)
    return moved


def hessian(coordinates: Array, cutoff: float) -> csr_array[np.float64]:
    """Second derivatives (3 n, 3 n) of the energy `½ Σ (|x_i - x_j| - d_ij)²` of springs at rest, in spring constants.

    A spring along the unit vector u adds `u uᵀ` to the blocks (i, i) and (j, j), and subtracts it from (i, j) and
    (j, i): equations 6 to 8 of Atilgan et al.

    Parameters
    ----------
    coordinates : array (n, 3)
        Å, no two the same.
    cutoff
        Å.
    """
    i, j = cKDTree(coordinates).query_pairs(cutoff, output_type="ndarray").T
    along = coordinates[j] - coordinates[i]
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    block = along[:, :, None] * along[:, None, :]
    own = np.zeros((len(coordinates), 3, 3))
    np.add.at(own, i, block)
    np.add.at(own, j, block)
    every = np.arange(len(coordinates))
    row, column = np.concatenate([i, j, every]), np.concatenate([j, i, every])
    values = np.concatenate([-block, -block, own])
    axis = np.arange(3)
    rows = np.broadcast_to(3 * row[:, None, None] + axis[:, None], values.shape)
    columns = np.broadcast_to(3 * column[:, None, None] + axis, values.shape)
    size = 3 * len(coordinates)
    return coo_array((values.ravel(), (rows.ravel(), columns.ravel())), shape=(size, size)).tocsr()


def rigid_motions(coordinates: Array) -> Array:
    """Orthonormal basis (3 n, 6) of translations and infinitesimal rotations of points (n, 3) that are not in line."""
    return np.linalg.qr(_shifts_and_turns(coordinates - coordinates.mean(0)))[0]


def _shifts_and_turns(points: Array) -> Array:
    """Velocities (3 n, 6) of points (n, 3) that move along an axis, and that turn about one through the origin."""
    turns = np.cross(np.eye(3)[:, None], points).reshape(3, -1).T
    return np.concatenate([np.tile(np.eye(3), (len(points), 1)), turns], axis=1)


def _softest(coordinates: Array, count: int, cutoff: float) -> tuple[Array, Array]:
    """Eigenvalues (count,) ascending and vectors (count, n, 3), apart from six rigid motions."""
    points = len(coordinates)
    if points <= DENSE_POINTS or count > points:
        eigenvalue, vectors = _dense(hessian(coordinates, cutoff), rigid_motions(coordinates), count)
        return eigenvalue, vectors.T.reshape(count, points, 3)
    centred = coordinates - coordinates.mean(0)
    order = np.argsort(centred @ np.linalg.svd(centred, full_matrices=False)[2][0], kind="stable")
    eigenvalue, vectors = _lanczos(hessian(coordinates[order], cutoff), rigid_motions(coordinates[order]), count)
    unsorted = np.empty((count, points, 3))
    unsorted[:, order] = vectors.T.reshape(count, points, 3)
    return eigenvalue, unsorted


def _dense(matrix: csr_array[np.float64], rigid: Array, count: int) -> tuple[Array, Array]:
    # No eigenvalue exceeds twice the largest number of springs on a point: rigid motions go to the other end.
    most = matrix.diagonal().reshape(-1, 3).sum(1).max()
    stiffened = matrix.toarray() + (2.0 * most + 1.0) * rigid @ rigid.T
    # On busy machines the threads of a matrix this small wait for each other far longer than they work.
    with threadpool_limits(1):
        eigenvalue, vectors = eigh(stiffened, subset_by_index=(0, count - 1), overwrite_a=True, check_finite=False)
    return eigenvalue, vectors


def _lanczos(matrix: csr_array[np.float64], rigid: Array, count: int) -> tuple[Array, Array]:
    factor = _cholesky(matrix)

    def without_rigid(vector: Array) -> Array:
        return vector - rigid @ (rigid.T @ vector)

    def inverse(vector: Array) -> Array:
        solved = cho_solve_banded((factor, True), without_rigid(vector.ravel()), check_finite=False)
        return without_rigid(solved)

    start = without_rigid(np.random.default_rng(0).normal(size=len(rigid)))
    operator = LinearOperator(matrix.shape, matvec=inverse, dtype=np.float64)
    inverted, vectors = eigsh(operator, k=count, which="LA", v0=start)
    softest_first = np.argsort(-inverted)
    return 1.0 / inverted[softest_first] - SHIFT, vectors[:, softest_first]


def _cholesky(matrix: csr_array[np.float64]) -> Array:
    """Lower Cholesky factor of a shifted Hessian in LAPACK's band storage (band, 3 n)."""
    entries = matrix.tocoo()
    below = entries.row - entries.col
    lower = below >= 0
    # LAPACK's order of memory: the band is the one large array here and must not be copied.
    band = np.zeros((below.max() + 1, matrix.shape[0]), order="F")
    band[below[lower], entries.col[lower]] = entries.data[lower]
    band[0] += SHIFT
    return np.asarray(cholesky_banded(band, overwrite_ab=True, lower=True, check_finite=False))


def _signs(vectors: Array) -> Array:
    """Factors (k,) of 1 or -1 that give modes (k, n, 3) the sign that `Modes` has."""
    flat = vectors.reshape(len(vectors), -1)
    first = np.argmax(np.abs(flat) >= 0.5 * np.abs(flat).max(1, keepdims=True), axis=1)
    signs: Array = np.sign(flat[np.arange(len(flat)), first])
    return signs


def _loose(coordinates: Array, cutoff: float, free: Array) -> Rows:
    """Points outside the largest rigid body of a network that has motions `free` (f, n, 3) without energy.

    A random sum of such motions moves every rigid body by a rigid motion of its own. Each point whose neighbours move
    with it as one body gives such a motion; the one that describes most points is that of the largest body.
    """
    motion = np.tensordot(np.random.default_rng(0).normal(size=len(free)), free, axes=1)
    motion /= np.sqrt((motion**2).sum(1).mean())
    tree = cKDTree(coordinates)
    largest = np.zeros(len(coordinates), dtype=np.bool_)
    for point, near in enumerate(tree.query_ball_point(coordinates, cutoff)):
        if largest[point]:
            continue  # it would give the body that it belongs to once more
        fitted = _rigid_fit(coordinates - coordinates[point], motion, np.array(near))
        follow = np.linalg.norm(motion - fitted, axis=1) < SLACK
        if follow[near].all() and follow.sum() > largest.sum():
            largest = follow
    return np.flatnonzero(~largest)


def _rigid_fit(coordinates: Array, motion: Array, near: Rows) -> Array:
    """Velocities (n, 3) of all points in the rigid motion that fits the motion (n, 3) of some of them best."""
    # Points in a line, or a single one, say nothing about the turn about it: the least of all fits is taken.
    best = np.linalg.lstsq(_shifts_and_turns(coordinates[near]), motion[near].ravel(), rcond=1e-9)[0]
    fitted: Array = (_shifts_and_turns(coordinates) @ best).reshape(-1, 3)
    return fitted
