"""Comparison with known truth: Cα RMSD of every image, beside what no method should do worse than."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryomorph.errors import InputError
from cryomorph.files import read_arrays
from cryomorph.geometry import procrustes_mean, rmsd

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Truth:
    """What is known of simulated particles.

    Attributes
    ----------
    coordinates
        The conformations, shape (K, n, 3), in Å.
    conformation
        Which of them each image of the original file shows, shape (M,).
    """

    coordinates: Array
    conformation: NDArray[np.int64]


@dataclass(frozen=True)
class Evaluation:
    """RMSD in Å over images, minimised over rigid motions without reflection, and two baselines.

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
    """

    images: int
    rmsd_mean: float
    rmsd_median: float
    rmsd_p95: float
    rmsd_max: float
    rmsd_template: float
    rmsd_constant: float

    def as_dict(self) -> dict[str, float]:
        """Return the fields by name."""
        return asdict(self)


def read_truth(path: Path) -> Truth:
    """Read `coordinates` and `conformation` of a truth file (.npz).

    Raises
    ------
    InputError
        If the file is no such archive, or an array is missing or does not fit the other.
    """
    arrays = read_arrays(path, "coordinates", "conformation")
    coordinates, conformation = arrays["coordinates"], arrays["conformation"]
    if coordinates.dtype.kind not in "fiu" or coordinates.shape[2:] != (3,) or not np.isfinite(coordinates).all():
        raise InputError(f"{path}: coordinates must be finite and of shape (K, n, 3), found {coordinates.shape}")
    if conformation.ndim != 1 or not np.issubdtype(conformation.dtype, np.integer):
        raise InputError(f"{path}: conformation must be integers of shape (M,), found shape {conformation.shape}")
    if len(conformation) and not 0 <= conformation.min() <= conformation.max() < len(coordinates):
        raise InputError(f"{path}: conformation refers to rows outside coordinates (K = {len(coordinates)})")
    return Truth(coordinates.astype(np.float64), conformation.astype(np.int64))


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


def summarise(errors: Array, template: Array, truth: Truth, source_index: NDArray[np.int64]) -> Evaluation:
    """Summarise the errors of all images (Å), with the baselines of template (n, 3) and best constant."""
    counts = np.bincount(truth.conformation[source_index], minlength=len(truth.coordinates)).astype(np.float64)
    constant = procrustes_mean(truth.coordinates, counts)

    def mean_over_images(structure: Array) -> float:
        return float(np.average(rmsd(truth.coordinates, structure), weights=counts))

    return Evaluation(
        images=len(errors),
        rmsd_mean=float(errors.mean()),
        rmsd_median=float(np.median(errors)),
        rmsd_p95=float(np.quantile(errors, 0.95)),
        rmsd_max=float(errors.max()),
        rmsd_template=mean_over_images(template),
        rmsd_constant=mean_over_images(constant),
    )
