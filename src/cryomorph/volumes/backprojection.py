"""Maps from particles: back-projection in Fourier space, with the contrast transfer corrected.

Each coefficient of an image is a sample of the map's transform on a plane through the origin (for a map V, pose R and
contrast transfer h, `y(k) = s h(k) V(Rᵀ (k, 0)) + noise`). It goes to the eight points of an oversampled grid about
its place. With the noise's power n, a point's value is `Σ w s h y / n / (Σ w s² h² / n + regularisation)`: the weights
w are those of trilinear interpolation, whose transform is divided out at the end.
"""

from dataclasses import dataclass

import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray

from cryomorph.fourier import band, image_coefficients
from cryomorph.optics import ctf
from cryomorph.parallel import use_torch_threads
from cryomorph.particles.batch import ParticleBatch
from cryomorph.selection import Selection

Array = NDArray[np.floating]

PADDING = 2
"""Oversampling of the grid."""
PLANES = 8
"""Of the grid, that one thread fills at a time."""
LEAST_SHARE, LEAST_LEVEL = 0.05, 1e-3
"""Regularisation of half maps, as a share of the mean weight of a point's shell, and of the strongest shell's."""


@dataclass(frozen=True, eq=False)
class Optics:
    """What is known of the images of each optics group.

    Attributes
    ----------
    gain : array (groups,)
        Strength of the particle in the images of a group; only ratios matter.
    noise : array (groups, shells)
        Power of the noise in each shell of the images, 1 for white noise.
    """

    gain: Array
    noise: Array

    @classmethod
    def alike(cls, groups: int) -> "Optics":
        """All groups the same, noise white."""
        return cls(np.ones(groups), np.ones((groups, 1)))


