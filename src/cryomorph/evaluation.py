"""Comparison with known truth: Cα RMSD and pose error of every image, beside what no method should do worse than."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomorph.errors import InputError
from cryomorph.files import read_arrays
from cryomorph.geometry import angle_between, common_rotation, common_translation, procrustes_mean, rmsd

Array = NDArray[np.float64]

FAR_OFF = 20.0
"""Degrees; a rotation further from the truth than that was not found, rather than found inexactly."""


@dataclass(frozen=True)
class Truth:
    """What is known of simulated particles.

    Attributes
    ----------
    coordinates
        The conformations, shape (K, n, 3), in Å.
    conformation
        Which of them each image of the original file shows, shape (M,).
    rotation
        Map frame to image frame, shape (M, 3, 3), if known.
    shift
        Displacement in the image in Å, shape (M, 2), if known.
    """

    coordinates: Array
    conformation: NDArray[np.int64]
    rotation: Array | None = None
    shift: Array | None = None


@dataclass(frozen=True)
class PoseErrors:
    """How far the pose of each image is from the truth, when what all have in common is removed.

    Attributes
    ----------
    rotation
        Angle in degrees, shape (m,).
    shift
        Distance in the image in Å, shape (m,); None if the truth has no shifts.
    """

    rotation: Array
    shift: Array | None


@dataclass(frozen=True)
class Evaluation:
    """RMSD in Å over images, minimised over rigid motions without reflection, two baselines, and errors of poses.

    Attributes
    ----------
    images
        How many.
    rmsd_mean, rmsd_median, rmsd_p95, rmsd_max
        Of the decoded conformations.
    rmsd_template
        Mean over images, had the template been returned for each.
    rmsd_constant
        Likewise for the best single conformation: the generalised Procrustes mean of the truth.
    rotation_error_median_deg, rotation_error_p95_deg
        Angle to the true rotation; None, like what follows, if the truth or the poses are not known.
    rotation_error_over_20deg
        Share of images with a larger angle than that, 0 to 1.
    shift_error_median_angstrom
        Distance to the true shift.
    """

    images: int
    rmsd_mean: float
    rmsd_median: float
    rmsd_p95: float
    rmsd_max: float
    rmsd_template: float
    rmsd_constant: float
    rotation_error_median_deg: float | None = None
    rotation_error_p95_deg: float | None = None
    rotation_error_over_20deg: float | None = None
    shift_error_median_angstrom: float | None = None

    def as_dict(self) -> dict[str, float | None]:
        """Return the fields by name."""
        return asdict(self)


def read_truth(path: Path) -> Truth:
    """Read `coordinates` and `conformation` of a truth file (.npz), and `rotation` and `shift` if it has them.

    Raises
    ------
    InputError
        If the file is no such archive, or an array is missing or does not fit the other.
    """
    arrays = read_arrays(path, "coordinates", "conformation", optional=("rotation", "shift"))
    coordinates, conformation = arrays["coordinates"], arrays["conformation"]
    if coordinates.dtype.kind not in "fiu" or coordinates.shape[2:] != (3,) or not np.isfinite(coordinates).all():
        raise InputError(f"{path}: coordinates must be finite and of shape (K, n, 3), found {coordinates.shape}")
    if conformation.ndim != 1 or not np.issubdtype(conformation.dtype, np.integer):
        raise InputError(f"{path}: conformation must be integers of shape (M,), found shape {conformation.shape}")
    if len(conformation) and not 0 <= conformation.min() <= conformation.max() < len(coordinates):
        raise InputError(f"{path}: conformation refers to rows outside coordinates (K = {len(coordinates)})")
    images = len(conformation)
    rotation, shift = (
        _numbers(path, name, arrays.get(name), (images, *shape))
        for name, shape in (("rotation", (3, 3)), ("shift", (2,)))
    )
    if rotation is not None and not (np.abs(rotation @ np.swapaxes(rotation, -1, -2) - np.eye(3)) < 1e-3).all():
        raise InputError(f"{path}: rotation has matrices that are no rotations")
    return Truth(coordinates.astype(np.float64), conformation.astype(np.int64), rotation, shift)


def _numbers(path: Path, name: str, values: NDArray[Any] | None, shape: tuple[int, ...]) -> Array | None:
    if values is None:
        return None
    if values.dtype.kind not in "fiu" or values.shape != shape or not np.isfinite(values).all():
        raise InputError(f"{path}: {name} must be finite and of shape {shape}, found {values.shape}")
    return values.astype(np.float64)


def per_image_rmsd(
    decoded: Iterable[tuple[NDArray[np.int64], NDArray[np.floating]]], truth: Truth, source_index: NDArray[np.int64]
) -> Array:
    """RMSD in Å of each image to the conformation that it shows.

    Parameters
    ----------
    decoded
        Batches of (rows, coordinates (b, n, 3)); together they cover all rows once.
    truth
        What the images show.
    source_index
        Row of each particle in the original file, which the truth refers to, shape (m,).

    Raises
    ------
    InputError
        If the truth has other residues or fewer images than the run.
    """
    if source_index.max(initial=-1) >= len(truth.conformation):
        raise InputError(
            f"the truth knows {len(truth.conformation)} images, the run refers to row {source_index.max() + 1}: "
            "it belongs to other particles"
        )
    result = np.full(len(source_index), np.nan)
    for rows, coordinates in decoded:
        if coordinates.shape[1:] != truth.coordinates.shape[1:]:
            raise InputError(
                f"the run has {coordinates.shape[1]} residues, the truth {truth.coordinates.shape[1]}: "
                "use a template with the same residues"
            )
        shown = truth.coordinates[truth.conformation[source_index[rows]]]
        result[rows] = rmsd(np.asarray(coordinates, dtype=np.float64), shown)
    return result


def pose_errors(rotation: Array, shift: Array, truth: Truth, source_index: NDArray[np.int64]) -> PoseErrors | None:
    """Compare poses with the truth; None if that has no rotations.

    Poses refer to a frame of the map, which nothing fixes when molecule and poses are found together: the one rotation
    and the one translation of it that all images have in common are no error.

    Parameters
    ----------
    rotation, shift
        Poses of the run, shapes (m, 3, 3) and (m, 2), the latter in Å.
    truth
        Poses of the whole file.
    source_index
        Row of each particle in the original file, shape (m,).
    """
    if truth.rotation is None:
        return None
    true = truth.rotation[source_index]
    angles = np.rad2deg(angle_between(rotation, true @ common_rotation(rotation, true)))
    if truth.shift is None:
        return PoseErrors(angles, None)
    displacement = shift - truth.shift[source_index]
    common = true[:, :2] @ common_translation(true, displacement)
    return PoseErrors(angles, np.linalg.norm(displacement - common, axis=1))


def share_off(errors: Array, conformation: NDArray[np.integer], groups: int, limit: float = FAR_OFF) -> Array:
    """Share of images that are far off, along the path of conformations.

    Parameters
    ----------
    errors
        Of rotations in degrees, shape (m,).
    conformation
        Which one each image shows, numbered along a path, shape (m,).
    groups
        How many parts the path is cut into, as many images in each as can be.
    limit
        In degrees.

    Returns
    -------
    array (groups,)
        0 to 1, from the start of the path to its end.
    """
    parts = np.array_split(np.argsort(conformation, kind="stable"), groups)
    return np.array([np.mean(errors[part] > limit) for part in parts])


def summarise(
    errors: Array,
    template: Array,
    truth: Truth,
    source_index: NDArray[np.int64],
    poses: PoseErrors | None = None,
) -> Evaluation:
    """Summarise the errors of all images (Å), with the baselines of template (n, 3) and best constant."""
    shown, images = np.unique(truth.conformation[source_index], return_counts=True)
    # Simulations may have a conformation for each image, of which a run on some of them needs these only.
    coordinates = truth.coordinates if len(shown) == len(truth.coordinates) else truth.coordinates[shown]
    counts = images.astype(np.float64)
    constant = procrustes_mean(coordinates, counts)

    def mean_over_images(structure: Array) -> float:
        return float(np.average(rmsd(coordinates, structure), weights=counts))

    return Evaluation(
        images=len(errors),
        rmsd_mean=float(errors.mean()),
        rmsd_median=float(np.median(errors)),
        rmsd_p95=float(np.quantile(errors, 0.95)),
        rmsd_max=float(errors.max()),
        rmsd_template=mean_over_images(template),
        rmsd_constant=mean_over_images(constant),
        **({} if poses is None else _summary_of_poses(poses)),
    )


def _summary_of_poses(poses: PoseErrors) -> dict[str, float]:
    summary = {
        "rotation_error_median_deg": float(np.median(poses.rotation)),
        "rotation_error_p95_deg": float(np.quantile(poses.rotation, 0.95)),
        "rotation_error_over_20deg": float(np.mean(poses.rotation > FAR_OFF)),
    }
    if poses.shift is not None:
        summary["shift_error_median_angstrom"] = float(np.median(poses.shift))
    return summary
