"""Windows of all images in one memory-mapped file, made once and used until what they depend on changes."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from cryomorph.errors import InputError
from cryomorph.files import atomic_path
from cryomorph.gridding import footprints
from cryomorph.gridding.box import OVERSAMPLING
from cryomorph.gridding.rows import Rows
from cryomorph.likelihood._filtering import filtered_windows
from cryomorph.likelihood.base import Likelihood
from cryomorph.particles.batch import ParticleBatch
from cryomorph.particles.loader import prefetch
from cryomorph.particles.stack import ParticleStack
from cryomorph.progress import Progress, Silent

VERSION = 1
"""Of what windows hold: to be raised whenever the same input gives other windows."""
IMAGES_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class WindowStore:
    """Gives out batches with windows instead of images.

    Attributes
    ----------
    stack
        The particles.
    path
        The file, an array (particles, samples).
    """

    stack: ParticleStack
    path: Path

    @classmethod
    def open(
        cls,
        folder: Path,
        stack: ParticleStack,
        likelihood: Likelihood,
        rows: Rows,
        reference: float,
        dtype: str,
        progress: Progress | None = None,
    ) -> Self:
        """Open the windows of a stack; make them first if they are not there, or made from something else.

        Parameters
        ----------
        folder
            For the file, whose name tells what it was made from. Other windows there are removed.
        stack
            The particles.
        likelihood
            Weights and transfer.
        rows
            Which samples are kept; on the device that is to compute.
        reference
            σ in Å of the narrowest bead.
        dtype
            float16 or float32.
        progress
            Told of every image.
        """
        path = folder / f"windows-{_fingerprint(stack, likelihood, rows, reference, dtype)}.npy"
        if not _complete(path, (len(stack), len(rows)), dtype):
            for stale in folder.glob("windows-*.npy"):
                stale.unlink()
            _make(path, stack, likelihood, rows, reference, dtype, progress or Silent())
        return cls(stack, path)

    def batch(self, rows: NDArray[np.int64]) -> ParticleBatch:
        """Return some particles with their windows, on the CPU."""
        batch = self.stack.batch(rows, images=False)
        # Mapped anew each time: pages that were read do not stay counted as this process's memory.
        windows = np.load(self.path, mmap_mode="r", allow_pickle=False)
        batch.statistic = torch.from_numpy(np.ascontiguousarray(windows[rows]))
        return batch


def _make(
    path: Path,
    stack: ParticleStack,
    likelihood: Likelihood,
    rows: Rows,
    reference: float,
    dtype: str,
    progress: Progress,
) -> None:
    parts = np.array_split(np.arange(len(stack)), -(-len(stack) // IMAGES_AT_ONCE))
    device = rows.first.device
    progress.start("matched filter", len(stack))
    try:
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (len(stack), len(rows))}
            np.lib.format.write_array_header_1_0(file, header)
            for batch in prefetch(stack, parts):
                filtered = filtered_windows(likelihood, batch.to(device), rows, reference)
                file.write(_stored(filtered.cpu().numpy(), dtype).tobytes())
                progress.advance(len(batch))
    finally:
        progress.finish()


def _stored(windows: NDArray[np.float32], dtype: str) -> NDArray[np.floating]:
    largest = float(np.finfo(dtype).max)
    if not np.abs(windows).max() < largest:
        raise InputError(
            f"matched-filtered images reach beyond {largest:g}, too bright for {dtype}: are the images normalised? "
            "Else set likelihood.storage to float32"
        )
    return windows.astype(dtype)


def _complete(path: Path, shape: tuple[int, int], dtype: str) -> bool:
    try:
        windows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return bool(windows.shape == shape and windows.dtype == np.dtype(dtype))


def _fingerprint(stack: ParticleStack, likelihood: Likelihood, rows: Rows, reference: float, dtype: str) -> str:
    """Digest of everything that windows depend on."""
    table = stack.table
    digest = hashlib.sha256()
    constants = (VERSION, dtype, reference, stack.box, stack.background_radius, rows.size, len(rows))
    digest.update(repr((*constants, OVERSAMPLING, footprints.SUPPORT, stack.source_box.tolist())).encode())
    for file in stack.files:
        status = file.path.stat()
        digest.update(repr((str(file.path), status.st_size, status.st_mtime_ns)).encode())
    per_particle = (table.pixel_size, table.optics_group, table.shift, table.sign, table.frame, stack.file_index)
    optics = (table.defocus_u, table.defocus_v, table.astigmatism_angle, table.voltage, table.spherical_aberration)
    for values in (*per_particle, *optics, table.amplitude_contrast, table.phase_shift, table.b_factor):
        digest.update(np.ascontiguousarray(values).tobytes())
    if likelihood.selection is not None:
        digest.update(likelihood.selection.patterns.cpu().numpy().tobytes())
    if likelihood.calibration is not None:
        for shells in (likelihood.calibration.noise, likelihood.calibration.signal):
            digest.update(shells.cpu().numpy().tobytes())
    return digest.hexdigest()[:24]