class BackProjection:
    """Sums over images in Fourier space, of two halves of the particles.

    Parameters
    ----------
    box
        D, voxels along an edge of the map, and pixels of the images.
    pixel_size
        Of the map in Å. Images may have others.
    optics
        Of the images.
    highest
        Fourier index up to which the map is made; `band(box)` if not given.
    fitted
        Coefficients of each image that something was fitted to; the sums over the others, which are free of it, are
        kept apart, so that they make maps by themselves. None takes no heed.

    Attributes
    ----------
    count : array (2,)
        Images in each half.
    """

    def __init__(
        self,
        box: int,
        pixel_size: float,
        optics: Optics,
        *,
        highest: int | None = None,
        fitted: Selection | None = None,
    ) -> None:
        self.box, self.pixel_size, self.optics = box, pixel_size, optics
        self.highest = min(band(box), highest or band(box))
        self.has_free = fitted is not None
        self._free = np.zeros((1, 2 * band(box) + 1, band(box) + 1), dtype=np.bool_)
        if fitted is not None:
            self._free = fitted.complement.plane.numpy()
        reach = PADDING * self.highest + 1
        parts = 4 if self.has_free else 2
        self._sums = np.zeros((parts, 2 * reach + 1, 2 * reach + 1, reach + 2, 3), dtype=np.float32)
        self.count = np.zeros(2, dtype=np.int64)
        self._gain = optics.gain / np.mean(optics.gain)

    def add(self, batch: ParticleBatch, rotation: Array, shift: Array, half: NDArray[np.integer]) -> None:
        """Add images.

        Parameters
        ----------
        batch
            With images (b, D, D), on the CPU.
        rotation, shift
            Poses of these particles, map frame to image frame, shapes (b, 3, 3) and (b, 2), the latter in Å.
        half
            0 or 1, shape (b,).
        """
        from cryomorph.volumes._kernels import insert

        if batch.image is None:
            raise ValueError("back-projection needs the images of the batch")
        box, middle = self.box, band(self.box)
        coefficients = image_coefficients(batch.image).contiguous()
        group, size = batch.optics_group.numpy(), batch.pixel_size.double().numpy()
        frequency = np.arange(-middle, middle + 1) / (box * size[:, None])  # 1/Å
        step = torch.from_numpy(frequency).float()
        transfer = ctf(step[:, None, middle:], step[:, :, None], batch.ctf)
        # Coefficients are sums over pixels: smaller pixels make them larger.
        scale = self._gain[group] * (self.pixel_size / size) ** 2
        transfer *= torch.from_numpy(scale).float()[:, None, None]
        phases = [np.exp(2j * np.pi * frequency * shift[:, axis, None]).astype(np.complex64) for axis in (0, 1)]
        stretch = PADDING * self.pixel_size / size
        axes = (np.asarray(rotation)[:, :2] * stretch[:, None, None]).astype(np.float32)
        use_torch_threads()
        insert(
            self._sums,
            np.asarray(half, dtype=np.int64),
            self._free,
            batch.index.numpy() % len(self._free),
            coefficients.numpy(),
            transfer.contiguous().numpy(),
            (1 / self.optics.noise[group]).astype(np.float32),
            np.ascontiguousarray(phases[0][:, middle:]),
            phases[1],
            np.ascontiguousarray(axes[:, 0]),
            np.ascontiguousarray(axes[:, 1]),
            self.highest,
            max(torch.get_num_threads(), self._sums.shape[1] // PLANES),
        )
        self.count += np.bincount(half, minlength=2)

    def half_map(self, half: int) -> NDArray[np.float32]:
        """Map (D, D, D), z, y, x, of one half of the images, 0 or 1; noise is not filtered."""
        sums = self._of_half(half)
        level = self._shell_means(sums)
        return self._map(sums, LEAST_SHARE * level + LEAST_LEVEL * level.max())

    def free_map(self, half: int | None = None) -> NDArray[np.float32]:
        """Map (D, D, D) of the free coefficients of one half of the images, or of all of them.

        They are few, so that each counts by how well it was measured: the filter for signal as strong as the noise.
        """
        if not self.has_free:
            raise ValueError("no coefficients were kept apart")
        chosen = self._sums[-1] + self._sums[-2] if half is None else self._sums[-1 - half].copy()
        sums = _symmetric(chosen)
        return self._map(sums, self._shell_means(sums))

    def full_map(self, correlation: Array) -> NDArray[np.float32]:
        """Map (D, D, D), z, y, x, of all images: the Wiener filter, the signal's power from the half maps' correlation.

        Parameters
        ----------
        correlation
            Fourier shell correlation of the half maps, shape (band(D) + 1,). Beyond the first shell that is not
            correlated nothing is left.
        """
        sums = self._of_half(0)
        sums += self._of_half(1)
        level = self._shell_means(sums)
        correlated = np.clip(correlation, 0, 0.999)
        ended = np.flatnonzero(correlated[1:] <= 0)
        if len(ended):
            correlated[ended[0] + 1 :] = 0
        signal_to_noise = 2 * correlated / (1 - correlated)  # of both halves together
        with np.errstate(divide="ignore"):
            known = signal_to_noise[: len(level)]
            regularisation = np.where(known > 0, level / known, np.inf)
        return self._map(sums, regularisation)

    def _of_half(self, half: int) -> NDArray[np.float32]:
        """Return the sums over all coefficients of one half."""
        sums: NDArray[np.float32] = self._sums[half].copy()
        if self.has_free:
            sums += self._sums[-1 - half]
        return _symmetric(sums)

    def _shell_means(self, sums: NDArray[np.float32]) -> NDArray[np.float64]:
        """Mean weight of the grid's points in each shell, shape (highest + 1,)."""
        from cryomorph.volumes._kernels import shell_weights

        total = np.zeros((2, self.highest + 1))
        shell_weights(sums, PADDING, total)
        return np.asarray(total[0] / total[1])

    def _map(self, sums: NDArray[np.float32], regularisation: NDArray[np.float64]) -> NDArray[np.float32]:
        """Divide the sums (z, y, x, 3), transform, and divide out the interpolation."""
        from cryomorph.volumes._kernels import divide

        box, size = self.box, PADDING * self.box
        spectrum = np.zeros((size, size, size // 2 + 1), dtype=np.complex64)
        divide(sums, PADDING, regularisation, spectrum)
        # The map's origin is the first voxel of what this gives.
        workers = torch.get_num_threads()
        padded = scipy.fft.irfftn(spectrum, s=(size, size, size), overwrite_x=True, workers=workers)
        inside = np.arange(box) - box // 2
        density = padded[np.ix_(inside % size, inside % size, inside % size)]
        kernel = np.sinc(inside / size).astype(np.float32) ** 2
        density /= kernel[:, None, None] * kernel[:, None] * kernel
        return np.asarray(density, dtype=np.float32)


def _symmetric(sums: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give the plane x = 0 also what was inserted at its mirror image."""
    sums[:, :, 0] += sums[::-1, ::-1, 0] * np.array([1, -1, 1], dtype=np.float32)
    return sums
