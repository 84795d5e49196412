"""Principal components of conformations and of latents, in bounded memory.

Directions come of a sample of the particles that is spread evenly over them, all if they are few. Then every particle
is projected in a second pass, and the directions are turned within what they span so that, over all particles, places
along them do not correlate. Lengths are root mean squares over residues: at a place of 1 Å, residues are 1 Å from their
mean.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cryomorph.analysis.ensemble import Ensemble, Rows, evenly_spaced
from cryomorph.analysis.requests import Request
from cryomorph.analysis.result import Components
from cryomorph.progress import Progress, track

Array = NDArray[np.floating]

SAMPLE = 20_000
"""Particles of which directions come, at most."""
SAMPLE_VALUES = 125_000_000
"""Coordinates of these, at most: half a GB."""
SPARE, ROUNDS = 10, 8
"""Further directions, and rounds of iteration, by which the leading ones are found exactly enough."""
ROWS_AT_ONCE = 65_536
"""In double precision."""
LATENT_COMPONENTS = 10
"""Of each block of latents, at most."""


@dataclass(frozen=True, eq=False)
class Survey:
    """What two passes over all conformations find.

    Attributes
    ----------
    components : Components
    places : array (m, k)
        Of each particle along each component, Å.
    rmsf : array (n,)
        Root mean square fluctuation of each residue about its mean, Å.
    measured : mapping of name to array (m,)
        What was requested of each conformation.
    """

    components: Components
    places: NDArray[np.float32]
    rmsf: NDArray[np.float64]
    measured: Mapping[str, NDArray[np.float32]]


def survey(ensemble: Ensemble, count: int, requests: Sequence[Request], progress: Progress) -> Survey:
    """Find the components of all conformations, and where every particle is along them.

    Parameters
    ----------
    ensemble
        Of m particles, decoded in batches: once the sample, once all.
    count
        Of components; fewer if particles or coordinates are.
    requests
        What else to measure of every conformation.
    progress
        Told of every batch.
    """
    m, n = len(ensemble), len(ensemble.template)
    centre, modes = _directions(ensemble, count, progress)
    places = np.empty((m, len(modes)), dtype=np.float32)
    measured = {request.name: np.empty(m, dtype=np.float32) for request in requests}
    total, squares = np.zeros((n, 3)), np.zeros((n, 3))
    for rows, x in _decoded(ensemble, np.arange(m), progress, "projecting conformations"):
        moved = x - centre
        places[rows] = moved.reshape(len(rows), -1) @ modes.T / np.sqrt(n)
        total += moved.sum(0, dtype=np.float64)
        squares += np.square(moved).sum(0, dtype=np.float64)
        for request in requests:
            measured[request.name][rows] = request.measure(x)
    offset = total / m
    variance = np.maximum(squares / m - np.square(offset), 0).sum(-1)
    places -= places.mean(0, dtype=np.float64)
    along, turn = principal_axes(places, np.zeros(len(modes)))
    modes = (turn.T @ modes).reshape(-1, n, 3)
    sign = _signs(modes)
    return Survey(
        components=Components(centre + offset, modes * sign[:, None, None], along, float(variance.mean())),
        places=np.asarray(places @ (turn * sign), dtype=np.float32),
        rmsf=np.sqrt(variance),
        measured=measured,
    )


def leading_directions(centred: Array, count: int) -> NDArray[np.float64]:
    """Return the leading right singular vectors (k, v) of rows (s, v), by block iteration from a fixed start."""
    rank = min(centred.shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        matrix = torch.from_numpy(np.ascontiguousarray(centred))
        _, _, found = torch.svd_lowrank(matrix, q=min(count + SPARE, rank), niter=ROUNDS)
    return np.asarray(found[:, : min(count, rank)].T.numpy(), dtype=np.float64)


def latent_places(ensemble: Ensemble) -> dict[str, NDArray[np.float32]]:
    """Return the places of particles along the principal components of the latents, of each block by itself.

    Columns are `latent_pc1` … where there is one block, else the name of the block stands first: `rotation_A_pc1`.
    Places are in the latents' own units.
    """
    columns: dict[str, NDArray[np.float32]] = {}
    for name, block in ensemble.blocks.items():
        latents = ensemble.latents[:, block]
        mean = latents.mean(0, dtype=np.float64)
        _, axes = principal_axes(latents, mean)
        modes = axes.T[:LATENT_COMPONENTS]
        modes = modes * _signs(modes)[:, None]
        places = (latents @ modes.T.astype(np.float32) - mean @ modes.T).astype(np.float32)
        word = "latent" if len(ensemble.blocks) == 1 else "".join(c if c.isalnum() else "_" for c in name)
        columns |= {f"{word}_pc{number}": place for number, place in enumerate(places.T, start=1)}
    return columns


def _directions(ensemble: Ensemble, count: int, progress: Progress) -> tuple[Array, NDArray[np.float64]]:
    """Return the mean (n, 3) and leading directions (k, 3n) of a sample of the conformations."""
    size = 3 * len(ensemble.template)
    rows = evenly_spaced(len(ensemble), max(2, min(SAMPLE, SAMPLE_VALUES // size)))
    sample = np.empty((len(rows), size), dtype=np.float32)
    filled = 0
    for part, x in _decoded(ensemble, rows, progress, "decoding a sample"):
        sample[filled : filled + len(part)] = x.reshape(len(part), -1)
        filled += len(part)
    centre = sample.mean(0, dtype=np.float64)
    sample -= centre.astype(np.float32)
    return centre.reshape(-1, 3), leading_directions(sample, count)


def _decoded(ensemble: Ensemble, rows: Rows, progress: Progress, description: str) -> Iterator[tuple[Rows, Array]]:
    """Decode in batches, and tell of it."""
    batches = -(-len(rows) // ensemble.batch)
    with closing(track(ensemble.batches(rows), progress, description, batches, "batches")) as decoded:
        yield from decoded


def principal_axes(
    values: NDArray[np.floating], mean: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the variances (k,) of rows (m, k) about their mean, descending, and their principal axes as columns."""
    covariance = np.zeros((values.shape[1],) * 2)
    for start in range(0, len(values), ROWS_AT_ONCE):
        part = values[start : start + ROWS_AT_ONCE] - np.asarray(mean, dtype=np.float64)
        covariance += part.T @ part
    variance, axes = np.linalg.eigh(covariance / len(values))
    return np.maximum(variance[::-1], 0), axes[:, ::-1]


def _signs(modes: Array) -> Array:
    """Signs (k,) that make the largest coordinate of each mode (k, ...) positive."""
    flat = modes.reshape(len(modes), -1)
    largest = flat[np.arange(len(flat)), np.abs(flat).argmax(1)]
    return np.where(largest < 0, -1.0, 1.0)
